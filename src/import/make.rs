//! What the systems have in common: URLs, headers, methods and times, made into keys of a connection.

use std::time::Duration;

use serde_json::{Value as Json, json};
use url::Url;

use super::draft::Draft;
use super::out::Out;
use crate::connection::headers::{header_name, header_value, names_secret};
use crate::connection::template::has_placeholders;
use crate::units::HumanDuration;

/// The bounds of timeouts here.
const TIMEOUT_SECS: (f64, f64) = (1.0, 60.0);

/// What a duration is called in a file.
pub(super) fn span(ms: u64) -> String {
    HumanDuration(Duration::from_millis(ms)).to_string()
}

/// Whole milliseconds of a number of these.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is clamped to what fits"
)]
pub(super) fn whole(number: f64) -> u64 {
    number.clamp(0.0, 1e15).round() as u64
}

/// A timeout in seconds, brought within the bounds.
pub(super) fn timeout(draft: &mut Draft, out: &mut Out, field: &str, here: &str, seconds: f64) {
    let (least, most) = TIMEOUT_SECS;
    let bounded = seconds.clamp(least, most);
    draft.set(here, span(whole(bounded * 1000.0)));
    if (bounded - seconds).abs() < f64::EPSILON {
        out.carried(field, here);
    } else {
        out.changed(field, here, &format!("{seconds} s; a timeout is 1 s to 60 s here"));
    }
}

/// Sets the URL. One that cannot be delivered to is reported, and `None` comes back.
pub(super) fn url(
    draft: &mut Draft,
    out: &mut Out,
    field: &str,
    text: &str,
    secret: &str,
) -> Option<Url> {
    let mut url = match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => url,
        Ok(_) => {
            out.dropped(field, "is no http or https URL; the connection is left out");
            return None;
        }
        Err(error) => {
            out.dropped(field, &format!("is no URL ({error}); the connection is left out"));
            return None;
        }
    };
    let mut notes = Vec::new();
    if url.fragment().is_some() {
        url.set_fragment(None);
        notes.push("a fragment is never sent".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        let user = decoded(url.username());
        let password = url.password().map(decoded);
        // Neither can fail for a URL that has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let what = format!("the password of {user} in the URL");
        match out.secret(secret, password.as_deref(), &what) {
            Some(reference) => {
                draft.set_in("auth.basic", "username", user);
                draft.set_in("auth.basic", "password", reference);
                notes.push("user and password of the URL became auth.basic".to_owned());
            }
            None => notes.push("user and password of the URL were left out".to_owned()),
        }
    }
    let mut written = url.to_string();
    if has_placeholders(&written) {
        written = written.replace("{{", "%7B%7B");
        notes.push("{{ would begin a placeholder here and is percent-encoded".to_owned());
    }
    if written.contains("${") || written.contains("#{") {
        notes.push("a variable of theirs stands in it as text; see [variables]".to_owned());
    }
    draft.set("url", written);
    if notes.is_empty() {
        out.carried(field, "url");
    } else {
        out.changed(field, "url", &notes.join("; "));
    }
    Some(url)
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A header of the input: the field that it stands in, its name and value.
pub(super) type Header = (String, String, String);

/// Sets headers. Values that are secrets by their names become files; repeated names become lists.
pub(super) fn headers(draft: &mut Draft, out: &mut Out, headers: Vec<Header>, connection: &str) {
    let mut made: Vec<(String, String, Vec<Json>)> = Vec::new();
    for (field, name, value) in headers {
        let value = value.trim().to_owned();
        if name.trim().eq_ignore_ascii_case("host") {
            draft.set("host_header", value);
            out.carried(&field, "host_header");
            continue;
        }
        let legal = header_name(name.trim()).and_then(|name| {
            header_value(value.as_bytes())?;
            Ok(name)
        });
        let key = match legal {
            Ok(name) => name.as_str().to_owned(),
            Err(message) => {
                out.dropped(&field, &message);
                continue;
            }
        };
        let here = format!("headers.{}", name.trim());
        let placeholder = has_placeholders(&value);
        let known = made.iter().position(|(known, ..)| *known == key);
        let repeated = known.map_or(0, |at| made.get(at).map_or(0, |(.., values)| values.len()));
        let json = if names_secret(&key) || placeholder {
            let number = if repeated == 0 { String::new() } else { format!("-{}", repeated + 1) };
            let file = format!("{connection}.header.{key}{number}");
            match out.secret(&file, Some(&value), &format!("the header {}", name.trim())) {
                Some(reference) => {
                    let why = if placeholder {
                        "{{ would begin a placeholder here; the value is in a file of its own"
                    } else {
                        "the value is in a file of its own"
                    };
                    out.noted(&field, &here, why);
                    reference
                }
                None => {
                    out.dropped(&field, "its value is masked in the file");
                    continue;
                }
            }
        } else {
            if repeated == 0 {
                out.carried(&field, &here);
            } else {
                out.changed(&field, &here, "a repeated header is a list here, and is sent twice");
            }
            json!(value)
        };
        match known.and_then(|at| made.get_mut(at)) {
            Some((.., values)) => values.push(json),
            None => made.push((key, name.trim().to_owned(), vec![json])),
        }
    }
    for (_, name, mut values) in made {
        let value = if values.len() == 1 { values.remove(0) } else { Json::Array(values) };
        draft.set_in("headers", &name, value);
    }
}

/// The methods that are sent here.
const METHODS: [&str; 7] = ["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

/// Sets the method; `false`: there is none like it.
pub(super) fn method(draft: &mut Draft, out: &mut Out, field: &str, method: &str) -> bool {
    let method = method.trim().to_ascii_uppercase();
    if METHODS.contains(&method.as_str()) {
        draft.set("method", method.as_str());
        match method.as_str() {
            "GET" | "HEAD" => {
                out.changed(field, "method", "carried, but a GET or HEAD has no body here");
            }
            _ => out.carried(field, "method"),
        }
        return true;
    }
    let why = format!("{method} is not sent (it echoes or tunnels); the connection is left out");
    out.dropped(field, &why);
    false
}

/// Cut to so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Sets a text of bounded length.
pub(super) fn described(
    draft: &mut Draft,
    out: &mut Out,
    field: &str,
    here: &str,
    text: &str,
    most: usize,
) {
    if text.trim().is_empty() {
        out.noted(field, "", "not set");
        return;
    }
    let short = cut(text, most);
    if short == text {
        out.carried(field, here);
    } else {
        out.changed(field, here, &format!("cut to {most} characters"));
    }
    draft.set(here, short);
}

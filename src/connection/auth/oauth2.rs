//! OAuth 2.0 client credentials (RFC 6749, 4.4): the token request, made once when the configuration is loaded, and what its
//! answers mean. Who asks, and when, is `delivery`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use serde::Deserialize;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::redact::Redactor;
use crate::connection::Target;
use crate::secret::Secret;

/// A token is renewed so long before it ends, unless four fifths of its life are over later than that.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// A longer life is cut.
const LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest `error` of an answer that is shown.
const ERROR_CHARS_MAX: usize = 64;

/// The `oauth2` table of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct OAuth2 {
    /// Where tokens come from.
    pub token_url: Target,
    /// Who asks, when the credentials go into a header.
    pub authorization: Option<HeaderValue>,
    /// The body of the token request, a form; the credentials are in it when they do not go into a header.
    pub form: Secret,
    /// The client's secret, to keep it out of messages.
    client_secret: Secret,
}

/// Where the credentials go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// Into the `authorization` header, as HTTP Basic.
    Header,
    /// Into the body, as `client_id` and `client_secret`.
    Body,
}

/// What a token request says.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The client.
    pub client_id: &'r str,
    /// Its secret.
    pub client_secret: &'r Secret,
    /// What the token is for; none: what the server thinks.
    pub scopes: &'r [String],
    /// `audience`, which some servers want.
    pub audience: Option<&'r str>,
    /// Whatever else a server wants.
    pub params: &'r [(String, String)],
    /// Where the credentials go.
    pub auth_style: AuthStyle,
}

impl OAuth2 {
    /// Makes the token request.
    ///
    /// # Errors
    /// A secret that is not text.
    pub fn new(token_url: Target, request: &Request<'_>) -> Result<OAuth2, String> {
        let client_secret = super::text(request.client_secret, "the client's secret")?;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !request.scopes.is_empty() {
            form.append_pair("scope", &request.scopes.join(" "));
        }
        if let Some(audience) = request.audience {
            form.append_pair("audience", audience);
        }
        form.extend_pairs(request.params);
        let authorization = match request.auth_style {
            AuthStyle::Header => Some(authorization(request.client_id, client_secret)?),
            AuthStyle::Body => {
                form.append_pair("client_id", request.client_id);
                form.append_pair("client_secret", client_secret);
                None
            }
        };
        let form = Secret::new(form.finish());
        let client_secret = request.client_secret.clone();
        Ok(OAuth2 { token_url, authorization, form, client_secret })
    }

    /// Reads an answer of the token's server.
    ///
    /// # Errors
    /// A sentence for logs, without anything that came but the error's code.
    pub fn grant(&self, status: u16, body: &[u8]) -> Result<Grant, String> {
        if status != 200 {
            let code = serde_json::from_slice::<Refusal>(body).ok();
            let code = code.and_then(|refusal| self.shown(&refusal.error));
            let code = code.map(|code| format!(": {code}")).unwrap_or_default();
            return Err(format!("the token endpoint answered {status}{code}"));
        }
        let answer: Answer = serde_json::from_slice(body)
            .map_err(|_| "the token endpoint's answer is no JSON object with an access_token")?;
        if let Some(kind) = &answer.token_type
            && !kind.eq_ignore_ascii_case("bearer")
        {
            return Err("the token endpoint gave a token that is not of type bearer".to_owned());
        }
        let header = super::bearer::value(answer.access_token.as_bytes())
            .map_err(|error| format!("the token endpoint's answer cannot be used: {error}"))?;
        let life = answer.expires_in.and_then(seconds);
        Ok(Grant { header, life: life.map(|life| life.min(LIFE_MAX)) })
    }

    /// The code of an error (RFC 6749, 5.2), if it is one that can be shown.
    fn shown(&self, code: &str) -> Option<String> {
        let plain = |c: char| (' '..='~').contains(&c) && c != '"' && c != '\\';
        if code.is_empty() || code.len() > ERROR_CHARS_MAX || !code.chars().all(plain) {
            return None;
        }
        let mut shown = code.as_bytes().to_vec();
        Redactor::of_secrets([self.client_secret.expose()]).redact(&mut shown);
        String::from_utf8(shown).ok()
    }
}

/// Both parts are encoded as in a form before they are put together (RFC 6749, 2.3.1).
fn authorization(client_id: &str, client_secret: &str) -> Result<HeaderValue, String> {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(client_id), encode(client_secret));
    let value = format!("Basic {}", BASE64.encode(pair));
    super::header_value(value.as_bytes(), "the client's secret")
}

/// A token as it came (RFC 6749, 5.1).
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: Option<String>,
    /// Some servers write the number as a string.
    expires_in: Option<serde_json::Value>,
}

/// A refusal as it came (RFC 6749, 5.2).
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

fn seconds(value: serde_json::Value) -> Option<Duration> {
    let seconds = match value {
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok()?,
        other => other.as_f64()?,
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// `Bearer …`, sensitive.
    pub header: HeaderValue,
    /// How long it is good for; `None` when the server did not say: until it is refused.
    pub life: Option<Duration>,
}

impl Grant {
    /// How long after it came it is to be renewed; `None`: when it is refused.
    pub fn renew_after(&self) -> Option<Duration> {
        let life = self.life?;
        Some((life / 5 * 4).max(life.saturating_sub(RENEW_BEFORE)))
    }
}

#[cfg(test)]
mod tests;

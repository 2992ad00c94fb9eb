//! Targets that read rules of the payload, and events by them.

use crate::clock::Age;
use crate::connection::Target;
use crate::connection::filter::Filter;
use crate::connection::json::Json;
use crate::connection::parts::Parts;
use crate::connection::template::{Context, FILLED_BYTES_MAX, Template};
use crate::connection::transform::{Made, Transform, path};
use crate::event::{ContentBuilder, Event, EventId};

/// The first line is a filter, the rest an event's body.
pub fn filter(data: &[u8]) {
    let (rule, body) = split(data);
    let event = event(body);
    let parts = Parts::new(&event);
    if let Ok(json) = parts.body() {
        let written = json.to_string();
        let again = Json::parse(written.as_bytes());
        assert_eq!(again.map(|again| again.to_string()).as_ref(), Ok(&written), "{json:?}");
    }
    let Ok(rule) = Json::parse(rule) else {
        return;
    };
    match Filter::compile(&rule) {
        Ok(filter) => {
            let judgement = filter.judge(&parts);
            let (again, reasons) = filter.explain(&parts);
            assert_eq!(again, judgement);
            assert_eq!(reasons.is_empty(), judgement.matches, "{reasons:?}");
            let again = Json::parse(filter.as_str().as_bytes()).map(|json| Filter::compile(&json));
            assert_eq!(again.as_ref(), Ok(&Ok(filter)));
        }
        Err(errors) => assert!(!errors.is_empty(), "refused without a reason"),
    }
}

/// The first line is a text with placeholders, the rest an event's body.
pub fn template(data: &[u8]) {
    let (text, body) = split(data);
    let text = String::from_utf8_lossy(text);
    let event = event(body);
    let parts = Parts::new(&event);
    let context = Context { parts: &parts, attempt: 1 };
    match Template::parse(&text) {
        Ok(template) => {
            assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template));
            if let Ok(value) = template.header(context) {
                let control = |byte: &u8| *byte != b'\t' && (*byte < 0x20 || *byte == 0x7f);
                assert!(value.len() <= FILLED_BYTES_MAX && !value.as_bytes().iter().any(control));
            }
        }
        Err(error) => assert!(error.at <= text.len() && !error.message.is_empty()),
    }
    let url = format!("http://example.com:81/a/{text}");
    if let Ok(target) = Target::parse(&url) {
        assert_eq!((target.host.as_str(), target.port), ("example.com", 81), "{url}");
        assert_eq!(Target::parse(&target.url).as_ref(), Ok(&target), "shown as {}", target.url);
        if let Some(Ok(filled)) = target.template.as_ref().map(|template| template.fill(context)) {
            assert!(
                filled.starts_with('/') && filled.bytes().all(|byte| byte.is_ascii_graphic()),
                "{filled}"
            );
            let path = filled.split('?').next().unwrap_or_default();
            assert!(!path.split('/').any(|part| part == ".." || part == "."), "{filled}");
        }
    }
    transform(&text, context);
}

/// One change of each kind, at a path and with a value that the text says.
fn transform(text: &str, context: Context<'_, '_>) {
    let (Ok(to), Ok(made)) = (path(&format!("body.{text}")), Made::parse(&Json::text(text))) else {
        return;
    };
    for transform in [
        Transform { pick: vec![to.clone()], ..Transform::default() },
        Transform { remove: vec![to.clone()], ..Transform::default() },
        Transform { set: vec![(to, made)], ..Transform::default() },
    ] {
        if let Ok(body) = transform.apply(context, 10_000) {
            assert!(body.len() <= 10_000 && Json::parse(&body).is_ok());
        }
    }
}

fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (data.get(..at).unwrap_or_default(), data.get(at + 1..).unwrap_or_default()),
        None => (data, b"{}"),
    }
}

fn event(body: &[u8]) -> Event {
    let mut builder = ContentBuilder::new("shop", "order.created", "", body.len());
    for (name, value) in
        [("x-tenant", "acme"), ("x-tag", "a"), ("x-tag", "b"), (":query", "a=1&a=2")]
    {
        builder.header(name, value.as_bytes());
    }
    builder.body(body);
    Event {
        id: EventId::new(0, &mut fastrand::Rng::with_seed(1)),
        accepted_ms: 0,
        accepted_age: Age(0),
        content: builder.finish(),
    }
}

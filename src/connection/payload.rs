//! What a connection takes of an event, and what it makes of it: filter and dedupe decide at acceptance, the rest shapes the
//! request at each attempt, by the connection as it is then. A connection that uses none of it has no [`Payload`] at all.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};

use super::dedupe::{Dedupe, Fields};
use super::filter::Filter;
use super::keeps::Keeps;
use super::parts::Parts;
use super::path::Path;
use super::template::{Context, Template, join};
use super::transform::Transform;
use super::{Connection, Target};
use crate::event::{Cause, Event};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload {
    /// Which events it takes; `None`: all.
    pub filter: Option<Filter>,
    /// Which events are the same.
    pub dedupe: Option<Dedupe>,
    /// What it makes of a JSON body.
    pub transform: Option<Transform>,
    /// Headers with placeholders, in the file's order.
    pub header_templates: Vec<(HeaderName, Template)>,
    /// The method is that of the producer's request.
    pub inherit_method: bool,
    /// Headers of the producer's request that go on.
    pub forward_headers: Vec<HeaderName>,
    /// The producer's path goes on, below the URL's own.
    pub forward_path: bool,
    /// The producer's query goes on, after the URL's own.
    pub forward_query: bool,
}

/// What one request has instead of what all requests of its connection share.
#[derive(Clone, Debug, PartialEq)]
pub struct Shaped {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path_and_query: PathAndQuery,
    /// Headers besides the shared ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body where it is not the event's; empty for a method that sends none.
    pub body: Option<Bytes>,
    /// What a transformed body is, where the event's own `content-type` does not say so.
    pub content_type: Option<HeaderValue>,
}

/// Why no request can be made of an event. Trying again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Unsendable {
    /// `template` or `transform`.
    pub cause: Cause,
    /// Where and why.
    pub detail: String,
}

impl Connection {
    /// Whether its requests differ from each other by more than body, content type and attempt.
    pub fn is_shaped(&self) -> bool {
        let by_payload = self.payload.as_ref().is_some_and(|payload| payload.shapes());
        by_payload || self.target.template.is_some()
    }

    /// Makes what is particular of one request.
    ///
    /// # Errors
    /// [`Unsendable`]: a dead letter.
    pub fn shape(&self, event: &Event, attempt: u32) -> Result<Shaped, Unsendable> {
        let none = Payload::default();
        let payload = self.payload.as_deref().unwrap_or(&none);
        let parts = Parts::new(event);
        let context = Context { parts: &parts, attempt };
        let method = payload.method(&self.method, &parts);
        let path_and_query = payload.path_and_query(&self.target, context)?;
        let headers = payload.headers(self, context)?;
        let mut shaped = Shaped { method, path_and_query, headers, body: None, content_type: None };
        if !sends_body(&shaped.method) {
            shaped.body = Some(Bytes::new());
        } else if let Some(transform) = &payload.transform {
            let max_bytes = usize::try_from(self.max_body).unwrap_or(usize::MAX);
            let body = transform
                .apply(context, max_bytes)
                .map_err(|failed| Unsendable { cause: Cause::Transform, detail: failed.0 })?;
            shaped.body = Some(body.into());
            if transform.template.is_none() && !is_json(parts.header(CONTENT_TYPE.as_str())) {
                shaped.content_type = Some(HeaderValue::from_static("application/json"));
            }
        }
        Ok(shaped)
    }
}

/// Whether requests with this method have a body.
pub fn sends_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a `content-type` says that the body is JSON.
fn is_json(content_type: Option<&[u8]>) -> bool {
    let text = content_type.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

impl Payload {
    fn shapes(&self) -> bool {
        self.transform.is_some()
            || !self.header_templates.is_empty()
            || self.inherit_method
            || !self.forward_headers.is_empty()
            || self.forward_path
            || self.forward_query
    }

    /// What of a request its events must keep.
    pub fn keeps(&self, target: &Target) -> Keeps {
        let mut keeps = Keeps {
            headers: self.forward_headers.clone(),
            path: self.forward_path,
            query: self.forward_query,
        };
        let mut named = |name: &str| {
            if let Ok(name) = name.parse::<HeaderName>()
                && !keeps.headers.contains(&name)
            {
                keeps.headers.push(name);
            }
        };
        if let Some(filter) = &self.filter {
            filter.headers().into_iter().for_each(&mut named);
        }
        if let Some(transform) = &self.transform {
            transform.script_headers().iter().for_each(|name| named(name));
        }
        let mut paths: Vec<&Path> = Vec::new();
        match self.dedupe.as_ref().map(|dedupe| &dedupe.fields) {
            Some(Fields::Include(included)) => paths.extend(included),
            Some(Fields::Exclude(_) | Fields::Body) | None => {}
        }
        paths.extend(self.header_templates.iter().flat_map(|(_, template)| template.paths()));
        paths.extend(target.template.iter().flat_map(|template| template.paths()));
        paths.extend(self.transform.iter().flat_map(|transform| transform.paths()));
        paths.iter().filter_map(|path| path.header()).for_each(named);
        keeps.path |= self.filter.as_ref().is_some_and(Filter::reads_path);
        keeps.query |= self.filter.as_ref().is_some_and(Filter::reads_query)
            || paths.iter().any(|path| path.reads_query());
        keeps
    }

    fn method(&self, own: &Method, parts: &Parts<'_>) -> Method {
        if !self.inherit_method {
            return own.clone();
        }
        // Events keep the method where it is not POST.
        let kept = parts.header(":method").and_then(|method| Method::from_bytes(method).ok());
        kept.unwrap_or(Method::POST)
    }

    fn path_and_query(
        &self,
        target: &Target,
        context: Context<'_, '_>,
    ) -> Result<PathAndQuery, Unsendable> {
        let unsendable = |detail: String| Unsendable { cause: Cause::Template, detail };
        let parts = context.parts;
        let text = |name| {
            let bytes = parts.header(name);
            bytes
                .map(std::str::from_utf8)
                .transpose()
                .map_err(|_| unsendable("the event's path or query is not UTF-8".to_owned()))
        };
        let path = if self.forward_path { text(":path")? } else { None };
        let query = if self.forward_query { text(":query")? } else { None };
        let filled = match &target.template {
            None if path.is_none() && query.is_none() => {
                return Ok(target.path_and_query.clone());
            }
            None => target.path_and_query.as_str().to_owned(),
            Some(template) => {
                template.fill(context).map_err(|unfilled| unsendable(format!("url: {unfilled}")))?
            }
        };
        join(&filled, path, query).map_err(|unfilled| unsendable(format!("url: {unfilled}")))
    }

    fn headers(
        &self,
        connection: &Connection,
        context: Context<'_, '_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Unsendable> {
        let mut headers = Vec::with_capacity(self.header_templates.len());
        for (name, template) in &self.header_templates {
            let value = template.header(context).map_err(|unfilled| Unsendable {
                cause: Cause::Template,
                detail: format!("header {name}: {unfilled}"),
            })?;
            headers.push((name.clone(), value));
        }
        let is_own = |name: &HeaderName| {
            connection.headers.iter().any(|(own, _)| own == name)
                || self.header_templates.iter().any(|(own, _)| own == name)
        };
        let forwarded: Vec<&HeaderName> =
            self.forward_headers.iter().filter(|name| !is_own(name)).collect();
        for (kept, value) in context.parts.event().content.headers() {
            if let Some(name) = forwarded.iter().find(|name| name.as_str() == kept)
                && let Ok(value) = HeaderValue::from_bytes(value)
            {
                headers.push(((*name).clone(), value));
            }
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests;

//! Problem documents (RFC 9457): how every refusal over HTTP looks, on ingress and on the admin listener alike.
//!
//! A document has a stable `code`, which programs branch on, and a `detail` that tells a person how to mend it. `type` is a
//! URN made of the code: it names the kind of problem and is not meant to be opened.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// The media type of the documents.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The response's status.
    pub status: StatusCode,
    /// The stable name of the kind of problem: lower-case letters and `_`.
    pub code: &'static str,
    /// A short name of the kind of problem, for people.
    pub title: &'static str,
    /// What is wrong with this request and how to mend it.
    pub detail: Cow<'static, str>,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u32>,
    /// The methods that the path does take, for 405.
    pub allow: Option<String>,
    /// How to authenticate, for 401 (RFC 9110, 11.6.1).
    pub challenge: Option<&'static str>,
    /// Which item of a batch it is about, from 0: the member `index`.
    pub index: Option<usize>,
    /// Whether the HTTP connection ends with this response.
    pub close: bool,
}

impl Problem {
    /// A problem without anything more, on a connection that stays open.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem {
            status,
            code,
            title,
            detail: detail.into(),
            retry_after: None,
            allow: None,
            challenge: None,
            index: None,
            close: false,
        }
    }

    /// The document.
    pub fn json(&self) -> String {
        let mut document = serde_json::json!({
            "type": format!("urn:posthaste:problem:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let (Some(index), Some(members)) = (self.index, document.as_object_mut()) {
            members.insert("index".to_owned(), index.into());
        }
        document.to_string()
    }

    /// The whole response.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(Ok(methods)) = self.allow.map(HeaderValue::try_from) {
            headers.insert(ALLOW, methods);
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The whole response as bytes, for a connection on which the HTTP machinery has given up. It always closes.
    pub fn to_http1(&self) -> Vec<u8> {
        let body = self.json();
        let mut text = format!(
            "HTTP/1.1 {}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\nconnection: close\r\n",
            self.status,
            body.len()
        );
        // Writing to a String cannot fail.
        if let Some(seconds) = self.retry_after {
            let _ = write!(text, "retry-after: {seconds}\r\n");
        }
        if let Some(methods) = &self.allow {
            let _ = write!(text, "allow: {methods}\r\n");
        }
        text.push_str("\r\n");
        text.push_str(&body);
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Problem {
        Problem {
            retry_after: Some(2),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy", "say \"later\"")
        }
    }

    #[test]
    fn the_document_is_json_with_all_members() {
        let json: serde_json::Value = serde_json::from_str(&busy().json()).unwrap();
        let expected = serde_json::json!({
            "type": "urn:posthaste:problem:busy", "title": "Busy", "status": 503,
            "detail": "say \"later\"", "code": "busy",
        });
        assert_eq!(json, expected);
        let of_item = Problem { index: Some(3), ..busy() };
        let json: serde_json::Value = serde_json::from_str(&of_item.json()).unwrap();
        assert_eq!(json["index"], 3);
    }

    #[test]
    fn headers_follow_the_fields() {
        let allow = Some("POST".to_owned());
        let challenge = Some("Bearer");
        let response = Problem { allow, challenge, close: true, ..busy() }.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], MEDIA_TYPE);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["allow"], "POST");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(response.headers()["connection"], "close");
        assert!(!busy().into_response().headers().contains_key("connection"));
    }

    #[test]
    fn the_raw_form_is_a_whole_response() {
        let text = String::from_utf8(busy().to_http1()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains("\r\nretry-after: 2"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}

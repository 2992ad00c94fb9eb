//! Who may do what: the Unix socket is for whoever can open it, and may do all; over TCP a bearer token says who it is
//! (RFC 6750). What is open to all (`/metrics`, `/healthz`, `/readyz`) asks for nothing.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;

use super::Token;
use super::manage::{Caller, Scope};
use super::problem::Problem;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP.
    Tcp,
    /// Over the Unix socket, with its user if the kernel says.
    Unix(Option<u32>),
}

/// Who sends a request.
pub(super) fn caller(peer: Peer, headers: &HeaderMap, tokens: &[Token]) -> Caller {
    match peer {
        Peer::Unix(uid) => {
            let by = uid.map_or("unix".to_owned(), |uid| format!("unix uid {uid}"));
            Caller { by, scope: Some(Scope::Admin) }
        }
        Peer::Tcp => {
            let found = bearer(headers).and_then(|shown| find(shown, tokens));
            Caller {
                by: found.map_or("nobody".to_owned(), |token| format!("token {}", token.name)),
                scope: found.map(|token| token.scope),
            }
        }
    }
}

/// Every token is compared, and each comparison takes the same time whatever differs.
fn find<'t>(shown: &[u8], tokens: &'t [Token]) -> Option<&'t Token> {
    let mut found = None;
    for token in tokens {
        if bool::from(token.token.expose().ct_eq(shown)) {
            found = Some(token);
        }
    }
    found
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let value = all.next().filter(|_| all.next().is_none())?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

/// Lets a request pass whose caller has this scope.
pub(super) async fn require(scope: Scope, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    match caller.and_then(|caller| caller.scope) {
        Some(has) if has >= scope => next.run(request).await,
        Some(has) => Problem::new(
            StatusCode::FORBIDDEN,
            "scope",
            "Not allowed",
            format!(
                "this takes a token of scope {}, and this one has {}",
                scope.as_str(),
                has.as_str()
            ),
        )
        .into_response(),
        None => {
            let mut response = Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Unauthorized",
                "over TCP the API takes a bearer token of [admin] tokens; without one, use the admin Unix socket",
            )
            .into_response();
            let challenge = HeaderValue::from_static("Bearer realm=\"posthaste\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn tokens_say_who_it_is() {
        let token = |name: &str, scope, token: &str| Token {
            name: name.to_owned(),
            scope,
            token: Secret::new(token),
        };
        let tokens = [
            token("grafana", Scope::Read, "a-token-for-reading"),
            token("ops", Scope::Admin, "a-token-for-everything"),
        ];
        let check = |values: &[&str], expected: Option<(&str, Scope)>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            let caller = caller(Peer::Tcp, &headers, &tokens);
            let by = expected.map_or("nobody".to_owned(), |(name, _)| format!("token {name}"));
            assert_eq!(
                caller,
                Caller { by, scope: expected.map(|(_, scope)| scope) },
                "{values:?}"
            );
        };
        check(&["Bearer a-token-for-reading"], Some(("grafana", Scope::Read)));
        check(&["bearer  a-token-for-everything"], Some(("ops", Scope::Admin)));
        for wrong in [
            &[][..],
            &["Bearer a-token-for-readin"],
            &["Bearer a-token-for-readingx"],
            &["Bearer "],
            &["Bearer"],
            &["Basic a-token-for-reading"],
            &["a-token-for-reading"],
            &["Bearer a-token-for-reading", "Bearer a-token-for-everything"],
        ] {
            check(wrong, None);
        }
        let unix = caller(Peer::Unix(Some(7)), &HeaderMap::new(), &tokens);
        assert_eq!(unix, Caller { by: "unix uid 7".to_owned(), scope: Some(Scope::Admin) });
    }
}

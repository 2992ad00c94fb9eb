//! What to do about each cause, for whoever tests a connection. `docs/troubleshooting.md` says the same at more length.

use crate::event::Cause;

/// The mend.
pub(super) fn of(cause: Cause) -> &'static str {
    match cause {
        Cause::DnsFailed => "look at the name in url, then at this host's resolvers",
        Cause::ConnectRefused => "nobody listens at that address and port: is the endpoint up?",
        Cause::ConnectTimeout => "a firewall drops packets, or the endpoint is overloaded",
        Cause::ConnectReset => "something in between cut the connection: a proxy or load balancer",
        Cause::Unreachable => "this host has no way to the address: look at its network",
        Cause::TlsExpired => {
            "the endpoint must renew its certificate; look at this host's clock, too"
        }
        Cause::TlsName => "use a name of the certificate in url, or set tls.server_name",
        Cause::TlsUntrusted => {
            "set tls.ca_file for a private CA; install ca-certificates for public ones"
        }
        Cause::TlsProtocol => "is it an https port at all? TLS 1.2 is the oldest that is spoken",
        Cause::TlsClientCert => {
            "set tls.client_cert and tls.client_key to what the endpoint expects"
        }
        Cause::ProxyFailed => "look at the proxy and its credentials; the endpoint was not reached",
        Cause::RequestTimeout => {
            "the endpoint is slow: raise request_timeout, or mend the endpoint"
        }
        Cause::BodyTimeout | Cause::ResponseTooLarge => {
            "only the body of the refusal was cut; the status says what is wrong"
        }
        Cause::Protocol => {
            "what listens there speaks no HTTP that we speak; look at scheme and port"
        }
        Cause::HttpStatus => {
            "the endpoint refuses the event: look at its answer, at url, method and auth"
        }
        Cause::Redirect => "redirects are not followed: put the new address into url",
        Cause::Gone => "the endpoint says that it is no more; ask its owner",
        Cause::AuthToken => {
            "look at token_url, client_id and client_secret, and at the secrets to sign with"
        }
        Cause::EgressBlocked => "the address is forbidden: see [security] egress, and egress.allow",
        Cause::Template => {
            "the event lacks what url or a header takes from it; try it with a body of your own"
        }
        Cause::Transform => {
            "the transform failed for this event; `posthaste transform test` shows more"
        }
        Cause::TooLarge => "the event is larger than max_body",
        Cause::QueueFull | Cause::Expired | Cause::Cancelled | Cause::Internal => {
            "this should not happen in a test; please report it"
        }
    }
}

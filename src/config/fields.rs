//! Every key of the configuration, in one table per object: its kind, bounds, default and meaning. The reader walks these
//! tables; the commented sample `config/posthaste.toml` is compared with them by a test.

use std::time::Duration;

use crate::connection::path::PATH_BYTES_MAX;
use crate::connection::status::Purpose;

mod alert;
mod auth;
pub(super) mod payload;
pub(super) use alert::ALERT;

/// One key.
#[derive(Debug)]
pub struct Field {
    /// Its name in the file.
    pub key: &'static str,
    /// What may be written.
    pub kind: Kind,
    /// What it is when nothing is written, as TOML.
    pub default: Standard,
    /// One sentence.
    pub doc: &'static str,
}

/// What a key is when nothing is written.
#[derive(Clone, Copy, Debug)]
pub enum Standard {
    /// This, as TOML.
    Toml(&'static str),
    /// Depends on other settings or on the machine; the text is an example, the doc says how.
    Computed(&'static str),
    /// Nothing; the text is an example.
    None(&'static str),
    /// Must be written; the text is an example.
    Required(&'static str),
}

/// What may be written.
#[derive(Debug)]
pub enum Kind {
    /// A string of at most so many characters.
    Text(usize),
    /// `^[A-Za-z0-9][A-Za-z0-9_-]{0,154}$`.
    Name,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer(u64, u64),
    /// A number within bounds.
    Number(f64, f64),
    /// A duration within bounds.
    Span(Duration, Duration),
    /// A size in bytes within bounds.
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A request method.
    Method,
    /// Where a connection delivers to.
    Url,
    /// A path; a relative one counts from the file that it is written in.
    Path,
    /// A path or `"off"`.
    PathOrOff,
    /// An address and a port.
    Address,
    /// An address and a port, or `"off"`.
    AddressOrOff,
    /// Permission bits of a file, in octal.
    Mode,
    /// A host's name or address that TLS can verify.
    ServerName,
    /// A set of statuses.
    Statuses(Purpose),
    /// A list of at least and at most so many.
    List(&'static Kind, usize, usize),
    /// A table of these keys.
    Table(&'static [Field]),
    /// Exactly one of these sub-tables. A layer above replaces it whole.
    OneOf(&'static [Field]),
    /// A secret: a reference, or a string, which is warned about.
    Secret,
    /// A secret that may say when it ends: `{ env = "X", until = 2027-01-01T00:00:00Z }`.
    DatedSecret,
    /// An instant with its offset (RFC 3339), as a string or as TOML's own.
    Stamp,
    /// A range of addresses: `10.0.0.0/8`; an address alone is a range of one.
    Cidr,
    /// Any value; what it must look like, its own parser says. See [`super::tree`].
    Tree,
    /// A table of any keys with strings.
    Labels,
    /// A table of header names with strings, secrets, or lists of these.
    Headers,
    /// A table of environment names with connection fields.
    Overlays,
    /// A table of connection fields.
    Defaults,
    /// `[variables]`, which are read before everything else.
    Variables,
}

use Kind::*;
use Standard::{Computed, Required, Toml};

const fn field(key: &'static str, kind: Kind, default: Standard, doc: &'static str) -> Field {
    Field { key, kind, default, doc }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The largest pool, and so the most attempts of one connection at a time.
pub const POOL_MAX: u64 = 1024;
/// Header lines of one connection.
pub const HEADERS_MAX: usize = 64;
/// Bytes of names and values of one connection's headers together.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Labels of one connection.
pub const LABELS_MAX: usize = 64;
/// Characters of a label's key or value.
pub const LABEL_CHARS_MAX: usize = 255;

/// The daemon's own file.
#[rustfmt::skip]
pub static ROOT: &[Field] = &[
    field("environment", Name, Standard::None("\"production\""), "Which [connection.env.NAME] overlays apply. $POSTHASTE_ENV wins over this."),
    field("reload", Choice(&["auto", "manual"]), Toml("\"auto\""), "auto: files are watched; manual: only on SIGHUP or request."),
    field("drain_timeout", Span(Duration::ZERO, secs(HOUR)), Toml("\"20s\""), "How long attempts may go on after SIGTERM."),
    field("connections", Path, Toml("\"connections.d\""), "The directory of connection files, relative to this file."),
    field("ingress", Table(INGRESS), Toml("{}"), "Where events come in."),
    field("admin", Table(ADMIN), Toml("{}"), "Where operators look and act."),
    field("store", Table(STORE), Toml("{}"), "Where events are kept until they are delivered."),
    field("variables", Variables, Standard::None("{ region = \"eu\" }"), "Texts that stand in any string of any file as {{ var.NAME }}; [variables.env.NAME] says what is different in one environment."),
    field("limits", Table(LIMITS), Toml("{}"), "What the daemon takes at most."),
    field("security", Table(SECURITY), Toml("{}"), "What connections may do."),
    field("network", Table(NETWORK), Toml("{}"), "How names of targets are looked up."),
    field("log", Table(LOG), Toml("{}"), "What goes to standard error."),
    field("runtime", Table(RUNTIME), Toml("{}"), "Threads."),
    field("source", List(&Table(SOURCE), 0, 1000), Standard::None("[{ name = \"shop\", durability = \"relaxed\" }]"), "[[source]]: how posts to one source are treated. See docs/ingress.md."),
    field("alert", List(&Table(ALERT), 0, alert::ALERTS_MAX), Standard::None("[{ name = \"ops\", on = [\"disabled\"], to = \"pager\" }]"), "[[alert]]: what is told to a connection of posthaste itself, as an event. See docs/alerts.md."),
    field("defaults", Defaults, Toml("{}"), "Any connection field but name, renamed_from and env: what connections use that do not say otherwise."),
];

/// `[ingress]`
#[rustfmt::skip]
pub static INGRESS: &[Field] = &[
    field("http", List(&Address, 0, 64), Toml("[\"127.0.0.1:8377\"]"), "Addresses to listen on. Needs a restart."),
    field("unix", Table(UNIX), Standard::None("{ path = \"/run/posthaste/ingress.sock\", mode = \"0660\", allow_uids = [] }"), "A Unix socket to listen on as well. Needs a restart."),
    field("max_connections", Integer(1, 1_000_000), Toml("4096"), "Open connections of producers at most."),
    field("header_timeout", Span(ms(100), secs(HOUR)), Toml("\"10s\""), "From a request's first byte to the end of its head."),
    field("body_timeout", Span(ms(100), secs(HOUR)), Toml("\"30s\""), "From the end of the head to the end of the body."),
    field("idle_timeout", Span(ms(100), secs(DAY)), Toml("\"75s\""), "An idle connection is closed after this."),
    field("hosts", List(&Text(255), 0, 256), Toml("[]"), "Host names that requests to a loopback listener may come with, besides localhost and loopback addresses."),
];

/// `[ingress] unix`
#[rustfmt::skip]
pub static UNIX: &[Field] = &[
    field("path", Path, Required("\"/run/posthaste/ingress.sock\""), "Where the socket is made."),
    field("mode", Mode, Toml("\"0660\""), "Its permission bits."),
    field("allow_uids", List(&Integer(0, u32::MAX as u64), 0, 1024), Toml("[]"), "Users that may post; none named means all that can open the socket."),
];

/// `[admin]`
#[rustfmt::skip]
pub static ADMIN: &[Field] = &[
    field("http", AddressOrOff, Toml("\"127.0.0.1:8378\""), "For /metrics, /healthz and /readyz, and for the API with a token; \"off\" for none. Needs a restart."),
    field("tokens", List(&Table(TOKEN), 0, 64), Standard::None("[{ name = \"ops\", scope = \"operate\", token = { env = \"POSTHASTE_OPS_TOKEN\" } }]"), "Who may use the API over http; without any, only the Unix socket has it."),
    field("unix", PathOrOff, Computed("\"/run/posthaste/admin.sock\""), "For the command line; \"off\" for none. Unprivileged: $XDG_RUNTIME_DIR/posthaste/admin.sock. Needs a restart."),
];

/// `[[admin.tokens]]`
#[rustfmt::skip]
pub static TOKEN: &[Field] = &[
    field("name", Name, Required("\"ops\""), "Who it is, for the audit log."),
    field("scope", Choice(&["read", "operate", "admin"]), Toml("\"read\""), "read looks; operate also pauses, disables, reloads and replays; admin also changes connections."),
    field("token", Secret, Required("{ env = \"POSTHASTE_OPS_TOKEN\" }"), "At least 16 bytes."),
];

/// `[store]`
#[rustfmt::skip]
pub static STORE: &[Field] = &[
    field("path", Path, Computed("\"/var/lib/posthaste\""), "The directory. Unprivileged: $XDG_STATE_HOME/posthaste. Needs a restart."),
    field("max_bytes", Size(2 * MIB, 1024 * TIB), Toml("\"10GiB\""), "What its files take at most; then ingress answers 507."),
    field("segment_bytes", Size(MIB, GIB), Toml("\"64MiB\""), "Size of one file of the log. Needs a restart."),
    field("keep_delivered", Span(Duration::ZERO, secs(365 * DAY)), Toml("\"0s\""), "How long events that went everywhere can still be looked up and replayed; \"0s\" gives their space back at once."),
    field("keep_delivered_bytes", Size(MIB, 1024 * TIB), Toml("\"1GiB\""), "What is kept of them at most. They go earlier when new events need the space."),
    field("keep_dead", Span(secs(1), secs(365 * DAY)), Toml("\"14d\""), "How long dead letters are kept."),
    field("keep_dead_bytes", Size(MIB, 1024 * TIB), Toml("\"1GiB\""), "What is kept of them at most."),
    field("keep_attempts", Span(Duration::ZERO, secs(365 * DAY)), Toml("\"14d\""), "How long failed attempts are kept on disk; \"0s\" keeps the latest in memory alone."),
    field("keep_attempts_bytes", Size(MIB, TIB), Toml("\"256MiB\""), "What is kept of them at most, beside max_bytes."),
    field("idempotency", Table(IDEMPOTENCY), Toml("{}"), "How long idempotency keys are remembered."),
];

/// `[store.idempotency]`
#[rustfmt::skip]
pub static IDEMPOTENCY: &[Field] = &[
    field("window", Span(secs(1), secs(30 * DAY)), Toml("\"24h\""), "A post with a key seen within this makes no second event. Needs a restart."),
    field("max_keys", Integer(1, 10_000_000), Toml("250000"), "Keys remembered at most, and at most max_bytes/768; the oldest fall out. Each takes up to 112 bytes of memory. Needs a restart."),
];

/// `[[source]]`
#[rustfmt::skip]
pub static SOURCE: &[Field] = &[
    field("name", Name, Required("\"shop\""), "What paths and connections call it; \"default\" is there without a table too."),
    field("methods", List(&Choice(&["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]), 1, 7), Toml("[\"POST\"]"), "The methods that make an event."),
    field("auth", OneOf(SOURCE_AUTH), Standard::None("{ bearer = { tokens = [{ env = \"SHOP_TOKEN\" }] } }"), "Who may post: one of bearer, basic, hmac and standard_webhooks."),
    field("response", Table(RESPONSE), Standard::None("{ status = 200, body = \"ok\" }"), "What a producer gets in the place of the 202 with its document."),
    field("durability", Choice(&["disk", "relaxed"]), Toml("\"disk\""), "relaxed: the answer does not wait for the disk, and a crash may lose the last events."),
    field("rate_limit", Table(RATE_LIMIT), Standard::None("{ limit = 100, per = \"second\", burst = 10 }"), "Posts per time; more get a 429."),
    field("cors", List(&Text(255), 0, 64), Toml("[]"), "Origins of web pages that may post, as in \"https://shop.example.com\"; [\"*\"] for all."),
];

/// `[source.auth]`
#[rustfmt::skip]
pub static SOURCE_AUTH: &[Field] = &[
    field("bearer", Table(SOURCE_BEARER), Standard::None("{ tokens = [{ env = \"SHOP_TOKEN\" }] }"), "authorization: Bearer TOKEN."),
    field("basic", Table(SOURCE_BASIC), Standard::None("{ user = \"shop\", passwords = [{ env = \"SHOP_PASSWORD\" }] }"), "authorization: Basic."),
    field("hmac", Table(SOURCE_HMAC), Standard::None("{ header = \"x-signature\", secrets = [{ env = \"SHOP_SECRET\" }] }"), "A signature over the body in a header."),
    field("standard_webhooks", Table(SOURCE_STANDARD_WEBHOOKS), Standard::None("{ secrets = [{ env = \"SHOP_SECRET\" }] }"), "webhook-id, webhook-timestamp and webhook-signature."),
];

/// `[source.auth.bearer]`
#[rustfmt::skip]
pub static SOURCE_BEARER: &[Field] = &[
    field("tokens", List(&DatedSecret, 1, 16), Required("[{ env = \"SHOP_TOKEN\" }]"), "Any of them is right, each until its end, if it has one."),
];

/// `[source.auth.basic]`
#[rustfmt::skip]
pub static SOURCE_BASIC: &[Field] = &[
    field("user", Text(255), Required("\"shop\""), "Without a colon."),
    field("passwords", List(&DatedSecret, 1, 16), Required("[{ env = \"SHOP_PASSWORD\" }]"), "Any of them is right, each until its end, if it has one."),
];

/// `[source.auth.hmac]`
#[rustfmt::skip]
pub static SOURCE_HMAC: &[Field] = &[
    field("header", Text(255), Required("\"x-hub-signature-256\""), "Where the signature stands."),
    field("algorithm", Choice(&["sha256", "sha512"]), Toml("\"sha256\""), "How it is made."),
    field("encoding", Choice(&["hex", "base64"]), Toml("\"hex\""), "How it is written."),
    field("prefix", Text(64), Standard::None("\"sha256=\""), "What stands before it, as in \"sha256=\"."),
    field("secrets", List(&DatedSecret, 1, 16), Required("[{ env = \"SHOP_SECRET\" }]"), "Any of them may have made it, each until its end, if it has one."),
];

/// `[source.auth.standard_webhooks]`
#[rustfmt::skip]
pub static SOURCE_STANDARD_WEBHOOKS: &[Field] = &[
    field("secrets", List(&DatedSecret, 1, 16), Required("[{ env = \"SHOP_SECRET\" }]"), "whsec_ secrets and whpk_ public keys; any of them may have made a signature, each until its end."),
    field("tolerance", Span(secs(1), secs(HOUR)), Toml("\"5m\""), "How far webhook-timestamp may be from now."),
];

/// `[source.response]`
#[rustfmt::skip]
pub static RESPONSE: &[Field] = &[
    field("status", Integer(200, 299), Toml("202"), "The status."),
    field("content_type", Text(255), Toml("\"text/plain; charset=utf-8\""), "The body's content type."),
    field("body", Text(1000), Standard::None("\"ok\""), "At most 1000 bytes; none is empty."),
];

/// `[limits]`
#[rustfmt::skip]
pub static LIMITS: &[Field] = &[
    field("memory", Size(MIB, TIB), Toml("\"24MiB\""), "Payloads in memory at most. Needs a restart."),
    field("max_body", Size(1, GIB), Toml("\"8MiB\""), "The largest max_body of any connection; at most store.segment_bytes/4 and memory/2."),
];

/// `[security]`
#[rustfmt::skip]
pub static SECURITY: &[Field] = &[
    field("egress", Choice(&["open", "public"]), Toml("\"open\""), "open: anything but link-local addresses and metadata services of clouds may be dialled; public: global addresses alone. egress.allow of a connection opens more."),
    field("allow_insecure_tls", Bool, Toml("false"), "Whether a connection may set tls.verify = false."),
];

/// `[network]`
#[rustfmt::skip]
pub static NETWORK: &[Field] = &[
    field("resolvers", List(&Address, 0, 8), Toml("[]"), "DNS servers; none: those of /etc/resolv.conf, as it is at the moment. /etc/hosts comes first in any case. Needs a restart."),
];

/// `[log]`
#[rustfmt::skip]
pub static LOG: &[Field] = &[
    field("level", Choice(&["error", "warn", "info", "debug", "trace"]), Toml("\"info\""), "How much is said."),
    field("format", Choice(&["auto", "text", "json"]), Toml("\"auto\""), "auto: text on a terminal, else JSON. Needs a restart."),
];

/// `[runtime]`
#[rustfmt::skip]
pub static RUNTIME: &[Field] = &[
    field("ingress_threads", Integer(1, 64), Computed("1"), "A quarter of the cores, at least one. Needs a restart."),
    field("egress_threads", Integer(1, 64), Computed("1"), "A quarter of the cores, at least one. Needs a restart."),
];

/// `[[connection]]`
#[rustfmt::skip]
pub static CONNECTION: &[Field] = &[
    field("name", Name, Required("\"orders-crm\""), "Letters, digits, - and _; unique over all files. The queue's identity."),
    field("display_name", Text(255), Standard::None("\"Orders to the CRM\""), "For people."),
    field("description", Text(1000), Standard::None("\"every order, once it is paid\""), "For people."),
    field("labels", Labels, Toml("{}"), "For people and for filters of lists: { team = \"sales\" }."),
    field("state", Choice(&["active", "paused", "disabled"]), Toml("\"active\""), "paused accepts and holds; disabled refuses."),
    field("enabled", Bool, Standard::None("true"), "Another way to write state: false is \"disabled\"."),
    field("archived", Bool, Standard::None("true"), "Disabled, and left out of lists."),
    field("sources", List(&Name, 1, 256), Toml("[\"default\"]"), "The sources that feed it."),
    field("source", Name, Standard::None("\"default\""), "Another way to write sources with one entry."),
    field("url", Url, Required("\"https://crm.example.com/hooks/orders\""), "Where it delivers to: http or https. Path and query may have placeholders: {{ event.type }}, {{ header.x }}, {{ body.a.b }}."),
    field("method", Method, Toml("\"POST\""), "POST, GET, PUT, DELETE, PATCH, HEAD or OPTIONS, or inherit: that of the producer's request. GET and HEAD send no body."),
    field("headers", Headers, Toml("{}"), "Added to each request. A value is a string (with placeholders like {{ body.id }}), a list, or a secret: { env = \"X\" }, { file = \"/path\" }, { credential = \"x\" }."),
    field("forward_headers", List(&Text(255), 0, 64), Toml("[]"), "Headers of the producer's request that go on. content-type, content-encoding and ce-* always do."),
    field("forward_path", Bool, Toml("false"), "What stands below the source's path goes on, below the URL's."),
    field("forward_query", Bool, Toml("false"), "The producer's query goes on, after the URL's."),
    field("filter", Tree, Standard::None("{ body = { total = { \"$gte\" = 100 } } }"), "Which events it takes: conditions on body, headers, path and query, or the same as one JSON string."),
    field("dedupe", Table(payload::DEDUPE), Standard::None("{ window = \"5m\", include = [\"body.id\"] }"), "Events that are the same are delivered once."),
    field("transform", Table(payload::TRANSFORM), Standard::None("{ remove = [\"body.customer.email\"] }"), "What becomes of a JSON body before it is signed and sent."),
    field("test", List(&Table(payload::TEST), 1, 100), Standard::None("[{ event = { body = { total = 5 } }, expect = { pass = true } }]"), "What must come of sample events; looked at by check and before each reload."),
    field("host_header", Text(255), Standard::None("\"crm.internal\""), "What the Host header says (:authority in HTTP/2) instead of the URL's host."),
    field("connect_timeout", Span(secs(1), secs(60)), Toml("\"2s\""), "Name lookup, TCP, proxy and TLS together."),
    field("request_timeout", Span(secs(1), secs(60)), Toml("\"10s\""), "From the first byte written to the response's head."),
    field("timeout", Span(secs(1), secs(60)), Standard::None("\"5s\""), "Sets connect_timeout and request_timeout."),
    field("pool_acquire_timeout", Span(ms(1), secs(HOUR)), Toml("\"2s\""), "How long a due delivery may wait for a free worker before that is counted and warned about."),
    field("pool", Table(POOL), Toml("{}"), "HTTP connections of this connection alone."),
    field("max_in_flight", Integer(1, POOL_MAX), Computed("24"), "Attempts at one time; the smaller of the pool's two limits."),
    field("rate_limit", Table(RATE_LIMIT), Standard::None("{ limit = 100, per = \"second\", burst = 10 }"), "Sends per time."),
    field("retry", Table(RETRY), Toml("{}"), "What happens after a failure."),
    field("ordering", Choice(&["none", "strict", "key"]), Toml("\"none\""), "strict: one after the other, in order of acceptance; key: the same among events with one ordering_key."),
    field("ordering_key", Text(PATH_BYTES_MAX), Standard::None("\"body.order.id\""), "Where an event's key is, for ordering = \"key\": body.a.b, headers.x, query.x or event.type."),
    field("on_dead", Choice(&["skip", "halt"]), Toml("\"skip\""), "With ordering, when an event becomes a dead letter: skip goes on with the next, halt holds the connection until it is resumed."),
    field("queue", Table(QUEUE), Toml("{}"), "How much may wait."),
    field("max_body", Size(1, GIB), Toml("\"1MiB\""), "The largest body it takes; at most [limits] max_body."),
    field("success_status", Statuses(Purpose::Success), Toml("[\"2xx\"]"), "The statuses that mean \"delivered\"."),
    field("tls", Table(TLS), Toml("{}"), "How an https target is verified."),
    field("http2", Table(HTTP2), Toml("{}"), "When HTTP/2 is spoken."),
    field("proxy", Table(PROXY), Standard::None("{ url = \"http://proxy.internal:3128\", no_proxy = [\".internal\", \"10.0.0.0/8\"] }"), "What requests go through. The environment (HTTP_PROXY and the like) is never looked at."),
    field("egress", Table(EGRESS), Toml("{}"), "Which addresses may be dialled."),
    field("auth", OneOf(auth::AUTH), Standard::None("{ bearer = { token = { env = \"CRM_TOKEN\" } } }"), "How it says who it is: one of basic, bearer, api_key and oauth2."),
    field("sign", OneOf(auth::SIGN), Standard::None("{ standard_webhooks = { secrets = [{ env = \"CRM_SIGNING\" }] } }"), "How its requests are signed: one of standard_webhooks and hmac."),
    field("delay", Span(Duration::ZERO, secs(7 * DAY)), Toml("\"0s\""), "From an event's acceptance to its first attempt, by the value in force at acceptance."),
    field("renamed_from", Name, Standard::None("\"orders\""), "The name it had: its queue, dead letters and history come along. May stay once that is done."),
    field("on_remove", Choice(&["hold", "discard"]), Toml("\"hold\""), "What its queue becomes when it is removed."),
    field("breaker", Table(BREAKER), Toml("{}"), "When the target is left alone because it fails."),
    field("disable_on_gone", Bool, Computed("true"), "Whether a 410 disables the connection: true for POST to a URL without placeholders, else false."),
    field("disable_after", Span(secs(1), secs(365 * DAY)), Standard::None("\"5d\""), "Disables the connection after so long of nothing but failure."),
    field("expire_after", Span(secs(1), secs(365 * DAY)), Standard::None("\"1h\""), "An event that was accepted longer ago is not sent any more: a dead letter, cause expired."),
    field("env", Overlays, Toml("{}"), "[connection.env.NAME]: what is different in one environment."),
];

/// `[connection.pool]`
#[rustfmt::skip]
pub static POOL: &[Field] = &[
    field("max_per_host", Integer(1, POOL_MAX), Toml("24"), "At most max_total."),
    field("max_total", Integer(1, POOL_MAX), Toml("48"), "A connection has one host, so the smaller one counts."),
    field("idle_timeout", Span(secs(1), secs(DAY)), Toml("\"30s\""), "An idle HTTP connection is closed after this."),
    field("max_lifetime", Span(secs(1), secs(7 * DAY)), Toml("\"5m\""), "Any HTTP connection is closed after this, so that new addresses get used."),
];

/// `[connection.rate_limit]`
#[rustfmt::skip]
pub static RATE_LIMIT: &[Field] = &[
    field("limit", Integer(1, 1_000_000), Required("100"), "Sends in each per."),
    field("per", Choice(&["second", "minute", "hour"]), Toml("\"second\""), "The time that limit counts for."),
    field("burst", Integer(1, 1_000_000), Computed("10"), "How many may go at once after a pause; a tenth of limit, at least 1."),
];

/// `[connection.retry]`
#[rustfmt::skip]
pub static RETRY: &[Field] = &[
    field("strategy", Choice(&["exponential", "linear", "schedule", "none"]), Toml("\"exponential\""), "How waits grow; none: a failure is a dead letter at once."),
    field("interval", Span(ms(1), secs(30 * DAY)), Toml("\"5s\""), "The first wait (exponential), or each (linear)."),
    field("factor", Number(1.0, 100.0), Toml("2.0"), "What each wait is multiplied by for the next (exponential)."),
    field("max_interval", Span(ms(1), secs(30 * DAY)), Toml("\"4h\""), "The longest wait (exponential)."),
    field("schedule", List(&Span(Duration::ZERO, Duration::from_secs(30 * DAY)), 1, 100), Standard::None("[\"5s\", \"5m\", \"30m\", \"2h\"]"), "These waits, then a dead letter (schedule)."),
    field("max_age", Span(secs(1), secs(90 * DAY)), Toml("\"72h\""), "No retry later than this after the first attempt."),
    field("count", Integer(1, 10_000), Toml("50"), "Attempts at most (not with schedule)."),
    field("jitter", Choice(&["none", "equal", "full"]), Computed("\"full\""), "How waits are spread: full for exponential, else none."),
    field("on_status", Statuses(Purpose::Retry), Toml("[\"408\", \"425\", \"429\", \"5xx\", \"!501\", \"!505\"]"), "Statuses that are tried again. Network errors and timeouts always are."),
    field("retry_after_max", Span(Duration::ZERO, secs(7 * DAY)), Toml("\"1h\""), "The longest Retry-After that is believed."),
];

/// `[connection.breaker]`
#[rustfmt::skip]
pub static BREAKER: &[Field] = &[
    field("enabled", Bool, Toml("true"), "false: a failing target is tried with every event, and each failure is scheduled."),
    field("consecutive_failures", Integer(1, 1000), Toml("5"), "Deliveries that fail in a row (network errors, timeouts, 5xx) until it opens; one delivery counts once."),
    field("failure_ratio", Number(0.01, 1.0), Toml("0.5"), "The share of failures that opens it, too."),
    field("min_attempts", Integer(1, 100_000), Toml("20"), "Attempts that must have ended before the share counts."),
    field("window", Span(secs(1), secs(HOUR)), Toml("\"60s\""), "What the share is counted over."),
    field("open_for", Span(ms(100), secs(HOUR)), Toml("\"30s\""), "How long nothing is sent; then one probe. Each probe that fails doubles it."),
    field("open_for_max", Span(ms(100), secs(DAY)), Toml("\"5m\""), "The longest."),
];

/// `[connection.queue]`
#[rustfmt::skip]
pub static QUEUE: &[Field] = &[
    field("max_events", Integer(1, 1_000_000_000), Toml("1000000"), "Deliveries that are not over."),
    field("max_bytes", Size(KIB, 1024 * TIB), Toml("\"1GiB\""), "Their payloads."),
    field("when_full", Choice(&["dead_letter", "reject"]), Toml("\"dead_letter\""), "What an event becomes that finds it full: a dead letter here, or a 503 for the producer."),
];

/// `[connection.tls]`
#[rustfmt::skip]
pub static TLS: &[Field] = &[
    field("ca_file", Path, Standard::None("\"/etc/posthaste/ca.pem\""), "Certificates to trust instead of the system's (PEM)."),
    field("client_cert", Path, Standard::None("\"/etc/posthaste/client.pem\""), "Our certificate, with those of its issuers, for a peer that asks (PEM). Needs client_key."),
    field("client_key", Path, Standard::None("\"/etc/posthaste/client.key\""), "Its key (PEM)."),
    field("server_name", ServerName, Standard::None("\"crm.internal\""), "The name to verify instead of the URL's host."),
    field("min_version", Choice(&["1.2", "1.3"]), Toml("\"1.2\""), "The oldest version of TLS spoken."),
    field("verify", Bool, Toml("true"), "Whether the peer's certificate is verified; false needs [security] allow_insecure_tls = true as well."),
];

/// `[connection.http2]`
#[rustfmt::skip]
pub static HTTP2: &[Field] = &[
    field("enabled", Bool, Toml("true"), "Over TLS it is offered, and the target chooses (ALPN)."),
    field("prior_knowledge", Bool, Toml("false"), "It is spoken without asking: over plain TCP (h2c), or as all that is offered over TLS."),
];

/// `[connection.proxy]`
#[rustfmt::skip]
pub static PROXY: &[Field] = &[
    field("url", Text(2048), Required("\"http://proxy.internal:3128\""), "http, https (both by CONNECT) or socks5, with host and port alone."),
    field("username", Text(255), Standard::None("\"posthaste\""), "Who we are there. Needs password."),
    field("password", Secret, Standard::None("{ env = \"PROXY_PASSWORD\" }"), "Its password."),
    field("ca_file", Path, Standard::None("\"/etc/posthaste/ca.pem\""), "Certificates to trust instead of the system's for an https proxy (PEM)."),
    field("no_proxy", List(&Text(255), 0, 256), Toml("[]"), "Targets that are dialled without it: names (with what is below), \".suffix\", ranges of addresses (also after a lookup), \"*\"."),
];

/// `[connection.egress]`
#[rustfmt::skip]
pub static EGRESS: &[Field] = &[
    field("allow", List(&Cidr, 0, 256), Toml("[]"), "Ranges of addresses that may be dialled although [security] egress refuses them."),
];

/// The field of this key.
pub(super) fn find(fields: &'static [Field], key: &str) -> Option<&'static Field> {
    fields.iter().find(|field| field.key == key)
}

/// Whether some object has this key.
pub(super) fn is_key(key: &str) -> bool {
    key == "connection" || known(ROOT, key) || known(CONNECTION, key)
}

fn known(fields: &'static [Field], key: &str) -> bool {
    fields
        .iter()
        .any(|field| field.key == key || inside(&field.kind).is_some_and(|f| known(f, key)))
}

/// The keys inside of a value of this kind.
fn inside(kind: &'static Kind) -> Option<&'static [Field]> {
    match kind {
        Kind::Table(fields) | Kind::OneOf(fields) => Some(fields),
        Kind::List(kind, ..) => inside(kind),
        _ => None,
    }
}

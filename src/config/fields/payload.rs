//! What a connection takes of events and makes of them: filter, dedupe, transform, and the tests of these.

use std::time::Duration;

use super::Kind::{Bool, Choice, List, Span, Table, Text, Tree};
use super::Standard::{Required, Toml};
use super::{Field, HOUR, Standard, field, secs};
use crate::connection::path::PATH_BYTES_MAX;
use crate::connection::transform::{PARTS_MAX, SCRIPT_BYTES_MAX};

/// `[connection.dedupe]`
#[rustfmt::skip]
pub static DEDUPE: &[Field] = &[
    field("window", Span(Duration::from_secs(1), secs(24 * HOUR)), Toml("\"5m\""), "How long an event is remembered, from the first one on."),
    field("include", List(&Text(PATH_BYTES_MAX), 1, 32), Standard::None("[\"body.id\", \"headers.x-tenant\"]"), "These values make two events the same; without them the bytes of the body do. Not with exclude."),
    field("exclude", List(&Text(PATH_BYTES_MAX), 1, 32), Standard::None("[\"body.sent_at\"]"), "The JSON body without these values makes two events the same. Not with include."),
];

/// `[connection.transform]`
#[rustfmt::skip]
pub static TRANSFORM: &[Field] = &[
    field("pick", List(&Text(PATH_BYTES_MAX), 1, PARTS_MAX), Standard::None("[\"body.id\", \"body.items[*].sku\"]"), "First: these fields are kept, all others go."),
    field("remove", List(&Text(PATH_BYTES_MAX), 1, PARTS_MAX), Standard::None("[\"body.customer.email\"]"), "Second: these fields go."),
    field("rename", Tree, Standard::None("{ \"body.old\" = \"body.new\" }"), "Third: values move from one path to another."),
    field("set", Tree, Standard::None("{ \"body.source\" = \"shop\", \"body.kind\" = \"{{ event.type }}\" }"), "Fourth: values are put at paths; strings may have placeholders."),
    field("template", Text(SCRIPT_BYTES_MAX), Standard::None("\"{\\\"id\\\": {{ body.id | tojson }}}\""), "Last: the body becomes what this template writes (Jinja)."),
];

/// `[[connection.test]]`
#[rustfmt::skip]
pub static TEST: &[Field] = &[
    field("name", Text(255), Standard::None("\"paid orders pass\""), "For people."),
    field("event", Table(TEST_EVENT), Required("{ body = { id = 1 } }"), "The event that is posted."),
    field("expect", Table(TEST_EXPECT), Required("{ pass = true }"), "What must come of it."),
];

/// `[connection.test.event]`
#[rustfmt::skip]
static TEST_EVENT: &[Field] = &[
    field("type", Text(255), Standard::None("\"order.created\""), "Its type."),
    field("method", Choice(&["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]), Toml("\"POST\""), "The method it is posted with."),
    field("headers", Tree, Standard::None("{ x-tenant = \"acme\" }"), "Its headers; content-type is application/json if none is named."),
    field("body", Tree, Standard::None("{ id = 1 }"), "Its body: a string as it is, anything else as JSON."),
    field("path", Text(2000), Standard::None("\"/orders/7\""), "The path below the source's."),
    field("query", Text(2000), Standard::None("\"page=2\""), "The query."),
];

/// `[connection.test.expect]`
#[rustfmt::skip]
static TEST_EXPECT: &[Field] = &[
    field("pass", Bool, Standard::None("true"), "Whether the filter lets it through."),
    field("cause", Choice(&["template", "transform"]), Standard::None("\"transform\""), "It becomes a dead letter of this cause."),
    field("method", Text(20), Standard::None("\"POST\""), "The method of the request."),
    field("url", Text(8192), Standard::None("\"https://crm.example.com/hooks\""), "The URL of the request."),
    field("headers", Tree, Standard::None("{ x-kind = \"order\" }"), "These headers are among those of the request; a flag false: it is not there."),
    field("body", Tree, Standard::None("{ id = 1 }"), "The body of the request: a string as it is, anything else as JSON, whatever its order and blanks."),
];

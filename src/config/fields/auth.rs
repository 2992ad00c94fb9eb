//! `[connection.auth]` and `[connection.sign]`: each is exactly one of its sub-tables.

use super::Kind::{Choice, DatedSecret, Labels, List, Secret, Table, Text, Url};
use super::Standard::{Required, Toml};
use super::{Field, Standard, field};
use crate::connection::sign::keys::KEYS_MAX;

/// Characters of a content or value text.
const TEXT_CHARS_MAX: usize = 1000;

/// `[connection.auth]`
#[rustfmt::skip]
pub static AUTH: &[Field] = &[
    field("basic", Table(BASIC), Standard::None("{ username = \"relay\", password = { env = \"CRM_PASSWORD\" } }"), "HTTP Basic."),
    field("bearer", Table(BEARER), Standard::None("{ token = { env = \"CRM_TOKEN\" } }"), "A bearer token."),
    field("api_key", Table(API_KEY), Standard::None("{ name = \"x-api-key\", key = { env = \"CRM_KEY\" } }"), "An API key in a header or the query."),
    field("oauth2", Table(OAUTH2), Standard::None("{ token_url = \"https://id.example.com/token\", client_id = \"relay\", client_secret = { env = \"CRM_SECRET\" } }"), "OAuth 2.0 client credentials."),
];

/// `[connection.auth.basic]`
#[rustfmt::skip]
static BASIC: &[Field] = &[
    field("username", Text(255), Required("\"relay\""), "The user."),
    field("password", Secret, Required("{ env = \"CRM_PASSWORD\" }"), "The password."),
];

/// `[connection.auth.bearer]`
#[rustfmt::skip]
static BEARER: &[Field] = &[
    field("token", Secret, Required("{ env = \"CRM_TOKEN\" }"), "The token, without the word Bearer."),
];

/// `[connection.auth.api_key]`
#[rustfmt::skip]
static API_KEY: &[Field] = &[
    field("name", Text(255), Required("\"x-api-key\""), "The header's or the query parameter's name."),
    field("key", Secret, Required("{ env = \"CRM_KEY\" }"), "The key."),
    field("in", Choice(&["header", "query"]), Toml("\"header\""), "Where it goes."),
];

/// `[connection.auth.oauth2]`
#[rustfmt::skip]
static OAUTH2: &[Field] = &[
    field("token_url", Url, Required("\"https://id.example.com/token\""), "Where tokens come from."),
    field("client_id", Text(1000), Required("\"relay\""), "The client."),
    field("client_secret", Secret, Required("{ env = \"CRM_SECRET\" }"), "Its secret."),
    field("scopes", List(&Text(255), 0, 64), Toml("[]"), "What the token is for."),
    field("audience", Text(1000), Standard::None("\"https://crm.example.com\""), "Whom the token is for, where the server asks."),
    field("params", Labels, Toml("{}"), "Other parameters that the server wants."),
    field("auth_style", Choice(&["header", "body"]), Toml("\"header\""), "Where client_id and client_secret go: HTTP Basic, or the form."),
];

/// `[connection.sign]`
#[rustfmt::skip]
pub static SIGN: &[Field] = &[
    field("standard_webhooks", Table(STANDARD), Standard::None("{ secrets = [{ env = \"CRM_SIGNING\" }] }"), "webhook-signature, as Standard Webhooks has it."),
    field("hmac", Table(HMAC), Standard::None("{ header = \"x-signature\", secrets = [{ env = \"CRM_SIGNING\" }] }"), "An HMAC in a header of your own."),
];

/// `[connection.sign.standard_webhooks]`
#[rustfmt::skip]
static STANDARD: &[Field] = &[
    field("secrets", List(&DatedSecret, 1, KEYS_MAX), Required("[{ env = \"CRM_SIGNING\" }]"), "whsec_ secrets and whsk_ keys; all that have not ended sign: { env = \"OLD\", until = 2027-01-31T00:00:00Z }."),
];

/// `[connection.sign.hmac]`
#[rustfmt::skip]
static HMAC: &[Field] = &[
    field("header", Text(255), Required("\"x-signature\""), "The header of the signature."),
    field("algorithm", Choice(&["sha256", "sha512"]), Toml("\"sha256\""), "The hash."),
    field("encoding", Choice(&["hex", "base64"]), Toml("\"hex\""), "How the signature is written."),
    field("content", Text(TEXT_CHARS_MAX), Toml("\"{{ body }}\""), "What is signed; placeholders: body, id, timestamp, attempt, method, url, path, query."),
    field("value", Text(TEXT_CHARS_MAX), Toml("\"{{ signature }}\""), "What the header says; placeholders: signature, id, timestamp, attempt."),
    field("secrets", List(&DatedSecret, 1, KEYS_MAX), Required("[{ env = \"CRM_SIGNING\" }]"), "All that have not ended sign, a header each."),
];

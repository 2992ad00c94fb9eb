//! Builds how a connection says who it is, and how it signs; secrets are resolved here.

use http::{HeaderName, HeaderValue};

use super::*;
use crate::config::layers::Draft;
use crate::config::read::header_name;
use crate::config::value::Table;
use crate::connection::Target;
use crate::connection::auth::{Auth, api_key, basic, bearer, oauth2};
use crate::connection::sign::Sign;
use crate::connection::sign::custom::{self, Algorithm, CustomHmac, Encoding, HmacKey};
use crate::connection::sign::keys::{Dated, Keys};
use crate::connection::sign::standard::{Key, StandardWebhooks};

/// What stands for a Standard Webhooks secret that is not read.
const STAND_IN: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The sub-table that was chosen.
struct Chosen<'d> {
    name: &'static str,
    table: &'d Table,
    place: &'d Place,
    /// `connection "crm" auth.basic`, for errors.
    path: String,
}

impl<'d> Chosen<'d> {
    fn of(draft: &'d Draft, key: &str) -> Option<Chosen<'d>> {
        let place = &draft.table.get(key)?.place;
        let (name, table) = draft.table.one_of(key)?;
        Some(Chosen { name, table, place, path: format!("{}{key}.{name}", draft.path) })
    }

    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn text(&self, key: &str) -> &'d str {
        self.table.text(key).unwrap_or_default()
    }
}

impl Build<'_> {
    pub(super) fn auth(
        &mut self,
        draft: &Draft,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Option<Auth> {
        let chosen = Chosen::of(draft, "auth")?;
        let auth = match chosen.name {
            "basic" => self.basic(&chosen),
            "bearer" => {
                let token = self.needed_secret(&chosen, "token", "{ env = \"CRM_TOKEN\" }")?;
                self.made(&chosen, "token", bearer::bearer(&token))
            }
            "api_key" => self.api_key(&chosen),
            _ => self.oauth2(&chosen),
        };
        let header = auth.as_ref().and_then(Auth::header).cloned();
        self.header_is_free(&chosen, header.as_ref(), headers);
        auth
    }

    pub(super) fn sign(
        &mut self,
        draft: &Draft,
        auth: Option<&Auth>,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Option<Sign> {
        let chosen = Chosen::of(draft, "sign")?;
        let sign = match chosen.name {
            "standard_webhooks" => {
                let keys = self.keys(&chosen, Key::parse)?;
                Sign::Standard(StandardWebhooks::new(keys))
            }
            _ => Sign::Custom(self.custom_hmac(&chosen)?),
        };
        self.header_is_free(&chosen, Some(&sign.header()), headers);
        if auth.and_then(Auth::header) == Some(&sign.header()) {
            let message = format!("sets the header {}, which auth sets too", sign.header());
            self.error_at(None, chosen.place, &chosen.path, message);
        }
        Some(sign)
    }

    fn basic(&mut self, chosen: &Chosen<'_>) -> Option<Auth> {
        let username = self.needed(chosen, "username", "\"relay\"").is_some();
        let password = self.needed_secret(chosen, "password", "{ env = \"CRM_PASSWORD\" }");
        let password = password.filter(|_| username)?;
        self.text_made(chosen, "username", basic::check_username)?;
        self.made(chosen, "password", basic::basic(chosen.text("username"), &password))
    }

    fn api_key(&mut self, chosen: &Chosen<'_>) -> Option<Auth> {
        let named = self.needed(chosen, "name", "\"x-api-key\"").is_some();
        let key = self.needed_secret(chosen, "key", "{ env = \"CRM_KEY\" }");
        let key = key.filter(|_| named)?;
        let made = match chosen.table.word("in") {
            "query" => api_key::in_query(chosen.text("name"), &key),
            _ => {
                let name = self.header_named(chosen, "name")?;
                api_key::in_header(name, &key)
            }
        };
        self.made(chosen, "key", made)
    }

    fn oauth2(&mut self, chosen: &Chosen<'_>) -> Option<Auth> {
        let url = self.needed(chosen, "token_url", "\"https://id.example.com/token\"");
        let url = url.and_then(|item| match &item.value {
            Value::Url(target) => Some(Target::clone(target)),
            _ => None,
        });
        if let (Some(target), Some(item)) = (&url, chosen.table.get("token_url"))
            && target.template.is_some()
        {
            let message =
                "has placeholders, but a token is no event's; only {{ var.NAME }} may stand here";
            let path = chosen.path("token_url");
            self.report.error(&item.place, &Reveal::Nothing, &path, message.to_owned());
        }
        let client = self.needed(chosen, "client_id", "\"relay\"").is_some();
        let secret = self.needed_secret(chosen, "client_secret", "{ env = \"CRM_SECRET\" }");
        let (url, secret) = (url?, secret.filter(|_| client)?);
        let texts = |items: &[Item]| -> Vec<String> {
            items.iter().filter_map(Item::as_text).map(str::to_owned).collect()
        };
        let params = chosen.table.map("params").iter();
        let pair = |entry: &crate::config::value::Entry| {
            Some((entry.key.clone(), entry.item.as_text()?.to_owned()))
        };
        let request = oauth2::Request {
            client_id: chosen.text("client_id"),
            client_secret: &secret,
            scopes: &texts(chosen.table.list("scopes")),
            audience: chosen.table.text("audience"),
            params: &params.filter_map(pair).collect::<Vec<_>>(),
            auth_style: match chosen.table.word("auth_style") {
                "body" => oauth2::AuthStyle::Body,
                _ => oauth2::AuthStyle::Header,
            },
        };
        let made = oauth2::OAuth2::new(url, &request);
        self.made(chosen, "client_secret", made).map(|oauth2| Auth::OAuth2(Box::new(oauth2)))
    }

    fn custom_hmac(&mut self, chosen: &Chosen<'_>) -> Option<CustomHmac> {
        let named = self.needed(chosen, "header", "\"x-signature\"").is_some();
        let header = if named { self.header_named(chosen, "header") } else { None };
        let encoding = match chosen.table.word("encoding") {
            "base64" => Encoding::Base64,
            _ => Encoding::Hex,
        };
        let algorithm = match chosen.table.word("algorithm") {
            "sha512" => Algorithm::Sha512,
            _ => Algorithm::Sha256,
        };
        let content = self.text_made(chosen, "content", custom::content);
        let value = self.text_made(chosen, "value", custom::value);
        let keys = self.keys(chosen, |secret| Ok(HmacKey::new(secret, algorithm)));
        Some(CustomHmac::new(header?, encoding, content?, value?, keys?))
    }

    /// All keys of `secrets`. One that has ended is warned about; when all have, nothing could be signed.
    fn keys<K>(
        &mut self,
        chosen: &Chosen<'_>,
        parse: impl Fn(&Secret) -> Result<K, String>,
    ) -> Option<Keys<K>> {
        let written = self.needed(chosen, "secrets", "[{ env = \"CRM_SIGNING\" }]")?;
        let now = self.options.clock.wall_ms() / 1000;
        let mut dated = Vec::new();
        for (index, item) in chosen.table.list("secrets").iter().enumerate() {
            let path = format!("{}[{index}]", chosen.path("secrets"));
            let (secret, until_ms) = self.secret_of(item, &path)?;
            let until = until_ms.map(|ms| ms / 1000);
            if until.is_some_and(|until| until <= now) {
                let message = "has ended and does not sign any more; remove it".to_owned();
                self.report.warn(&item.place, &Reveal::Nothing, &path, message);
            }
            match parse(&self.readable(secret)) {
                Ok(key) => dated.push(Dated { key, until }),
                Err(message) => self.secret_error(item, &path, message),
            }
        }
        let keys = Keys::new(dated);
        let path = chosen.path("secrets");
        match keys.ends() {
            Some(ends) if ends <= now => {
                let message = "every secret has ended, so nothing can be signed; add one without until, or with a later one".to_owned();
                self.report.error(&written.place, &Reveal::Nothing, &path, message);
            }
            Some(_) => {
                let message =
                    "every secret ends, and then nothing can be delivered; add one without until"
                        .to_owned();
                self.report.warn(&written.place, &Reveal::Nothing, &path, message);
            }
            None => {}
        }
        Some(keys)
    }

    /// What is parsed of a secret: itself, or a legal one in the place of one that was not read.
    fn readable(&self, secret: Secret) -> Secret {
        let unread = self.options.secrets == Secrets::Skip && secret.expose() == b"unresolved";
        if unread { Secret::new(STAND_IN) } else { secret }
    }

    /// A key that must be written.
    fn needed<'d>(&mut self, chosen: &Chosen<'d>, key: &str, example: &str) -> Option<&'d Item> {
        let item = chosen.table.get(key);
        if item.is_none() && !chosen.table.refused(&[key]) {
            let message = format!("{key} is missing, write one as in {key} = {example}");
            self.report.error(chosen.place, &Reveal::Nothing, &chosen.path, message);
        }
        item
    }

    fn needed_secret(&mut self, chosen: &Chosen<'_>, key: &str, example: &str) -> Option<Secret> {
        let item = self.needed(chosen, key, example)?;
        let (secret, _) = self.secret_of(item, &chosen.path(key))?;
        Some(secret)
    }

    /// What was made of a secret, or the error at it.
    fn made<T>(&mut self, chosen: &Chosen<'_>, key: &str, made: Result<T, String>) -> Option<T> {
        match made {
            Ok(made) => Some(made),
            Err(message) => {
                if let Some(item) = chosen.table.get(key) {
                    self.secret_error(item, &chosen.path(key), message);
                }
                None
            }
        }
    }

    /// What was made of a text, or the error at it.
    fn text_made<T>(
        &mut self,
        chosen: &Chosen<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(chosen.text(key)) {
            Ok(made) => Some(made),
            Err(message) => {
                let item = chosen.table.get(key);
                self.error_at(item, chosen.place, &chosen.path(key), message);
                None
            }
        }
    }

    fn header_named(&mut self, chosen: &Chosen<'_>, key: &str) -> Option<HeaderName> {
        self.text_made(chosen, key, header_name)
    }

    /// An error about a secret's value. A reference may be shown, its strings are masked all the same.
    fn secret_error(&mut self, item: &Item, path: &str, message: String) {
        let plain = matches!(
            item.value,
            Value::Secret(SecretRef::Plain(_)) | Value::DatedSecret(SecretRef::Plain(_), _)
        );
        let reveal = if plain { Reveal::Nothing } else { Reveal::Value };
        self.report.error(&item.place, &reveal, path, message);
    }

    /// A header is set once.
    fn header_is_free(
        &mut self,
        chosen: &Chosen<'_>,
        header: Option<&HeaderName>,
        headers: &[(HeaderName, HeaderValue)],
    ) {
        let Some(header) = header.filter(|name| headers.iter().any(|(set, _)| set == *name)) else {
            return;
        };
        let message =
            format!("sets the header {header}, which headers sets too; remove one of them");
        self.report.error(chosen.place, &Reveal::Nothing, &chosen.path, message);
    }
}

//! What the commands that list have in common: a page at a time, as a table or as JSON.

use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::admin::{Asked, target};
use super::{Failure, output};
use crate::logging::escape;

/// Which page.
#[derive(Debug, Args)]
pub(super) struct PageArguments {
    /// At most so many, 1 to 255
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=255))]
    limit: u32,
    /// Go on where the last page ended
    #[arg(long, alias = "after", value_name = "CURSOR")]
    next: Option<String>,
}

/// A page of any list of the admin API; it prints what it read.
#[derive(Debug, Deserialize, Serialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
struct AnyPage<T> {
    pagination: Map<String, Json>,
    count: usize,
    models: Vec<T>,
}

/// A list of the admin API.
#[derive(Debug)]
pub(super) struct List<'a> {
    /// Below `/v1`.
    pub(super) path: &'a [&'a str],
    /// Which of them; what is `None` asks nothing.
    pub(super) query: Vec<(&'a str, Option<&'a str>)>,
    /// The parameter that takes the cursor.
    pub(super) cursor: &'a str,
    /// What is said when there are none.
    pub(super) none: &'a str,
}

impl List<'_> {
    /// Asks for a page and prints it.
    pub(super) fn print<T: DeserializeOwned + Serialize>(
        self,
        page: &PageArguments,
        asked: Asked,
        table: impl FnOnce(&[T]) -> String,
    ) -> Result<(), Failure> {
        let json = asked.json;
        let found: AnyPage<T> = asked.get(&self.target(page)?)?;
        if json {
            return output::json(&found);
        }
        let next = found.pagination.get("next").and_then(Json::as_str);
        if found.models.is_empty() && next.is_none() {
            output::say(self.none);
            return Ok(());
        }
        output::write(table(&found.models).as_bytes())?;
        if let Some(next) = next {
            output::say(&format!("there are more: --next {}", escape(next)));
        }
        Ok(())
    }

    fn target(&self, page: &PageArguments) -> Result<String, Failure> {
        let limit = page.limit.to_string();
        let mut query: Vec<_> =
            self.query.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
        query.push(("limit", &limit));
        query.extend(page.next.as_deref().map(|next| (self.cursor, next)));
        target(self.path, &query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_asks_for_what_was_given() {
        let query = vec![("connection", Some("c r")), ("code", None)];
        let list = List { path: &["attempts"], query, cursor: "after", none: "" };
        let page = |next: Option<&str>| PageArguments { limit: 7, next: next.map(str::to_owned) };
        assert_eq!(list.target(&page(None)).unwrap(), "/v1/attempts?connection=c+r&limit=7");
        let next = list.target(&page(Some("x&y"))).unwrap();
        assert_eq!(next, "/v1/attempts?connection=c+r&limit=7&after=x%26y");
    }

    #[test]
    fn a_page_keeps_what_another_version_says_of_its_place() {
        let text = r#"{"pagination":{"limit":7,"next":"a","new":1},"count":1,"models":[5]}"#;
        let page: AnyPage<u32> = serde_json::from_str(text).unwrap();
        let again = serde_json::to_value(&page).unwrap();
        assert_eq!(again, serde_json::from_str::<Json>(text).unwrap());
    }
}

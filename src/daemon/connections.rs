//! Connections as the API lists and shows them: which ones come from the configuration in force, what is said of each comes
//! from its file.

use std::cmp::Ordering;

use super::{Daemon, Live};
use crate::admin::Refusal;
use crate::admin::api::connections::{ConnectionsPage, Cursors, Document, Meta};
use crate::admin::api::{self, rfc3339};
use crate::admin::manage::{Between, Cursor, EditRefused, Filter, Listing, OrderBy, Why};
use crate::config::edit::{self, Found};
use crate::connection::glob::glob;
use crate::connection::{Connection, State};

impl Daemon {
    /// The connection of this name that is in force.
    pub(super) fn live(&self, name: &str) -> Option<&Live> {
        self.live.iter().find(|live| live.connection.name == name)
    }

    pub(super) async fn show(&mut self, name: &str) -> Result<Document, EditRefused> {
        let found = self.find_in_files(name).await?;
        Ok(self.document(found))
    }

    pub(super) fn status_of(&self, name: &str) -> Result<api::Connection, Refusal> {
        let live = self.live(name).ok_or_else(|| Refusal::UnknownConnection(name.to_owned()))?;
        Ok(self.describe_connection(live))
    }

    pub(super) fn count(&self, filter: &Filter) -> u64 {
        self.live.iter().filter(|live| self.matches(filter, live)).count() as u64
    }

    pub(super) async fn list(&mut self, listing: Listing) -> Result<ConnectionsPage, EditRefused> {
        let Listing { filter, order_by, descending, limit, cursor } = listing;
        let matching = self.live.iter().filter(|live| self.matches(&filter, live));
        let mut all: Vec<(String, String)> =
            matching.map(|live| (key(order_by, live), live.connection.name.clone())).collect();
        all.sort();
        if descending {
            all.reverse();
        }
        let page = page(&all, descending, limit as usize, cursor);
        let at = |entry: Option<&(String, String)>, back| {
            entry.map(|(key, name)| {
                let cursor = Cursor { back, key: key.clone(), name: name.clone() };
                cursor.to_text(order_by)
            })
        };
        let pagination = Cursors {
            order_by: order_by.as_str().to_owned(),
            dir: if descending { "desc" } else { "asc" }.to_owned(),
            limit,
            next: at(page.entries.last().filter(|_| page.more_behind), false),
            prev: at(page.entries.first().filter(|_| page.more_before), true),
        };
        let names = page.entries.iter().map(|(_, name)| name);
        let wanted: Vec<_> = names
            .clone()
            .filter_map(|name| Some((name.clone(), self.origins.get(name)?.clone())))
            .collect();
        let found = tokio::task::spawn_blocking(move || edit::find_all(&wanted)).await;
        let mut found =
            found.map_err(|error| EditRefused::Cannot(Why::Failed, error.to_string()))?;
        let models: Vec<_> = names
            .map(|name| match found.remove(name) {
                Some(found) => self.document(found),
                // The file has changed since, and its reload is still to come.
                None => self.bare(name),
            })
            .collect();
        Ok(ConnectionsPage { pagination, count: models.len(), models })
    }

    /// What is known of a connection whose file cannot be read just now.
    fn bare(&self, name: &str) -> Document {
        let found = Found {
            file: self.origins.get(name).cloned().unwrap_or_default(),
            etag: String::new(),
            document: [("name".to_owned(), name.into())].into_iter().collect(),
        };
        self.document(found)
    }

    /// What is known of a connection beside the keys in its file.
    pub(super) fn meta(&self, name: &str, found: &Found) -> Meta {
        let live = self.live(name);
        let since = |state: State| self.since(live?, state).map(rfc3339);
        let base = self.root.path.parent().unwrap_or(std::path::Path::new(""));
        Meta {
            file: found.file.strip_prefix(base).unwrap_or(&found.file).display().to_string(),
            etag: found.etag.clone(),
            state: live.map(|live| live.state().as_str().to_owned()),
            suspended: live.and_then(|live| live.suspension).map(super::commands::suspended),
            archived: live.is_some_and(|live| live.connection.archived),
            in_force: live.is_some(),
            host: live.map(|live| live.connection.target.host.clone()),
            paused_at: since(State::Paused),
            disabled_at: since(State::Disabled),
        }
    }

    fn matches(&self, filter: &Filter, live: &Live) -> bool {
        matches(filter, &live.connection, live.state())
            && within(filter.paused, self.since(live, State::Paused))
            && within(filter.disabled, self.since(live, State::Disabled))
    }

    /// Since when a connection is in this state, in milliseconds since 1970, if it is and that is known.
    fn since(&self, live: &Live, state: State) -> Option<u64> {
        if live.state() != state {
            return None;
        }
        match live.suspension {
            Some(suspension) if live.connection.state != state => Some(suspension.at_ms),
            _ => self.audit.since(&live.connection.name, state.as_str()),
        }
    }
}

/// What a list is ordered by.
fn key(order_by: OrderBy, live: &Live) -> String {
    match order_by {
        OrderBy::Name => live.connection.name.clone(),
        OrderBy::State => live.state().as_str().to_owned(),
        OrderBy::Host => live.connection.target.host.clone(),
    }
}

/// A page of a sorted list.
#[derive(Debug, PartialEq)]
struct Page<'a> {
    entries: &'a [(String, String)],
    more_before: bool,
    more_behind: bool,
}

fn page(
    all: &[(String, String)],
    descending: bool,
    limit: usize,
    cursor: Option<Cursor>,
) -> Page<'_> {
    let (start, end) = match cursor {
        None => (0, limit),
        Some(Cursor { back, key, name }) => {
            let at = (key, name);
            let before = |entry: &(String, String)| match entry.cmp(&at) {
                Ordering::Equal => false,
                order => (order == Ordering::Less) != descending,
            };
            let index = all.partition_point(before);
            if back {
                (index.saturating_sub(limit), index)
            } else {
                // The one at the cursor was on the page before; it may be gone.
                let index = index + usize::from(all.get(index) == Some(&at));
                (index, index + limit)
            }
        }
    };
    let end = end.min(all.len());
    let entries = all.get(start.min(end)..end).unwrap_or_default();
    Page { entries, more_before: start > 0, more_behind: end < all.len() }
}

fn within(between: Between, at: Option<u64>) -> bool {
    let Between { from, to } = between;
    if from.is_none() && to.is_none() {
        return true;
    }
    at.is_some_and(|at| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at <= to))
}

fn matches(filter: &Filter, connection: &Connection, state: State) -> bool {
    let shown = match filter.state.as_deref() {
        Some("archived") => connection.archived,
        Some(wanted) => state.as_str() == wanted && !connection.archived,
        None if connection.archived => filter.include_archived,
        None => {
            // Who asks for times of being disabled wants disabled ones.
            let asked = filter.include_disabled || filter.disabled != Between::default();
            asked || state != State::Disabled
        }
    };
    let has = |(key, value): &(String, Option<String>)| {
        let label = connection.labels.get(key);
        label.is_some_and(|label| value.as_ref().is_none_or(|value| value == label))
    };
    let same_host = |host: &String| host.eq_ignore_ascii_case(&connection.target.host);
    shown
        && filter.name.as_deref().is_none_or(|pattern| glob(pattern, &connection.name))
        && filter.labels.iter().all(has)
        && filter.source.as_ref().is_none_or(|source| connection.sources.contains(source))
        && filter.host.as_ref().is_none_or(same_host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::connection;

    #[test]
    fn filters_ask_for_all_that_they_name() {
        let mut crm = connection("crm", "http://crm.example:8080/x");
        crm.labels.insert("team".to_owned(), "sales".to_owned());
        let check = |filter: Filter, expected: bool| {
            assert_eq!(matches(&filter, &crm, State::Active), expected, "{filter:?}");
        };
        let some = |text: &str| Some(text.to_owned());
        check(Filter::default(), true);
        check(Filter { name: some("c*"), ..Filter::default() }, true);
        check(Filter { name: some("d*"), ..Filter::default() }, false);
        check(Filter { labels: vec![("team".to_owned(), None)], ..Filter::default() }, true);
        check(
            Filter { labels: vec![("team".to_owned(), some("sales"))], ..Filter::default() },
            true,
        );
        check(Filter { labels: vec![("team".to_owned(), some("it"))], ..Filter::default() }, false);
        check(Filter { source: some("default"), ..Filter::default() }, true);
        check(Filter { source: some("shop"), ..Filter::default() }, false);
        check(Filter { host: some("CRM.example"), ..Filter::default() }, true);
        check(Filter { host: some("example"), ..Filter::default() }, false);
        check(Filter { state: some("active"), ..Filter::default() }, true);
        check(Filter { state: some("paused"), ..Filter::default() }, false);
    }

    #[test]
    fn disabled_and_archived_ones_are_shown_to_who_asks() {
        let mut connection = connection("crm", "http://crm.example/");
        let shows =
            |filter: &Filter, connection: &Connection| matches(filter, connection, State::Disabled);
        let disabled = Filter { include_disabled: true, ..Filter::default() };
        let archived = Filter { include_archived: true, ..Filter::default() };
        let state = |state: &str| Filter { state: Some(state.to_owned()), ..Filter::default() };
        assert!(!shows(&Filter::default(), &connection) && !shows(&archived, &connection));
        assert!(shows(&disabled, &connection) && shows(&state("disabled"), &connection));
        connection.archived = true;
        assert!(!shows(&disabled, &connection) && !shows(&state("disabled"), &connection));
        assert!(shows(&archived, &connection) && shows(&state("archived"), &connection));
    }

    #[test]
    fn times_are_asked_for_with_both_ends() {
        let between = |from, to| Between { from, to };
        assert!(within(between(None, None), None));
        assert!(!within(between(Some(1), None), None), "what is not known is not within");
        assert!(within(between(Some(5), Some(5)), Some(5)));
        assert!(
            !within(between(Some(6), None), Some(5)) && !within(between(None, Some(4)), Some(5))
        );
    }

    #[test]
    fn pages_lead_through_the_list_and_back() {
        for descending in [false, true] {
            let mut all: Vec<(String, String)> =
                ["a", "b", "c", "d", "e"].map(|name| (String::new(), name.to_owned())).into();
            if descending {
                all.reverse();
            }
            let names = |page: &Page<'_>| -> Vec<String> {
                page.entries.iter().map(|(_, name)| name.clone()).collect()
            };
            let cursor = |back, (key, name): &(String, String)| {
                Some(Cursor { back, key: key.clone(), name: name.clone() })
            };
            let first = page(&all, descending, 2, None);
            assert_eq!(
                (names(&first).len(), first.more_before, first.more_behind),
                (2, false, true)
            );
            let second = page(&all, descending, 2, cursor(false, &all[1]));
            assert_eq!(second.entries, &all[2..4]);
            assert!(second.more_before && second.more_behind);
            let third = page(&all, descending, 2, cursor(false, &all[3]));
            assert_eq!(third.entries, &all[4..]);
            assert!(third.more_before && !third.more_behind);
            let back = page(&all, descending, 2, cursor(true, &all[4]));
            assert_eq!(back, second);
            assert_eq!(page(&all, descending, 2, cursor(true, &all[2])), first);
            // What the cursor stood at may be gone.
            let mut fewer = all.clone();
            fewer.remove(1);
            assert_eq!(page(&fewer, descending, 2, cursor(false, &all[1])).entries, &all[2..4]);
            assert!(page(&[], descending, 2, cursor(false, &all[1])).entries.is_empty());
        }
    }
}

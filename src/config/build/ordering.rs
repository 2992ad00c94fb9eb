//! `ordering`, `ordering_key` and `on_dead`: what must go together.

use super::*;
use crate::config::layers::Draft;
use crate::connection::ordering::{By, OnDead, Ordering};
use crate::connection::path;

impl Build<'_> {
    pub(super) fn ordering(&mut self, draft: &Draft) -> Option<Ordering> {
        let table = &draft.table;
        let on_dead = match table.word("on_dead") {
            "halt" => OnDead::Halt,
            _ => OnDead::Skip,
        };
        let key = self.ordering_key(draft);
        if !matches!(table.word("ordering"), "none") && !table.span("delay").is_zero() {
            let message =
                "is set, but what is delayed stands in no order; leave out delay or ordering";
            self.wrong(draft, "delay", message.to_owned());
        }
        match table.word("ordering") {
            "strict" => Some(Ordering { by: By::Connection, on_dead }),
            "key" => {
                if table.get("ordering_key").is_none() && !table.refused(&["ordering_key"]) {
                    let message = "is \"key\" without a key, write one as in ordering_key = \"body.order.id\"";
                    let path = format!("{}ordering", draft.path);
                    let item = table.get("ordering");
                    self.error_at(item, &draft.place, &path, message.to_owned());
                }
                Some(Ordering { by: By::Key(key?), on_dead })
            }
            _ => {
                self.without_ordering(draft);
                None
            }
        }
    }

    fn ordering_key(&mut self, draft: &Draft) -> Option<path::Path> {
        let parsed = path::Path::parse(draft.table.text("ordering_key")?);
        parsed.map_err(|message| self.wrong(draft, "ordering_key", message)).ok()
    }

    /// Who writes a key and forgets `ordering` believes that there is an order.
    fn without_ordering(&mut self, draft: &Draft) {
        let table = &draft.table;
        if table.written("ordering").is_some() || table.refused(&["ordering"]) {
            return;
        }
        for (key, wanted) in [
            ("ordering_key", "ordering = \"key\""),
            ("on_dead", "ordering = \"strict\" or \"key\""),
        ] {
            if table.written(key).is_some() {
                self.wrong(draft, key, format!("does nothing without {wanted}; write that too"));
            }
        }
    }

    fn wrong(&mut self, draft: &Draft, key: &str, message: String) {
        let path = format!("{}{key}", draft.path);
        self.error_at(draft.table.get(key), &draft.place, &path, message);
    }
}

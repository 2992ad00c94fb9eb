//! What the API asks of the daemon about its configuration, as plain values.

use super::api::connections::{Document, Object};
use super::command::{Refusal, ReloadRefused};

/// Who asks, and what they may do. Made by the listener, for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For the audit log: `unix uid 1000`, `token ops`.
    pub by: String,
    /// `None`: nothing but what is open to all.
    pub scope: Option<Scope>,
}

/// What somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look.
    Read,
    /// Pause, disable, reload, replay.
    Operate,
    /// Change connections.
    Admin,
}

impl Scope {
    /// The word in files and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Operate => "operate",
            Scope::Admin => "admin",
        }
    }
}

/// One edit of one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The connection.
    pub name: String,
    /// What to do.
    pub change: Change,
    /// What must be true before.
    pub condition: Condition,
    /// Whether it is put in force at once; `None`: as the configuration's `reload` says.
    pub reload: Option<bool>,
    /// Who wants it.
    pub by: String,
}

/// One import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The ZIP file.
    pub bytes: bytes::Bytes,
    /// Whether nothing is to be done.
    pub dry_run: bool,
    /// What becomes of a name that is taken.
    pub on_conflict: OnConflict,
    /// Whether connections that lack something are left out; else nothing is imported.
    pub skip: bool,
    /// Whether it is put in force at once; `None`: as the configuration's `reload` says.
    pub reload: Option<bool>,
    /// Who wants it.
    pub by: String,
}

/// What becomes of a name that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is imported.
    Fail,
    /// The new one takes its place.
    Overwrite,
    /// The new one gets another name.
    Rename,
}

/// What to do with a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Make it.
    Create(Object),
    /// Make it, or give it exactly these keys.
    Replace(Object),
    /// Change these keys, and remove those that are null (RFC 7396).
    Patch(Object),
    /// Remove it.
    Delete,
    /// Change its state.
    Act(Action),
}

impl Change {
    /// The word in the audit log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Change::Create(_) => "create",
            Change::Replace(_) => "replace",
            Change::Patch(_) => "patch",
            Change::Delete => "delete",
            Change::Act(action) => action.as_str(),
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Active becomes paused.
    Pause,
    /// It is paused until the daemon is started again; no file is changed.
    PauseUntilRestart,
    /// Paused becomes active.
    Resume,
    /// Disabled becomes active.
    Enable,
    /// It becomes disabled.
    Disable,
    /// It is hidden, and disabled while it is.
    Archive,
    /// It is what it was before it was archived.
    Unarchive,
}

impl Action {
    /// Those that have a path.
    pub const ALL: [Action; 6] = [
        Action::Pause,
        Action::Resume,
        Action::Enable,
        Action::Disable,
        Action::Archive,
        Action::Unarchive,
    ];

    /// The word in paths and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::PauseUntilRestart => "pause_until_restart",
            Action::Resume => "resume",
            Action::Enable => "enable",
            Action::Disable => "disable",
            Action::Archive => "archive",
            Action::Unarchive => "unarchive",
        }
    }

    /// Of a path; `unpause` is another word for `resume`.
    pub fn parse(text: &str) -> Option<Action> {
        let word = if text == "unpause" { "resume" } else { text };
        Action::ALL.into_iter().find(|action| action.as_str() == word)
    }
}

/// What must be true of a connection before it is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `If-Match`: one of these etags, or any for `*`. Empty: nothing is asked.
    pub if_match: Vec<String>,
    /// `If-None-Match: *`: there must be none.
    pub if_none: bool,
}

/// An edit that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// The connection as it is now; `None`: it is gone.
    pub document: Option<Document>,
    /// Whether there was none before.
    pub created: bool,
}

/// Why an edit, or a look at a connection, came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditRefused {
    /// The edit itself cannot be done.
    Cannot(Why, String),
    /// The configuration would not be legal with it.
    Invalid(ReloadRefused),
    /// The connection cannot be held, or go on.
    Hold(Refusal),
}

/// The kinds of refusals; each has a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no such connection.
    Unknown,
    /// There was one, and it was deleted not long ago.
    Gone,
    /// The name is taken.
    Taken,
    /// The document has another name than the path.
    OtherName,
    /// The document cannot be a connection.
    Document,
    /// The connection was changed since it was read.
    Stale,
    /// The connection's state does not allow it.
    State,
    /// The file does not parse.
    Broken,
    /// The file is a symbolic link.
    Link,
    /// The file may not be written.
    ReadOnly,
    /// Somebody else writes the file.
    Busy,
    /// As many as may run at once do.
    TooMany,
    /// The disk, or the daemon itself, failed.
    Failed,
}

/// Which connections are asked for, and which page of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Which.
    pub filter: Filter,
    /// In which order.
    pub order_by: OrderBy,
    /// The other way round.
    pub descending: bool,
    /// At most so many; 1 to 255.
    pub limit: u32,
    /// Where another page ended.
    pub cursor: Option<Cursor>,
}

/// Which connections are asked for. What is `None` or empty asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// A pattern of the name: `*` is any text, `?` any character.
    pub name: Option<String>,
    /// Labels that it has, with a value or any.
    pub labels: Vec<(String, Option<String>)>,
    /// The state: `active`, `paused`, `disabled` or `archived`.
    pub state: Option<String>,
    /// A source that feeds it.
    pub source: Option<String>,
    /// The host that it delivers to.
    pub host: Option<String>,
    /// Disabled ones too.
    pub include_disabled: bool,
    /// Archived ones too.
    pub include_archived: bool,
    /// Paused not before and not after these times, in milliseconds since 1970.
    pub paused: Between,
    /// Disabled not before and not after these times.
    pub disabled: Between,
}

/// A span of time, in milliseconds since 1970, with both ends in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// Not before.
    pub from: Option<u64>,
    /// Not after.
    pub to: Option<u64>,
}

/// What a list is ordered by; the name decides among equals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrderBy {
    /// The name.
    #[default]
    Name,
    /// The state.
    State,
    /// The host.
    Host,
}

impl OrderBy {
    /// The word in queries.
    pub fn as_str(self) -> &'static str {
        match self {
            OrderBy::Name => "name",
            OrderBy::State => "state",
            OrderBy::Host => "host",
        }
    }
}

/// Where a page ended: behind, or before, the connection of this key and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which end: whether the page before is asked for.
    pub back: bool,
    /// What the list is ordered by, there.
    pub key: String,
    /// The name there.
    pub name: String,
}

impl Cursor {
    /// For the outside; nobody but [`Cursor::from_text`] reads it.
    pub fn to_text(&self, order_by: OrderBy) -> String {
        let parts = [if self.back { "p" } else { "n" }, order_by.as_str(), &self.key, &self.name];
        crate::secret::hex(parts.join("\n").as_bytes(), usize::MAX)
    }

    /// `None` when it is no cursor of a list in this order.
    pub fn from_text(text: &str, order_by: OrderBy, back: bool) -> Option<Cursor> {
        let digits = text.as_bytes();
        let pairs = digits.chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        let text = String::from_utf8(pairs.collect::<Option<Vec<u8>>>()?).ok()?;
        let mut parts = text.split('\n');
        let direction = if back { "p" } else { "n" };
        if parts.next() != Some(direction) || parts.next() != Some(order_by.as_str()) {
            return None;
        }
        let (key, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        parts.next().is_none().then_some(Cursor { back, key, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_to_their_own_list_alone() {
        let cursor = Cursor { back: false, key: "höst".to_owned(), name: "crm".to_owned() };
        let text = cursor.to_text(OrderBy::Host);
        assert_eq!(Cursor::from_text(&text, OrderBy::Host, false), Some(cursor));
        assert_eq!(Cursor::from_text(&text, OrderBy::Name, false), None);
        assert_eq!(Cursor::from_text(&text, OrderBy::Host, true), None);
        for bad in ["", "0", "zz", "é1", "6e", &text[2..], &format!("{text}0a")] {
            assert_eq!(Cursor::from_text(bad, OrderBy::Host, false), None, "{bad}");
        }
    }

    #[test]
    fn actions_have_their_words() {
        for action in Action::ALL {
            assert_eq!(Action::parse(action.as_str()), Some(action));
        }
        assert_eq!(Action::parse("unpause"), Some(Action::Resume));
        assert_eq!(Action::parse("explode"), None);
    }
}

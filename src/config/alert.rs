//! `[[alert]]`: what is told as an event, and to which connection.

use std::time::Duration;

use crate::connection::glob::glob;

/// One `[[alert]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Unique.
    pub name: String,
    /// What it is about; each once.
    pub on: Vec<On>,
    /// Which failures, with [`On::DeliveryFailed`].
    pub which: Which,
    /// How old a delivery may be; there with [`On::BacklogAge`].
    pub threshold: Option<Duration>,
    /// Patterns of connections' names.
    pub connections: Vec<String>,
    /// The connection that delivers its events.
    pub to: String,
    /// The same is told at most this often.
    pub min_interval: Duration,
}

impl Alert {
    /// Whether it is about this.
    pub fn is_on(&self, on: On) -> bool {
        self.on.contains(&on)
    }

    /// Whether it looks at the connection of this name.
    pub fn looks_at(&self, connection: &str) -> bool {
        self.connections.iter().any(|pattern| glob(pattern, connection))
    }
}

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// An attempt or a delivery failed.
    DeliveryFailed,
    /// The oldest delivery of a connection is too old.
    BacklogAge,
    /// A breaker opened.
    BreakerOpen,
    /// The daemon disabled or halted a connection.
    Disabled,
    /// A reload was refused.
    ConfigRejected,
}

impl On {
    /// All of them.
    pub const ALL: [On; 5] =
        [On::DeliveryFailed, On::BacklogAge, On::BreakerOpen, On::Disabled, On::ConfigRejected];

    /// The word in files.
    pub fn as_str(self) -> &'static str {
        match self {
            On::DeliveryFailed => "delivery_failed",
            On::BacklogAge => "backlog_age",
            On::BreakerOpen => "breaker_open",
            On::Disabled => "disabled",
            On::ConfigRejected => "config_rejected",
        }
    }
}

/// Which failures of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That of its first attempt.
    First,
    /// The one that made it a dead letter.
    Final,
    /// Both.
    Both,
}

impl Which {
    /// Whether the first failure counts.
    pub fn first(self) -> bool {
        self != Which::Final
    }

    /// Whether the end as a dead letter counts.
    pub fn last(self) -> bool {
        self != Which::First
    }
}

//! Repeats: a warning or an error that comes again and again, of one place in the program and for one connection, is
//! written a few times, then counted; how often it was not written is said when its window is over. Nothing else is held
//! back: what is at INFO an operator did, and who asks for DEBUG wants all of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::clock::Clock;

/// So many of a kind are written in a window.
pub const BURST: u32 = 20;
/// How long a window is.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are counted at one time; when there are more, the others are written.
const KINDS_MAX: usize = 4096;
/// What says how often something was not written is always written itself.
const TARGET: &str = "posthaste::repeats";

/// Counts what repeats. Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct Repeats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    kinds: Mutex<HashMap<Kind, Count>>,
}

/// A place in the program, and the connection that it is about.
type Kind = (Identifier, Option<String>);

#[derive(Debug)]
struct Count {
    since: Duration,
    written: u32,
    suppressed: u64,
    /// The first message that was not written.
    message: String,
}

impl Repeats {
    pub(super) fn new(clock: Clock) -> Repeats {
        Repeats(Arc::new(Shared { clock, kinds: Mutex::default() }))
    }

    /// Counts an event. Whether it is to be written.
    fn takes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let mut words = Words::default();
        event.record(&mut words);
        let now = self.0.clock.monotonic();
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (metadata.callsite(), words.connection);
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
            return true;
        }
        let fresh = || Count { since: now, written: 0, suppressed: 0, message: String::new() };
        let count = kinds.entry(kind).or_insert_with(fresh);
        // With something to say, the window goes on until that is said.
        if count.suppressed == 0 && now >= count.since + WINDOW {
            *count = fresh();
        }
        if count.written < BURST {
            count.written += 1;
            return true;
        }
        if count.suppressed == 0 {
            count.message = words.message;
        }
        count.suppressed += 1;
        false
    }

    /// Says what was not written in the windows that are over.
    pub(super) fn say(&self) {
        let now = self.0.clock.monotonic();
        let over: Vec<(Kind, Count)> = {
            let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.extract_if(|_, count| now >= count.since + WINDOW).collect()
        };
        for ((_, connection), count) in over {
            if count.suppressed > 0 {
                tracing::warn!(
                    target: TARGET,
                    connection,
                    suppressed = count.suppressed,
                    repeated = count.message,
                    "The same was logged so many times more"
                );
            }
        }
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.takes(event)
    }

    /// The level is the other filter's; without this, each event below it would be looked at.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

/// What is taken of an event.
#[derive(Default)]
struct Words {
    connection: Option<String>,
    message: String,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "connection" => self.connection = Some(value.to_owned()),
            "message" => self.message = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "connection" => self.connection = Some(format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
    }
}

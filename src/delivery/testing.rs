//! What tests of delivery are made of: a connection, an event, a delivery.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::order::End;
use super::{COMMANDS, Dispatcher, DispatcherOptions, runtime};
use crate::clock::{Age, Clock};
use crate::connection::egress::Egress;
use crate::connection::retry::{Jitter, RetryPolicy, Strategy};
use crate::connection::status::StatusSet;
use crate::connection::{
    Connection, Http2, OnRemove, Pool, QueueLimits, State, Target, Tls, WhenFull,
};
use crate::event::{ContentBuilder, Disposition, Event, EventId, Outcome};
use crate::metrics::Metrics;
use crate::store::defects::{self, Defect};
use crate::store::feed::{Delivery, Feed, Lane};
use crate::store::{ConnectionId, DeliveryId};

/// A connection with the defaults of spec 3, but short timeouts and no jitter.
pub(crate) fn connection(name: &str, url: &str) -> Connection {
    Connection {
        name: name.to_owned(),
        display_name: None,
        description: None,
        labels: BTreeMap::new(),
        state: State::Active,
        archived: false,
        sources: vec!["default".to_owned()],
        target: Target::parse(url).unwrap(),
        method: http::Method::POST,
        headers: Vec::new(),
        host_header: None,
        auth: None,
        sign: None,
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
        pool_acquire_timeout: Duration::from_secs(2),
        pool: Pool {
            max_per_host: 4,
            max_total: 48,
            idle_timeout: Duration::from_secs(30),
            max_lifetime: Duration::from_secs(300),
        },
        max_in_flight: 4,
        rate_limit: None,
        retry: RetryPolicy {
            strategy: Strategy::Linear { interval: Duration::from_secs(5) },
            jitter: Jitter::None,
            count: 50,
            max_age: Duration::from_secs(72 * 3600),
            on_status: StatusSet::retry(),
            retry_after_max: Duration::from_secs(3600),
        },
        ordering: None,
        queue: QueueLimits {
            max_events: 1_000_000,
            max_bytes: 1 << 30,
            when_full: WhenFull::DeadLetter,
        },
        max_body: 1 << 20,
        success_status: StatusSet::success(),
        tls: Tls::default(),
        delay: Duration::ZERO,
        renamed_from: None,
        http2: Http2::default(),
        proxy: None,
        egress: Egress::default(),
        on_remove: OnRemove::Hold,
        keeps: Default::default(),
        payload: None,
        breaker: None,
        disable_on_gone: false,
        disable_after: None,
        expire_after: None,
    }
}

/// A JSON event with a fixed id.
pub(crate) fn event(body: &[u8]) -> Arc<Event> {
    let mut content = ContentBuilder::new("default", "test", "", body.len() + 64);
    content.header("content-type", b"application/json");
    content.body(body);
    Arc::new(Event {
        id: EventId::new(1_700_000_000_000, &mut fastrand::Rng::with_seed(1)),
        accepted_ms: 1_700_000_000_000,
        accepted_age: Age(0),
        content: content.finish(),
    })
}

/// A delivery of an event, hot as long as the event is kept.
pub(crate) fn delivery(connection: u32, slot: u32, lane: Lane, event: &Arc<Event>) -> Delivery {
    Delivery {
        id: DeliveryId { connection: ConnectionId(connection), segment: 1, slot, offset: slot },
        lane,
        attempts: u32::from(lane == Lane::Retry),
        first_attempt: None,
        size: u32::try_from(event.content.as_bytes().len()).unwrap(),
        delayed: false,
        hot: Arc::downgrade(event),
    }
}

/// A dispatcher with one runtime that is a task instead of a thread: the caller polls it to its end.
pub(crate) fn local(
    options: DispatcherOptions,
    feed: Feed,
    clock: &Clock,
    metrics: &Metrics,
) -> (Dispatcher, impl Future<Output = ()> + use<>) {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let ticks = Arc::default();
    let (notices, heard) = mpsc::channel(super::notice::NOTICES);
    let parts = runtime::Parts {
        feed,
        clock: clock.clone(),
        payload_bytes: options.payload_bytes,
        seed: options.seed,
        resolvers: options.resolvers,
        ticks: Arc::clone(&ticks),
        inbox,
        notices,
    };
    let runtime = super::Runtime { commands, ticks, thread: Mutex::new(None) };
    let dispatcher = Dispatcher {
        runtimes: vec![runtime],
        attached: Mutex::default(),
        trials: std::sync::Arc::new(tokio::sync::Semaphore::new(super::trial::TRIALS_MAX)),
        metrics: metrics.clone(),
        notices: Mutex::new(Some(heard)),
    };
    let run = async move {
        let local = tokio::task::LocalSet::new();
        let done = local.run_until(runtime::run(parts)).await;
        // As the thread does: attempts that outlived the time to drain end here.
        drop(local);
        if let Some(done) = done {
            let _ = done.send(());
        }
    };
    (dispatcher, run)
}

/// How a delivery of a line has ended, or what a deliberate defect makes of it.
pub(super) fn with_line_defect(end: End) -> End {
    if defects::on(Defect::LineFreedByFailure) { End::Over } else { end }
}

/// What is decided about an attempt, or what a deliberate defect makes of it.
pub(super) fn with_defect(disposition: Disposition, outcome: &Outcome) -> Disposition {
    let failed = matches!(outcome, Outcome::Response { status: 500, .. });
    let wrong = failed && defects::on(Defect::FailureIsDelivered);
    if wrong { Disposition::Delivered } else { disposition }
}

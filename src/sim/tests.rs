//! The simulation's runs.
//!
//! | variable | what it does |
//! |---|---|
//! | `POSTHASTE_LONG=1` | 10,000 seeds instead of some dozens |
//! | `POSTHASTE_SIM_SEED=n` | that seed alone |
//! | `POSTHASTE_SIM_FROM=n` | the first seed of a run, 0 if it is not set |
//! | `POSTHASTE_SIM_TRACE=1` | prints all that happens |

use std::collections::BTreeMap;
use std::str::FromStr;

use super::world::{Report, run};
use crate::store::defects::{Defect, with};

/// Seeds of a short run, and of a long one.
const SEEDS: (u64, u64) = (40, 10_000);

/// Seeds that are run twice, and compared.
const TWICE: u64 = 5;

/// What the relay logs of a seed that is run alone.
const LOG: tracing::Level = tracing::Level::DEBUG;

/// Failing seeds that are told at the most.
const TOLD: usize = 10;

/// What a run must have come through: without it, the simulation tests nothing.
const MUST_REACH: &[&str] = &[
    "breaker open",
    "accepted",
    "answer cut",
    "answer late",
    "answer lost",
    "answer trickled",
    "body too large",
    "books compared",
    "cancelled",
    "changed",
    "clock step",
    "closed without an answer",
    "connect refused",
    "connect timeout",
    "dead letter",
    "disabled",
    "disk full",
    "fault: i/o error",
    "fault: no space",
    "fault: power off",
    "fault: short write",
    "garbage",
    "hang",
    "held",
    "ignored",
    "in flight",
    "kept connection closed",
    "key posted again",
    "killed",
    "long error",
    "marks durable",
    "nowhere to go",
    "ok",
    "order changed",
    "order kept",
    "other status",
    "paused",
    "power cut",
    "power off in a call",
    "put back",
    "queue full",
    "recovery",
    "refused for now",
    "removed",
    "replayed",
    "reset after the request",
    "reset before the request",
    "Retry-After",
    "scheduled",
    "start failed",
    "status 404",
    "status 500",
    "stopped",
    "store full",
    "store in trouble",
    "too large for one",
    "torn write",
];

fn variable<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn is_long() -> bool {
    std::env::var_os("POSTHASTE_LONG").is_some()
}

/// The seeds of `seeds.txt`.
fn kept() -> impl Iterator<Item = u64> {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').next().unwrap().parse().unwrap())
}

/// Runs a seed; if it fails, says how it is run alone.
fn run_loudly(seed: u64, failed: &mut Vec<u64>) -> Report {
    let report = run(seed);
    if let Err(what) = &report.verdict {
        failed.push(seed);
        println!(
            "seed {seed}: {what}\n  alone: POSTHASTE_SIM_SEED={seed} POSTHASTE_SIM_TRACE=1 \
             cargo test --lib sim::tests::everything_gets_through -- --nocapture"
        );
    }
    report
}

#[test]
fn everything_gets_through() {
    let mut failed = Vec::new();
    if let Some(seed) = variable("POSTHASTE_SIM_SEED") {
        // The relay's own log between the lines of the trace. Somebody else may have set one up.
        let _ = tracing_subscriber::fmt().without_time().with_max_level(LOG).try_init();
        let report = run_loudly(seed, &mut failed);
        return assert!(report.verdict.is_ok(), "seed {seed}: {report:?}");
    }
    let first: u64 = variable("POSTHASTE_SIM_FROM").unwrap_or(0);
    let count = if is_long() { SEEDS.1 } else { SEEDS.0 };
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ran = 0;
    for seed in kept().chain(first..first + count) {
        for (state, times) in run_loudly(seed, &mut failed).reached {
            *reached.entry(state).or_default() += times;
        }
        ran += 1;
        if failed.len() >= TOLD {
            break;
        }
    }
    println!("{ran} seeds came through {reached:#?}");
    assert!(failed.is_empty(), "failed: {failed:?}");
    let missing: Vec<_> = MUST_REACH.iter().filter(|state| !reached.contains_key(*state)).collect();
    assert!(missing.is_empty(), "never reached in {ran} seeds: {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..if is_long() { 20 * TWICE } else { TWICE } {
        let (one, other) = (run(seed), run(seed));
        assert_eq!(one.digest, other.digest, "seed {seed}");
        assert_eq!(one.reached, other.reached, "seed {seed}");
        seen.insert(one.digest);
    }
    assert!(seen.len() as u64 >= TWICE, "different seeds give different traces");
}

/// Runs seeds until one notices the defect: `known` first, which only saves time.
fn finds(defect: Defect, known: u64) {
    let found = std::iter::once(known).chain(0..200).find_map(|seed| {
        let what = with(defect, || run(seed)).verdict.err()?;
        Some((seed, what))
    });
    let (seed, what) = found.unwrap_or_else(|| panic!("{defect:?} was not found"));
    println!("{defect:?}: seed {seed} found it: {what}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    finds(Defect::AcknowledgeBeforeSync, 0);
}

#[test]
fn a_sync_that_does_nothing_is_found() {
    finds(Defect::NoDataSync, 0);
}

#[test]
fn a_cancellation_without_a_mark_is_found() {
    finds(Defect::DiscardNotMarked, 16);
}

#[test]
fn a_retry_before_its_time_is_found() {
    finds(Defect::RetryBeforeDue, 5);
}

#[test]
fn a_failure_that_is_settled_as_delivered_is_found() {
    finds(Defect::FailureIsDelivered, 6);
}

#[test]
fn a_failure_that_lets_the_next_of_its_line_go_is_found() {
    finds(Defect::LineFreedByFailure, 2);
}

#[test]
fn an_order_that_begins_without_what_waits_for_a_retry_is_found() {
    finds(Defect::RetriesNotShown, 3);
}

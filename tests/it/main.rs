//! The promises of the README, held against the built binary: a daemon as a child process, receivers and producers in
//! this one. One binary, own ports and own temporary directories for each test, no order, no test that waits by sleeping.
//!
//! `POSTHASTE_LONG=1` runs the full figures; `POSTHASTE_SEED=n` repeats a run of the random ones;
//! `POSTHASTE_BINARY=target/release/posthaste` tests another build. A test that lacks a program
//! says `skipped` on standard error; with `POSTHASTE_NO_SKIP=1` it fails.

#[cfg(test)]
mod activation;
#[cfg(test)]
mod alerts;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod capacity;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
mod dead;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod events;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod ingress;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod manage;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod ordering;
#[cfg(test)]
mod payload;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod renaming;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod stalls;
#[cfg(test)]
mod states;
mod structure;
#[cfg(test)]
mod syscalls;
#[cfg(test)]
mod top;
#[cfg(test)]
mod trial;
#[cfg(test)]
mod units;

//! posthaste: a webhook relay daemon. An app posts an event; it is made durable, answered `202`, and delivered over
//! HTTP(S) to every matching connection.
//!
//! The map, in the order of an event's way; `docs/architecture.md` says more.
//!
//! | module | what it is for |
//! |---|---|
//! | [`event`] | the vocabulary: event, outcome, disposition, cause |
//! | [`connection`] | one configured route, and its pure policies: retry, rate limit, statuses |
//! | [`ingress`] | the way in: HTTP/1.1 on TCP and Unix sockets, up to the `202` |
//! | [`store`] | the only durable thing: a segmented log, marks, recovery |
//! | [`delivery`] | the way out: queues, gates, workers, attempts |
//! | [`client`] | the only door for outbound sockets |
//! | [`admin`] | metrics, health and the API that the command line talks to |
//! | [`source`] | one way in, and pure checks of who posts |
//! | [`config`] | files into plain values; differences; watching |
//! | [`daemon`] | puts it all together and holds it: start, reload, stop |
//! | [`import`] | what other systems export, converted; pure |
//! | [`cli`] | one file per subcommand |
//! | [`systemd`], [`process`], [`logging`] | the surroundings |
//! | [`clock`], [`listener`], [`metrics`], [`problem`], [`secret`], [`units`] | leaves |
//!
//! **Invariants.** Ingress and delivery never call each other: they meet in the store. The store knows neither HTTP nor
//! `Connection`. Nothing but `daemon`, `cli` and `admin` knows `config`. `connection` does no I/O.
//! `tests/it/structure.rs` holds the directions.

pub mod admin;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod delivery;
pub mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod import;
pub mod ingress;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod problem;
pub mod process;
pub mod secret;
#[cfg(test)]
mod sim;
pub mod source;
pub mod store;
pub mod systemd;
pub mod units;

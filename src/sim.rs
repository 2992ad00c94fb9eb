//! The whole relay in one thread, from one seed: real ingress, real store, real delivery, on a disk in memory
//! ([`crate::store::testing::model_disk`]), sockets in memory ([`pipe`]) and the runtime's paused time.
//!
//! A run has a fault phase ([`faults`]), in which targets, disk, process and clocks do what they do at their worst, and a
//! quiet phase ([`quiet`]), in which everything must get through. Beside it stands a [`ledger`], outside of what is being
//! broken: what producers posted and were told, and what targets saw and said. It knows the promises of spec 2, and the
//! first one that is broken ends the run.
//!
//! Everything follows from the seed: the same seed gives the same [`trace`], over posts, attempts and the bytes of every
//! write to the disk. TLS is left out; so is the control loop of the daemon, whose steps [`relay`] takes.

mod endpoint;
mod faults;
mod ledger;
pub(crate) mod pipe;
mod plan;
mod producer;
mod quiet;
mod relay;
#[cfg(test)]
mod tests;
mod trace;
mod wire;
mod world;

//! posthaste
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod event;
pub mod ingress;
pub mod logging;
pub mod metrics;
pub mod problem;
pub mod process;
pub mod secret;
pub mod store;
pub mod systemd;
pub mod units;

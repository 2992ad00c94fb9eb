//! posthaste
pub mod clock;
pub mod config;
pub mod connection;
pub mod event;
pub mod ingress;
pub mod metrics;
pub mod problem;
pub mod secret;
pub mod store;
pub mod units;

//! posthaste
pub mod clock;
pub mod config;
pub mod connection;
pub mod event;
pub mod metrics;
pub mod secret;
pub mod store;
pub mod units;

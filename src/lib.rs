//! posthaste
pub mod client;
pub mod clock;
pub mod connection;
pub mod delivery;
pub mod event;
pub mod metrics;
pub mod store;

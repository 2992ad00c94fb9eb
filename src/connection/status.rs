//! Sets of HTTP statuses.

/// A set of statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet {
    entries: Vec<String>,
    /// One bit for each status from 100 to 599.
    bits: [u64; 8],
}

//! Handing out so that an order can be kept.
//!
//! The egress keeps the order of a connection; the store sees to it that it can. On request ([`Feed::order`]) it
//!
//! 1. hands out nothing more until all of the connection's first attempts and retries have come back;
//! 2. says so ([`FeedItem::Fresh`]), and puts those that came back untried in their old place in the queue;
//! 3. shows each delivery that waits for a retry ([`FeedItem::Shown`]), so that the egress knows what stands before what;
//! 4. hands out as always: first attempts in order of acceptance, retries when they are due.
//!
//! So nothing that the egress has to know survives in it: after a start, a pause or a change of the key it learns all of
//! it anew. Replays take no part in any order, and go on meanwhile.
//!
//! [`Feed::order`]: super::feed::Feed::order
//! [`FeedItem::Fresh`]: super::feed::FeedItem::Fresh
//! [`FeedItem::Shown`]: super::feed::FeedItem::Shown

use super::feed::Lane;
use super::shelf::Key;

/// Whether a connection's deliveries are handed out so that an order can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// As they come.
    No,
    /// Step 1, for the egress's request of this number.
    Settling(u64),
    /// Step 3: what waits for a retry is shown up to this key of its queue.
    Showing(Option<Key>),
    /// Step 4, with so many that stand behind others and take no place in the windows.
    Yes(Parked),
}

/// Deliveries of a connection that stand behind others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// First attempts.
    pub new: usize,
    /// Retries.
    pub retry: usize,
}

impl Parked {
    /// All of them.
    pub fn total(self) -> usize {
        self.new + self.retry
    }

    /// Those of a lane, to be changed; replays stand behind nobody.
    pub fn of(&mut self, lane: Lane) -> &mut usize {
        if lane == Lane::New { &mut self.new } else { &mut self.retry }
    }
}

impl Ordered {
    /// How much the window of a lane is larger; `None`: nothing of it may be handed out now.
    pub fn parked(&self, lane: Lane) -> Option<usize> {
        match (self, lane) {
            (Ordered::No, _) | (_, Lane::Replay) => Some(0),
            (Ordered::Yes(parked), Lane::New) => Some(parked.new),
            (Ordered::Yes(parked), Lane::Retry) => Some(parked.retry),
            (Ordered::Settling(_) | Ordered::Showing(_), _) => None,
        }
    }
}

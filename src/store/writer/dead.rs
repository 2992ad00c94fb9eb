//! Dead letters, as operators ask for them: listed, sent again, ended.

use super::super::command::DeadPage;
use super::super::dead_letter::{DeadCursor, DeadLetter};
use super::super::feed::Lane;
use super::super::marks::Place;
use super::super::schedule;
use super::super::shelf::Item;
use super::super::{ConnectionId, DeliveryId};
use super::Writer;

impl Writer {
    /// A page of a connection's dead letters, in the order in which they died.
    pub(super) fn dead_page(
        &mut self,
        connection: ConnectionId,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> DeadPage {
        let after = after.map(|cursor| cursor.key);
        let page = self.state.dead.page(connection.0, after, limit.saturating_add(1));
        let page = self.readable(page);
        // What cannot be read just now is not the end.
        let more = page.as_ref().is_none_or(|letters| letters.len() > limit);
        let mut letters = page.unwrap_or_default();
        letters.truncate(limit);
        let waiting = self.state.schedule.count(schedule::queue(connection, Lane::Replay));
        let stream = self.state.streams.get(connection.0 as usize);
        let out = stream.and_then(|stream| stream.out.get(Lane::Replay as usize)).copied();
        DeadPage {
            more,
            letters,
            total: self.state.dead.count(connection.0),
            replaying: waiting + out.unwrap_or(0) as u64,
        }
    }

    /// Dead letters of a connection whose event may have been accepted at this time, by their segments' times.
    pub(super) fn dead_at(&self, connection: ConnectionId, unix_ms: u64) -> Vec<DeadLetter> {
        let mut found = Vec::new();
        for segment in self.segments_of(unix_ms) {
            let looked = self
                .state
                .dead
                .look(Some(connection.0), Some(segment), |dead, _| found.push(*dead));
            self.readable(looked);
        }
        found
    }

    /// Sends dead letters on a new run, up to the first that cannot be read just now; which of them.
    pub(super) fn replay(&mut self, letters: &[DeadLetter]) -> Vec<DeliveryId> {
        let mut replayed = Vec::new();
        for letter in letters {
            let removed = self.state.dead.remove(letter.id.connection.0, letter.key());
            match self.readable(removed) {
                Some(Some(dead)) => {
                    self.queue_replay(dead.id, dead.size);
                    replayed.push(dead.id);
                }
                Some(None) => {}
                None => break,
            }
        }
        replayed
    }

    /// Ends dead letters, up to the first that cannot be read just now; how many.
    pub(super) fn purge(&mut self, letters: &[DeadLetter]) -> u64 {
        let mut purged = 0;
        for letter in letters {
            let removed = self.state.dead.remove(letter.id.connection.0, letter.key());
            match self.readable(removed) {
                Some(Some(dead)) => {
                    let place = Place::from(dead.id);
                    self.log.note_delivered(place);
                    self.end(place);
                    self.touch(dead.id.connection);
                    purged += 1;
                }
                Some(None) => {}
                None => break,
            }
        }
        purged
    }
}

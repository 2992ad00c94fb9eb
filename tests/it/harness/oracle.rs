//! Compares what was acknowledged with what arrived, and says what was lost, spurious, altered or double.
//!
//! It trusts neither side: ids and hashes of what was acknowledged come from the producer's ledger, what arrived from
//! the receiver, dead letters from whoever asks the daemon.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::producer::Ledger;
use super::receiver::Arrival;

/// What ought to have happened.
pub(crate) struct Oracle<'a> {
    pub(crate) ledger: &'a Ledger,
    /// Each gets every acknowledged event; the receiver's path is `/` and the name.
    pub(crate) connections: &'a [&'a str],
    /// (connection, event id) of dead letters.
    pub(crate) dead: &'a BTreeSet<(String, String)>,
}

/// What did happen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// (connection, event id): acknowledged, and neither delivered nor a dead letter.
    pub(crate) lost: Vec<(String, String)>,
    /// (connection, event id): arrived, and was never posted, or not for that connection.
    pub(crate) spurious: Vec<(String, String)>,
    /// (connection, event id): arrived with other bytes than were posted.
    pub(crate) altered: Vec<(String, String)>,
    /// Deliveries beyond the first of an event to a connection.
    pub(crate) duplicates: usize,
}

impl Verdict {
    /// Fails the test unless nothing is lost, spurious or altered.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let Verdict { lost, spurious, altered, .. } = self;
        let bad = [lost.len(), spurious.len(), altered.len()];
        let first: Vec<_> = lost.iter().chain(spurious).chain(altered).take(5).collect();
        assert_eq!(bad, [0; 3], "lost, spurious, altered; the first: {first:?}");
    }
}

impl Oracle<'_> {
    /// Judges all arrivals, those that failed included.
    pub(crate) fn judge(&self, arrivals: &[Arrival]) -> Verdict {
        let acknowledged = self.ledger.acknowledged();
        let posted: HashSet<_> = self.ledger.posted();
        let mut verdict = Verdict::default();
        let mut delivered: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for arrival in arrivals {
            let connection = arrival.connection();
            let row = (connection.to_owned(), arrival.id.clone());
            match acknowledged.get(&arrival.id) {
                _ if !self.connections.contains(&connection) => verdict.spurious.push(row),
                Some(hash) if *hash != arrival.sha256 => verdict.altered.push(row),
                // Not acknowledged is unknown: it may arrive, but only as it was posted.
                None if !posted.contains(&arrival.sha256) => verdict.spurious.push(row),
                _ if arrival.succeeded() => {
                    *delivered.entry((connection, &arrival.id)).or_default() += 1;
                }
                _ => {}
            }
        }
        verdict.duplicates = delivered.values().map(|times| times - 1).sum();
        for connection in self.connections {
            for id in acknowledged.keys() {
                let row = ((*connection).to_owned(), id.clone());
                if !delivered.contains_key(&(*connection, id.as_str())) && !self.dead.contains(&row)
                {
                    verdict.lost.push(row);
                }
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::now;
    use crate::harness::producer::sha256;

    fn arrival(path: &str, id: &str, body: &[u8], status: u16) -> Arrival {
        Arrival {
            method: "POST".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            id: id.to_owned(),
            attempt: 1,
            sha256: sha256(body),
            length: body.len(),
            status,
            tcp: 1,
            at: now(),
        }
    }

    fn judge(arrivals: &[Arrival], dead: &[(&str, &str)]) -> Verdict {
        let ledger = Ledger::default();
        for (id, body) in [("evt_1", "one"), ("evt_2", "two")] {
            ledger.note_posted(sha256(body.as_bytes()));
            ledger.note_acknowledged(id, sha256(body.as_bytes()));
        }
        ledger.note_posted(sha256(b"unknown"));
        let dead = dead
            .iter()
            .map(|(connection, id)| ((*connection).to_owned(), (*id).to_owned()))
            .collect();
        let oracle = Oracle { ledger: &ledger, connections: &["a", "b"], dead: &dead };
        oracle.judge(arrivals)
    }

    fn all() -> Vec<Arrival> {
        let rows = [("/a", "evt_1", "one"), ("/a", "evt_2", "two"), ("/b", "evt_1", "one")];
        let mut rows: Vec<_> =
            rows.map(|(path, id, body)| arrival(path, id, body.as_bytes(), 200)).into();
        rows.push(arrival("/b", "evt_2", b"two", 204));
        rows
    }

    #[test]
    fn oracle_finds_nothing_wrong_with_a_clean_run() {
        assert_eq!(judge(&all(), &[]), Verdict::default());
        let mut extra = all();
        extra.push(arrival("/a", "evt_9", b"unknown", 200));
        assert_eq!(judge(&extra, &[]), Verdict::default(), "not acknowledged, but posted");
    }

    #[test]
    fn oracle_misses_each_row_taken_away() {
        for row in 0..all().len() {
            let mut rows = all();
            let gone = rows.remove(row);
            let expected = vec![(gone.connection().to_owned(), gone.id)];
            assert_eq!(judge(&rows, &[]).lost, expected);
            let dead = [(expected[0].0.as_str(), expected[0].1.as_str())];
            assert_eq!(judge(&rows, &dead), Verdict::default(), "a dead letter is not lost");
        }
        let mut failed = all();
        failed[0].status = 503;
        assert_eq!(judge(&failed, &[]).lost.len(), 1, "an attempt is no delivery");
    }

    #[test]
    fn oracle_sees_a_flipped_byte_a_stranger_and_a_duplicate() {
        let mut flipped = all();
        flipped[2].sha256[7] ^= 1;
        let verdict = judge(&flipped, &[]);
        assert_eq!((verdict.altered.len(), verdict.lost.len()), (1, 1));
        for stranger in
            [arrival("/a", "evt_7", b"never posted", 200), arrival("/c", "evt_1", b"one", 200)]
        {
            let mut rows = all();
            rows.push(stranger);
            assert_eq!(judge(&rows, &[]).spurious.len(), 1);
        }
        let mut twice = all();
        twice.extend(all().into_iter().take(1));
        assert_eq!(judge(&twice, &[]).duplicates, 1);
    }

    #[test]
    fn a_verdict_with_a_loss_fails_the_test() {
        let verdict = judge(&all()[1..], &[]);
        assert!(std::panic::catch_unwind(|| verdict.assert_clean()).is_err());
    }
}

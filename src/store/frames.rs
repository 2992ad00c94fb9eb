//! Which events of a scan stand in a frame that a crash cut off: they were written together with others that are not there, and
//! nobody was told that they were stored.

use std::collections::BTreeSet;

use super::record::{Frame, Stamp};

/// The frames of one scan, as its records come.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Frames that lack an event, so far as was read.
    partial: Vec<Partial>,
}

/// Events of one frame.
#[derive(Debug)]
struct Partial {
    commit: u64,
    frame: Frame,
    /// Where those that are there begin.
    offsets: Vec<u64>,
}

impl Frames {
    /// Notes an event.
    pub(super) fn note(&mut self, offset: u64, stamp: Stamp, frame: Frame) {
        // What a later record says to be synced was told to be stored: what is left of it counts.
        let unproven =
            |partial: &Partial| partial.offsets.iter().all(|at| *at >= stamp.durable_upto);
        if !self.partial.is_empty() {
            self.partial.retain(unproven);
        }
        if frame.count > 1 {
            self.note_member(offset, stamp.commit, frame);
        }
    }

    fn note_member(&mut self, offset: u64, commit: u64, frame: Frame) {
        let follows = |partial: &&mut Partial| {
            let last = partial.frame;
            partial.commit == commit && last.mark == frame.mark && last.number < frame.number
        };
        match self.partial.last_mut().filter(follows) {
            Some(partial) => {
                partial.frame.number = frame.number;
                partial.offsets.push(offset);
                if partial.offsets.len() == frame.count as usize {
                    self.partial.pop();
                }
            }
            None => self.partial.push(Partial { commit, frame, offsets: vec![offset] }),
        }
    }

    /// Where the events are that do not count.
    pub(super) fn torn(self) -> BTreeSet<u64> {
        self.partial.into_iter().flat_map(|partial| partial.offsets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events as (offset, commit, durable_upto, number, count); the tens of the number are the mark.
    fn torn(events: &[(u64, u64, u64, u32, u32)]) -> Vec<u64> {
        let mut frames = Frames::default();
        for (offset, commit, durable_upto, number, count) in events {
            let stamp = Stamp { durable_upto: *durable_upto, commit: *commit };
            let frame = Frame { mark: number / 10, number: number % 10, count: *count };
            frames.note(*offset, stamp, frame);
        }
        frames.torn().into_iter().collect()
    }

    #[test]
    fn a_whole_frame_counts_and_a_part_does_not() {
        assert_eq!(torn(&[(64, 1, 64, 0, 1), (128, 1, 64, 0, 2), (192, 1, 64, 1, 2)]), [0; 0]);
        assert_eq!(
            torn(&[(64, 1, 64, 0, 3), (128, 1, 64, 1, 3)]),
            [64, 128],
            "the last is missing"
        );
        assert_eq!(torn(&[(128, 1, 64, 1, 3), (192, 1, 64, 2, 3)]), [128, 192], "the first is");
        assert_eq!(torn(&[(64, 1, 64, 0, 3), (192, 1, 64, 2, 3)]), [64, 192], "one between is");
    }

    #[test]
    fn what_was_synced_counts_even_in_part() {
        let part = [(64, 1, 64, 0, 2), (256, 2, 256, 0, 1)];
        assert_eq!(torn(&part), [0; 0]);
        let unproven = [(64, 1, 64, 0, 2), (256, 1, 64, 0, 1), (320, 2, 64, 0, 1)];
        assert_eq!(torn(&unproven), [64]);
    }

    #[test]
    fn frames_beside_each_other_are_told_apart() {
        let first_lacks_its_end = [(64, 1, 64, 0, 2), (192, 1, 64, 10, 2), (256, 1, 64, 11, 2)];
        assert_eq!(torn(&first_lacks_its_end), [64]);
        let second_lacks_its_begin = [(64, 1, 64, 0, 2), (128, 1, 64, 1, 2), (256, 1, 64, 11, 2)];
        assert_eq!(torn(&second_lacks_its_begin), [256]);
        // The end of one and the begin of the other are missing: what is left is no frame.
        assert_eq!(torn(&[(64, 1, 64, 0, 2), (256, 1, 64, 11, 2)]), [64, 256]);
    }
}

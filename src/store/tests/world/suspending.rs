//! States that the daemon sets itself.

use super::super::super::command::Command;
use super::super::super::suspension::{Suspension, SuspensionKind};
use super::super::super::writer::Writer;
use super::renaming::connection_of;
use super::{Verdict, World, ensure};

impl World {
    /// The daemon holds a connection, or does not any more. The answer is a promise.
    pub fn suspend(&mut self, connection: usize, kind: Option<SuspensionKind>) -> Verdict {
        let Some(process) = &self.process else {
            return Ok(());
        };
        let id = process.ids[connection];
        let at_ms = self.clock.wall_ms();
        let suspension = kind.map(|kind| Suspension { kind, at_ms, settings: self.rng.u64(..) });
        let answer = self.ask(|reply| Command::Suspend { connection: id, suspension, reply })?;
        let possible = &mut self.suspended[connection];
        if answer.is_ok() {
            possible.clear();
        }
        possible.push(suspension);
        let all = self.ask(|reply| Command::Suspensions { reply })?;
        let said = all.into_iter().find(|(known, _)| *known == id).map(|(_, said)| said);
        ensure(said == suspension, || format!("c{connection} is said to be {said:?}"))?;
        self.turn()
    }

    /// After a start: what was promised, but for pauses that end with it.
    pub(super) fn check_suspensions(&mut self, writer: &Writer) -> Verdict {
        for (connection, possible) in self.suspended.iter_mut().enumerate() {
            let mut streams = writer.state.streams.iter();
            let stream = streams.find(|stream| connection_of(&stream.name) == Some(connection));
            let found = stream.and_then(|stream| stream.suspension);
            let stays =
                |suspension: &Suspension| suspension.kind != SuspensionKind::PausedUntilRestart;
            let fits = possible.iter().any(|possible| possible.filter(stays) == found);
            ensure(fits || self.damaged, || {
                format!("c{connection} is {found:?} after a start, but was {possible:?}")
            })?;
            *possible = vec![found];
        }
        Ok(())
    }
}

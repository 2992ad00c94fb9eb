//! Connections that go on under other names: "c0", "c0.1", "c0.2" and so on are one.

use super::super::super::command::{Command, Renamed};
use super::super::super::writer::Writer;
use super::{Verdict, World, ensure};

/// Which connection of the model a name is of.
pub(super) fn connection_of(name: &str) -> Option<usize> {
    name.strip_prefix('c')?.split('.').next()?.parse().ok()
}

impl World {
    /// A connection goes on under a name that it never had. The answer is a promise.
    pub fn rename(&mut self, connection: usize) -> Verdict {
        if self.process.is_none() {
            return Ok(());
        }
        let old = self.names[connection].last().cloned().unwrap_or_default();
        let new = format!("c{connection}.{}", self.rng.u32(..));
        let (from, to) = (old.clone(), new.clone());
        let answer = self.ask(|reply| Command::Rename { old: from, new: to, reply })?;
        ensure(answer.0 == Renamed::Done, || format!("{old} to {new}: {answer:?}"))?;
        let possible = &mut self.names[connection];
        if answer.1.is_ok() {
            possible.clear();
        }
        possible.push(new.clone());
        let (from, to) = (old.clone(), new);
        let again = self.ask(|reply| Command::Rename { old: from, new: to, reply })?;
        ensure(again.0 == Renamed::Nothing, || format!("{old} is still known: {again:?}"))?;
        self.turn()
    }

    /// After a start: each connection has one name, and one that it may have.
    pub(super) fn check_names(&mut self, writer: &Writer) -> Verdict {
        for (connection, possible) in self.names.iter_mut().enumerate() {
            let of_it = |name: &&String| connection_of(name) == Some(connection);
            let found: Vec<_> = writer.state.names.keys().filter(of_it).collect();
            let fits = found.len() <= 1 && found.iter().all(|name| possible.contains(name));
            ensure(fits || self.damaged, || {
                format!("c{connection} is {found:?} after a start, but was {possible:?}")
            })?;
            if let Some(name) = found.first() {
                *possible = vec![(*name).clone()];
            }
        }
        Ok(())
    }
}

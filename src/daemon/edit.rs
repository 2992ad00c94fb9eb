//! Edits of connections through the API: one at a time, in the control loop. An edit is made in memory, the whole
//! configuration is loaded and prepared with it, then the file is written, then all of it is put in force. Only the write can
//! fail after the look at the configuration, and then nothing has changed.

use std::path::PathBuf;

use serde_json::json;

use super::Daemon;
use super::reload::Plan;
use crate::admin::api::connections::{AuditRecord, Document, Object};
use crate::admin::manage::{Action, Change, Condition, Edit, EditRefused, Edited, Why};
use crate::config::edit::{self, EditError, Found, Prepared};
use crate::config::{Pending, ReloadMode};
use crate::connection::State;

/// How often an edit is made again because somebody else wrote the file in between.
const TRIES: usize = 5;

impl Daemon {
    /// Does one edit.
    pub(super) async fn edit(&mut self, edit: Edit) -> Result<Edited, EditRefused> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match self.try_edit(&edit).await {
                Err(EditRefused::Cannot(Why::Busy, _)) if tries > 0 => {}
                done => return done,
            }
        }
    }

    async fn try_edit(&mut self, edit: &Edit) -> Result<Edited, EditRefused> {
        let change = self.change(edit).await?;
        let prepared = self.prepare_edit(edit, change).await?;
        let held = self.hold_or_lift(edit).await?;
        if prepared.is_nothing() {
            if held {
                self.note(edit, &prepared);
            }
            let document = prepared.old.map(|found| self.document(found));
            return Ok(Edited { document, created: false });
        }
        let pending = Pending { file: prepared.file.clone(), content: prepared.after.clone() };
        let plan = self.plan_reload(vec![pending]).await.map_err(EditRefused::Invalid)?;
        if plan.connections_dir() != self.connections_dir {
            let message =
                "the directory of connection files was changed in posthaste.toml; reload first";
            return Err(cannot(Why::Busy, message));
        }
        check_effect(edit, &plan)?;
        let prepared = write(prepared).await?;
        self.take(edit, plan, &prepared).await;
        let created = prepared.old.is_none();
        Ok(Edited { document: prepared.new.map(|found| self.document(found)), created })
    }

    /// Puts it in force, unless it is to wait, and notes it.
    async fn take(&mut self, edit: &Edit, plan: Plan, prepared: &Prepared) {
        let manual = self.config.daemon.reload == ReloadMode::Manual;
        if edit.reload.unwrap_or(!manual) {
            self.take_plan(plan).await;
        } else {
            self.note_file(&edit.name, prepared);
        }
        self.note(edit, prepared);
    }

    /// What of an action is no edit: a pause until a restart, and the end of what the daemon holds a connection for. Says
    /// whether something changed.
    async fn hold_or_lift(&mut self, edit: &Edit) -> Result<bool, EditRefused> {
        let before = self.live(&edit.name).and_then(|live| live.suspension);
        match edit.change {
            Change::Act(Action::PauseUntilRestart) => {
                let paused = self.pause_until_restart(&edit.name).await;
                paused.map_err(EditRefused::Hold)?;
            }
            Change::Act(Action::Resume | Action::Enable) if before.is_some() => {
                self.lift(&edit.name).await.map_err(EditRefused::Hold)?;
            }
            _ => {}
        }
        Ok(before != self.live(&edit.name).and_then(|live| live.suspension))
    }

    /// Writes the line of the audit log.
    fn note(&mut self, edit: &Edit, prepared: &Prepared) {
        let state = self.live(&edit.name).map(|live| live.state().as_str().to_owned());
        self.audit.add(AuditRecord {
            by: edit.by.clone(),
            action: edit.change.as_str().to_owned(),
            connection: Some(edit.name.clone()),
            state: state.filter(|_| prepared.new.is_some()),
            old: prepared.old.as_ref().map(|found| found.etag.clone()),
            new: prepared.new.as_ref().map(|found| found.etag.clone()),
            generation: self.generation,
            ..AuditRecord::default()
        });
    }

    /// Remembers where a connection is whose edit waits for a reload.
    fn note_file(&mut self, name: &str, prepared: &Prepared) {
        match &prepared.new {
            Some(found) => drop(self.origins.insert(name.to_owned(), found.file.clone())),
            None => drop(self.origins.remove(name)),
        }
    }

    async fn prepare_edit(
        &mut self,
        edit: &Edit,
        change: edit::Change,
    ) -> Result<Prepared, EditRefused> {
        let Condition { if_match, if_none } = edit.condition.clone();
        let condition = edit::Condition { if_match, if_none };
        let (directory, hint) = self.where_is(&edit.name);
        let name = edit.name.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            edit::prepare(&directory, &name, change, &condition, hint.as_deref())
        });
        let prepared = prepared.await.map_err(|error| cannot(Why::Failed, &error.to_string()))?;
        prepared.map_err(|error| self.refusal(error))
    }

    /// What a change of state is in the file.
    async fn change(&mut self, edit: &Edit) -> Result<edit::Change, EditRefused> {
        Ok(match &edit.change {
            Change::Create(document) => edit::Change::Create(document.clone()),
            Change::Replace(document) => edit::Change::Replace(document.clone()),
            Change::Patch(patch) => edit::Change::Patch(patch.clone()),
            Change::Delete => edit::Change::Delete,
            Change::Act(action) => {
                let found = self.find_in_files(&edit.name).await?;
                let live = self.live(&edit.name);
                let suspended = live.filter(|live| live.connection.state != live.state());
                if *action == Action::Pause
                    && suspended.is_some_and(|live| live.state() == State::Disabled)
                {
                    let message = "the daemon has disabled the connection; enable it first";
                    return Err(cannot(Why::State, message));
                }
                let state = live.map(|live| live.connection.state);
                let patch = state_patch(*action, state, &found.document)?;
                edit::Change::Patch(patch)
            }
        })
    }

    /// One connection as its file has it now.
    pub(super) async fn find_in_files(&mut self, name: &str) -> Result<Found, EditRefused> {
        let (directory, hint) = self.where_is(name);
        let wanted = name.to_owned();
        let found =
            tokio::task::spawn_blocking(move || edit::find(&directory, &wanted, hint.as_deref()));
        let found = found.await.map_err(|error| cannot(Why::Failed, &error.to_string()))?;
        let unknown = || EditError::Unknown(name.to_owned());
        found.and_then(|found| found.ok_or_else(unknown)).map_err(|error| self.refusal(error))
    }

    pub(super) fn where_is(&self, name: &str) -> (PathBuf, Option<PathBuf>) {
        (self.connections_dir.clone(), self.origins.get(name).cloned())
    }

    pub(super) fn refusal(&mut self, error: EditError) -> EditRefused {
        let why = match &error {
            EditError::Unknown(name) if self.audit.is_deleted(name) => {
                let message = format!("connection {name:?} was deleted in the last 7 days");
                return EditRefused::Cannot(Why::Gone, message);
            }
            other => why(other),
        };
        EditRefused::Cannot(why, error.to_string())
    }

    pub(super) fn document(&self, found: Found) -> Document {
        let name = found.document.get("name").and_then(|name| name.as_str()).unwrap_or_default();
        let meta = self.meta(name, &found);
        Document { keys: found.document, meta }
    }
}

async fn write(prepared: Prepared) -> Result<Prepared, EditRefused> {
    let written = tokio::task::spawn_blocking(move || prepared.write().map(|()| prepared));
    let written = written.await.map_err(|error| cannot(Why::Failed, &error.to_string()))?;
    written.map_err(|error| EditRefused::Cannot(why(&error), error.to_string()))
}

pub(super) fn cannot(why: Why, message: &str) -> EditRefused {
    EditRefused::Cannot(why, message.to_owned())
}

pub(super) fn why(error: &EditError) -> Why {
    match error {
        EditError::Unknown(_) => Why::Unknown,
        EditError::Taken { .. } => Why::Taken,
        EditError::OtherName { .. } => Why::OtherName,
        EditError::Document(_) => Why::Document,
        EditError::Stale(_) => Why::Stale,
        EditError::Broken(_) => Why::Broken,
        EditError::Link(_) => Why::Link,
        EditError::ReadOnly { .. } => Why::ReadOnly,
        EditError::Busy(_) => Why::Busy,
        EditError::Failed { .. } => Why::Failed,
    }
}

/// The patch of the file that an action means. `state`: the one in force; `None` for a connection that is not in force.
fn state_patch(
    action: Action,
    state: Option<State>,
    document: &Object,
) -> Result<Object, EditRefused> {
    let archived = document.get("archived") == Some(&true.into());
    let conflict = |message: &str| Err(cannot(Why::State, message));
    let set = |state: State| {
        // `enabled` is another way to write `state`; both together are an error.
        let patch = json!({ "state": state.as_str(), "enabled": null });
        Ok(patch.as_object().cloned().unwrap_or_default())
    };
    let nothing = Ok(Object::new());
    match (action, state) {
        (Action::Archive, _) if archived => nothing,
        (Action::Archive, _) => Ok(Object::from_iter([("archived".to_owned(), true.into())])),
        (Action::Unarchive, _) => Ok(Object::from_iter([("archived".to_owned(), json!(null))])),
        (_, _) if archived => conflict("the connection is archived; unarchive it first"),
        (Action::Pause | Action::Resume, Some(State::Disabled)) => {
            conflict("the connection is disabled; enable it first")
        }
        (Action::PauseUntilRestart, _)
        | (Action::Pause, Some(State::Paused))
        | (Action::Resume, Some(State::Active))
        | (Action::Enable, Some(State::Active | State::Paused))
        | (Action::Disable, Some(State::Disabled)) => nothing,
        (Action::Pause, _) => set(State::Paused),
        (Action::Resume | Action::Enable, _) => set(State::Active),
        (Action::Disable, _) => set(State::Disabled),
    }
}

/// Whether an action leads to its state: an overlay of the environment may stand above it.
fn check_effect(edit: &Edit, plan: &Plan) -> Result<(), EditRefused> {
    let Change::Act(action) = edit.change else {
        return Ok(());
    };
    let Some(connection) = plan.connection(&edit.name) else {
        return Ok(());
    };
    let done = match action {
        Action::Pause | Action::PauseUntilRestart => connection.state == State::Paused,
        Action::Resume | Action::Enable => connection.state == State::Active,
        Action::Disable => connection.state == State::Disabled,
        Action::Archive => connection.archived,
        Action::Unarchive => !connection.archived,
    };
    if done {
        return Ok(());
    }
    Err(cannot(
        Why::State,
        "the overlay of this environment sets the state, or [defaults] sets archived; change it there",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_lead_from_state_to_state() {
        use Action::*;
        use State::{Active, Disabled, Paused};
        let plain = json!({ "name": "a", "enabled": true });
        let hidden = json!({ "name": "a", "archived": true });
        let set = |state: &str| Ok(json!({ "state": state, "enabled": null }));
        let nothing = || Ok(json!({}));
        let refused = || Err(Why::State);
        let cases = [
            (PauseUntilRestart, Active, &plain, nothing()),
            (Pause, Active, &plain, set("paused")),
            (Pause, Paused, &plain, nothing()),
            (Pause, Disabled, &plain, refused()),
            (Resume, Paused, &plain, set("active")),
            (Resume, Active, &plain, nothing()),
            (Resume, Disabled, &plain, refused()),
            (Enable, Disabled, &plain, set("active")),
            (Enable, Paused, &plain, nothing()),
            (Disable, Active, &plain, set("disabled")),
            (Disable, Paused, &plain, set("disabled")),
            (Disable, Disabled, &plain, nothing()),
            (Archive, Active, &plain, Ok(json!({ "archived": true }))),
            (Archive, Disabled, &hidden, nothing()),
            (Unarchive, Disabled, &hidden, Ok(json!({ "archived": null }))),
            (Enable, Disabled, &hidden, refused()),
            (Pause, Disabled, &hidden, refused()),
        ];
        for (action, state, document, expected) in cases {
            let patch = state_patch(action, Some(state), document.as_object().unwrap());
            let patch = patch.map(serde_json::Value::Object).map_err(|refused| match refused {
                EditRefused::Cannot(why, _) => why,
                EditRefused::Invalid(_) | EditRefused::Hold(_) => Why::Failed,
            });
            assert_eq!(patch, expected, "{action:?} {state:?} {document}");
        }
    }
}

//! Connections as ZIP files, through the API: what `posthaste export` and `import` do with files, with the daemon's own look
//! at the configuration. Nothing is written before all of it is known to be legal.

use bytes::Bytes;

use super::Daemon;
use super::edit::{cannot, why};
use crate::admin::api::connections::AuditRecord;
use crate::admin::api::rfc3339;
use crate::admin::api::transfer::{ImportLack, ImportStep, Imported};
use crate::admin::manage::{EditRefused, Import, OnConflict, Why};
use crate::config::ReloadMode;
use crate::config::edit::EditError;
use crate::config::transfer::archive::{pack, unpack};
use crate::config::transfer::export::export;
use crate::config::transfer::unpacked::{Lacking, Unpacked, unpacked};
use crate::config::transfer::{self, Planned, Step};

impl Daemon {
    /// One connection as a ZIP file, and the file's name.
    pub(super) async fn export(&mut self, name: String) -> Result<(String, Bytes), EditRefused> {
        // Where it is now, in case its edit waits for a reload.
        let found = self.find_in_files(&name).await?;
        let root = self.root.path.clone();
        let origins = [(name.clone(), found.file)].into();
        let now = rfc3339(self.clock.wall_ms());
        let date = now.get(..10).unwrap_or_default().to_owned();
        let file = format!("{date}-connection-{name}-export.zip");
        let packed = tokio::task::spawn_blocking(move || {
            let archive = export(&root, &origins, &[name], &now).map_err(refusal)?;
            pack(&archive).map_err(|message| cannot(Why::Failed, &message))
        });
        let packed = packed.await.map_err(|error| cannot(Why::Failed, &error.to_string()))??;
        Ok((file, packed.into()))
    }

    /// Puts the connections of a ZIP file into the directory and in force, all of them or none.
    pub(super) async fn import(&mut self, import: Import) -> Result<Imported, EditRefused> {
        let (root, connections) = (self.root.path.clone(), self.connections_dir.clone());
        let root = std::path::absolute(&root).unwrap_or(root);
        let Import { bytes, dry_run, on_conflict, skip, reload, by } = import;
        let planned = tokio::task::spawn_blocking(move || {
            let invalid = |message: String| cannot(Why::Document, &message);
            let archive = unpack(&bytes).map_err(invalid)?;
            let done = unpacked(&archive, &root, &connections, skip).map_err(invalid)?;
            if !skip && !done.lacking.is_empty() {
                let list = done.lacking.iter();
                let list = list.map(|one| format!("{} {}: {}", one.connection, one.key, one.what));
                let list: Vec<String> = list.collect();
                return Err(invalid(format!(
                    "what the connections need is not here; supply it, or leave them out with missing=skip: {}",
                    list.join("; ")
                )));
            }
            let on_conflict = match on_conflict {
                OnConflict::Fail => transfer::OnConflict::Fail,
                OnConflict::Overwrite => transfer::OnConflict::Overwrite,
                OnConflict::Rename => transfer::OnConflict::Rename,
            };
            let planned = transfer::plan(&root, &connections, &done.package, on_conflict);
            Ok((planned.map_err(refusal)?, done))
        });
        let (planned, unpacked) =
            planned.await.map_err(|error| cannot(Why::Failed, &error.to_string()))??;
        let mut imported = imported(&planned, unpacked, dry_run);
        if planned.is_nothing() {
            return Ok(imported);
        }
        let plan = self.plan_reload(planned.pending()).await.map_err(EditRefused::Invalid)?;
        if plan.connections_dir() != self.connections_dir {
            let message =
                "the directory of connection files was changed in posthaste.toml; reload first";
            return Err(cannot(Why::Busy, message));
        }
        if dry_run {
            return Ok(imported);
        }
        let written = tokio::task::spawn_blocking(move || planned.write());
        let written = written.await.map_err(|error| cannot(Why::Failed, &error.to_string()))?;
        written.map_err(refusal)?;
        let manual = self.config.daemon.reload == ReloadMode::Manual;
        if reload.unwrap_or(!manual) {
            self.take_plan(plan).await;
            imported.reloaded = true;
        }
        for name in &imported.connections {
            self.audit.add(AuditRecord {
                by: by.clone(),
                action: "import".to_owned(),
                connection: Some(name.clone()),
                generation: self.generation,
                ..AuditRecord::default()
            });
        }
        Ok(imported)
    }
}

fn refusal(error: EditError) -> EditRefused {
    EditRefused::Cannot(why(&error), error.to_string())
}

fn imported(planned: &Planned, unpacked: Unpacked, dry_run: bool) -> Imported {
    let step = |step: &Step| ImportStep {
        what: step.what.clone(),
        action: step.action.to_owned(),
        file: step.file.display().to_string(),
        note: step.note.clone(),
    };
    let lack =
        |lack: Lacking| ImportLack { connection: lack.connection, key: lack.key, what: lack.what };
    Imported {
        dry_run,
        connections: planned.names.clone(),
        steps: planned.steps.iter().map(step).collect(),
        lacking: unpacked.lacking.into_iter().map(lack).collect(),
        supply: unpacked.supply.into_iter().map(lack).collect(),
        reloaded: false,
    }
}

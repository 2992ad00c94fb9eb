//! The configuration's files: whether they are legal, who may write them, and whether secrets are for the daemon alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Check;
use crate::config::{self, LoadOptions, Loaded, Refused, connection_files};

/// Files named in one line at most.
const NAMED_MAX: usize = 4;
/// What others may do to a file.
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;

pub(super) fn configuration(root: &Path, loaded: &Result<Loaded, Box<Refused>>) -> Check {
    const NAME: &str = "configuration";
    match loaded {
        Err(refused) => {
            let first = refused.errors.first().map(ToString::to_string).unwrap_or_default();
            let advice = "`posthaste check` shows all of it; what depends on it was not looked at";
            Check::failed(NAME, format!("{refused}: {first}"), advice)
        }
        Ok(loaded) if !root.exists() && loaded.config.connections.is_empty() => {
            let advice = "`posthaste run` says what to write";
            Check::failed(NAME, format!("there is no {}", root.display()), advice)
        }
        Ok(loaded) => {
            let connections = loaded.config.connections.len();
            let detail = format!("{}: {connections} connections", root.display());
            match loaded.warnings.len() {
                0 => Check::ok(NAME, detail),
                more => Check::warning(
                    NAME,
                    format!("{detail}, {more} warnings"),
                    "`posthaste check` shows them",
                ),
            }
        }
    }
}

/// Whether the secrets can be read from here, and by whom else. `legal`: all else in the configuration is right.
pub(super) fn secrets(root: &Path, options: &LoadOptions, legal: bool) -> Vec<Check> {
    let resolved = config::load(root, options);
    let (watched, warnings) = match &resolved {
        Ok(loaded) => (&loaded.watched, &loaded.warnings),
        Err(refused) => (&refused.watched, &refused.warnings),
    };
    let mut checks = Vec::new();
    if let Err(refused) = resolved.as_ref().map_err(AsRef::as_ref)
        && legal
    {
        checks.push(unread(refused));
    }
    let base = root.parent().unwrap_or(Path::new(""));
    // Files with secrets written into them, and files of secrets. Certificates are for everybody.
    let plain = warnings.iter().filter(|warning| warning.message.contains("in plain text"));
    let plain = plain.map(|warning| base.join(&warning.file));
    let referred = watched.files.iter().filter(|path| !is_public(path)).cloned();
    let secret: std::collections::BTreeSet<PathBuf> = plain.chain(referred).collect();
    let mut own = connection_files(&watched.connections).unwrap_or_default();
    own.push(watched.root.clone());
    checks.push(permissions(&secret.into_iter().collect::<Vec<_>>(), &own));
    checks
}

/// Secrets that are not there. Of the environment and of credentials the daemon has its own.
fn unread(refused: &Refused) -> Check {
    let first = refused.errors.first().map(ToString::to_string).unwrap_or_default();
    let here = |message: &str| {
        message.starts_with("the environment variable")
            || message.starts_with("$CREDENTIALS_DIRECTORY")
    };
    if refused.errors.iter().all(|error| here(&error.message)) {
        let advice = "if the daemon has it from its unit, all is well; else set it";
        return Check::warning("secrets", format!("not in this environment: {first}"), advice);
    }
    Check::failed("secrets", first, "`posthaste check` shows all that is missing")
}

fn permissions(secret: &[PathBuf], own: &[PathBuf]) -> Check {
    const NAME: &str = "permissions";
    let written = having(secret.iter().chain(own), OTHERS_WRITE);
    if !written.is_empty() {
        let detail = format!("everybody may write {}", named(&written));
        return Check::failed(NAME, detail, format!("chmod o-w {}", shell(&written)));
    }
    let read = having(secret.iter(), OTHERS_READ);
    if !read.is_empty() {
        let detail = format!("everybody may read secrets: {}", named(&read));
        let advice = format!("chmod o-r {}, or keep them as credentials", shell(&read));
        return Check::failed(NAME, detail, advice);
    }
    Check::ok(NAME, format!("{} files with secrets, for nobody else", secret.len()))
}

fn having<'p>(paths: impl Iterator<Item = &'p PathBuf>, bit: u32) -> Vec<&'p Path> {
    let has = |path: &&PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.permissions().mode() & bit != 0)
    };
    paths.filter(has).map(PathBuf::as_path).collect()
}

fn named(paths: &[&Path]) -> String {
    let shown: Vec<_> =
        paths.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    match paths.len().saturating_sub(NAMED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn shell(paths: &[&Path]) -> String {
    let shown = paths.iter().take(NAMED_MAX).map(|path| path.display().to_string());
    shown.collect::<Vec<_>>().join(" ")
}

/// Whether it is certificates and no key.
fn is_public(path: &Path) -> bool {
    let Ok(content) = fs::read(path) else {
        return false;
    };
    let text = String::from_utf8_lossy(&content);
    text.contains("-----BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;
    use crate::cli::settings;

    /// A configuration with a secret in a file, and a CA; with these modes.
    fn checked(secret_mode: u32, connection_mode: u32, connection: &str) -> Vec<Check> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("connections.d")).unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("posthaste.toml", "", 0o644);
        write("token", "sesame-sesame-sesame", secret_mode);
        let text = format!("[[connection]]\nname = \"crm\"\nurl = \"http://x/\"\n{connection}\n");
        write("connections.d/crm.toml", &text, connection_mode);
        let (root, options) = settings::lookup(Some(&at("posthaste.toml")));
        secrets(&root.path, &options, true)
    }

    fn check(secret_mode: u32, connection_mode: u32, connection: &str, verdict: Verdict) -> String {
        let checks = checked(secret_mode, connection_mode, connection);
        let last = checks.last().unwrap();
        assert_eq!(last.verdict, verdict, "{checks:?}");
        format!("{} {}", last.detail, last.advice.clone().unwrap_or_default())
    }

    const BY_FILE: &str = "auth.bearer.token = { file = \"../token\" }";

    #[test]
    fn secrets_that_everybody_may_read_are_found() {
        check(0o640, 0o644, BY_FILE, Verdict::Ok);
        let said = check(0o644, 0o644, BY_FILE, Verdict::Failed);
        assert!(said.contains("token") && said.contains("chmod o-r"), "{said}");
        // Not referred to: no secret that we know of.
        check(0o644, 0o644, "", Verdict::Ok);
        let plain = "auth.bearer.token = \"sesame-sesame-sesame\"";
        let said = check(0o600, 0o644, plain, Verdict::Failed);
        assert!(said.contains("crm.toml") && !said.contains("sesame"), "{said}");
        check(0o600, 0o640, plain, Verdict::Ok);
        let said = check(0o600, 0o666, "", Verdict::Failed);
        assert!(said.contains("write") && said.contains("chmod o-w"), "{said}");
    }

    #[test]
    fn a_secret_of_the_units_environment_is_no_failure_and_a_missing_file_is() {
        let reference = |reference: &str| format!("auth.bearer.token = {reference}");
        let of = |text: &str| checked(0o600, 0o644, &reference(text)).first().unwrap().clone();
        assert_eq!(of("{ env = \"DOCTOR_UNSET\" }").verdict, Verdict::Warning);
        let missing = of("{ file = \"../nowhere\" }");
        assert_eq!(missing.verdict, Verdict::Failed);
        assert!(missing.detail.contains("nowhere"), "{missing:?}");
    }
}

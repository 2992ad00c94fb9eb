//! Secrets: where they are read from, and a type that cannot be printed.
//!
//! A configuration names a secret by reference: `{ env = "X" }`, `{ file = "/run/secrets/x" }` or `{ credential = "x" }`
//! (systemd's `LoadCredential=`). A plain string works too. References are resolved when the configuration is loaded; this
//! module does not cache, and it does not watch: the caller knows which files were read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The longest secret; a larger file is a mistake.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// A secret value. It has no `Display`, and its `Debug` shows the fingerprint alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a value as it is.
    pub fn new(value: impl Into<Vec<u8>>) -> Secret {
        Secret(value.into())
    }

    /// A file's content: one newline at its end, which editors add, is not part of the secret.
    pub fn from_file(content: &[u8]) -> Secret {
        let cut = content.strip_suffix(b"\n").unwrap_or(content);
        Secret(cut.strip_suffix(b"\r").unwrap_or(cut).to_vec())
    }

    /// The value itself, for the one place that sends or computes with it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The first 8 hex digits of its SHA-256: enough to tell two apart, not enough to guess from.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.0), 4)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.fingerprint())
    }
}

/// The first `count` bytes in hex.
pub(crate) fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// Written into the file itself; works, and is warned about.
    Plain(Secret),
    /// An environment variable.
    Env(String),
    /// A file. A relative path counts from the file that names it.
    File(PathBuf),
    /// A file of `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Plain(secret) => write!(f, "Plain({secret:?})"),
            SecretRef::Env(name) => write!(f, "Env({name:?})"),
            SecretRef::File(path) => write!(f, "File({path:?})"),
            SecretRef::Credential(name) => write!(f, "Credential({name:?})"),
        }
    }
}

/// Why a reference leads nowhere. Never holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No such variable.
    #[error(
        "the environment variable {0} is not set; set it for the daemon (EnvironmentFile= in a unit), or keep the secret in a file: {{ file = \"/path\" }}"
    )]
    EnvMissing(String),
    /// The daemon does not run with credentials.
    #[error(
        "$CREDENTIALS_DIRECTORY is not set; credentials come from LoadCredential= of the systemd unit"
    )]
    NoCredentials,
    /// The service manager gave the daemon credentials, but not this one.
    #[error(
        "cannot read the credential {name} ({path}): {reason}; the unit needs LoadCredential={name}:/path/to/it"
    )]
    NoCredential {
        /// Its name.
        name: String,
        /// Where it would be.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}; write it, or let the user that runs posthaste read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Nothing in it.
    #[error("the secret is empty")]
    Empty,
    /// Longer than [`SECRET_BYTES_MAX`].
    #[error("the secret is longer than 64KiB")]
    TooLong,
}

impl SecretRef {
    /// The file to read (and to watch) for this secret, if it is in one.
    ///
    /// # Errors
    /// A credential without `$CREDENTIALS_DIRECTORY`.
    pub fn file(&self, env: &Env) -> Result<Option<PathBuf>, SecretError> {
        match self {
            SecretRef::Plain(_) | SecretRef::Env(_) => Ok(None),
            SecretRef::File(path) => Ok(Some(path.clone())),
            SecretRef::Credential(name) => {
                let directory =
                    env.get("CREDENTIALS_DIRECTORY").ok_or(SecretError::NoCredentials)?;
                Ok(Some(Path::new(&directory).join(name)))
            }
        }
    }

    fn unreadable(&self, path: PathBuf, reason: String) -> SecretError {
        match self {
            SecretRef::Credential(name) => {
                SecretError::NoCredential { name: name.clone(), path, reason }
            }
            _ => SecretError::Unreadable { path, reason },
        }
    }

    /// Reads the secret. `read` reads a file; the caller notes there what it read.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn resolve(
        &self,
        env: &Env,
        read: impl FnOnce(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Secret, SecretError> {
        let secret = match (self, self.file(env)?) {
            (SecretRef::Plain(secret), _) => secret.clone(),
            (SecretRef::Env(name), _) => {
                let value = env.get(name);
                Secret::new(value.ok_or_else(|| SecretError::EnvMissing(name.clone()))?)
            }
            (_, Some(path)) => match read(&path) {
                Ok(content) => Secret::from_file(&content),
                Err(reason) => return Err(self.unreadable(path, reason)),
            },
            (_, None) => return Err(SecretError::NoCredentials),
        };
        match secret.0.len() {
            0 => Err(SecretError::Empty),
            1..=SECRET_BYTES_MAX => Ok(secret),
            _ => Err(SecretError::TooLong),
        }
    }
}

/// The process's environment, as an argument.
#[derive(Clone, Debug, Default)]
pub enum Env {
    /// The real one.
    #[default]
    Process,
    /// A given one, for tests.
    Fixed(BTreeMap<String, String>),
}

impl Env {
    /// A variable; one that is empty counts as not set.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = match self {
            Env::Process => std::env::var(name).ok(),
            Env::Fixed(map) => map.get(name).cloned(),
        };
        value.filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        let pairs = [("TOKEN", "t0p"), ("CREDENTIALS_DIRECTORY", "/creds")];
        Env::Fixed(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }

    fn check(reference: &SecretRef, file: &[u8], expected: Result<&str, &str>) {
        let read = |path: &Path| match path.to_str() {
            Some("/x" | "/creds/x") => Ok(file.to_vec()),
            _ => Err("no such file".to_owned()),
        };
        let found = reference.resolve(&env(), read);
        let found = found.map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap());
        assert_eq!(
            found.map_err(|error| error.to_string()),
            expected.map(str::to_owned).map_err(str::to_owned),
            "{reference:?}"
        );
    }

    #[test]
    fn references_are_resolved() {
        check(&SecretRef::Env("TOKEN".into()), b"", Ok("t0p"));
        check(&SecretRef::File("/x".into()), b"one\n", Ok("one"));
        check(&SecretRef::File("/x".into()), b"one\r\n", Ok("one"));
        check(&SecretRef::File("/x".into()), b"one\n\n", Ok("one\n"));
        check(&SecretRef::Credential("x".into()), b"two", Ok("two"));
        check(&SecretRef::Plain(Secret::new("p")), b"", Ok("p"));
    }

    #[test]
    fn refusals_say_what_is_missing() {
        let unset = "the environment variable NONE is not set; set it for the daemon (EnvironmentFile= in a unit), or keep the secret in a file: { file = \"/path\" }";
        check(&SecretRef::Env("NONE".into()), b"", Err(unset));
        check(&SecretRef::File("/x".into()), b"\n", Err("the secret is empty"));
        let missing =
            "cannot read /y: no such file; write it, or let the user that runs posthaste read it";
        check(&SecretRef::File("/y".into()), b"", Err(missing));
        let missing = "cannot read the credential y (/creds/y): no such file; the unit needs LoadCredential=y:/path/to/it";
        check(&SecretRef::Credential("y".into()), b"", Err(missing));
        let long = vec![b'x'; SECRET_BYTES_MAX + 1];
        check(&SecretRef::File("/x".into()), &long, Err("the secret is longer than 64KiB"));
        let reference = SecretRef::Credential("x".into());
        let alone = Env::Fixed(BTreeMap::new());
        let error = reference.resolve(&alone, |_| Ok(Vec::new())).unwrap_err();
        assert_eq!(error, SecretError::NoCredentials);
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(secret.fingerprint(), "f52fbd32");
        let shown = format!("{secret:?} {:?}", SecretRef::Plain(secret.clone()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

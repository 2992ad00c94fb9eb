//! Where things lie when nobody says: the configuration file, the store, the admin socket.
//!
//! Under systemd the directories come from `ConfigurationDirectory=`, `StateDirectory=` and `RuntimeDirectory=`; as root
//! they are those of the file system's hierarchy; else those of the user (XDG).

use std::path::{Path, PathBuf};

use crate::secret::Env;

/// Name of the daemon's own file.
pub const FILE_NAME: &str = "posthaste.toml";

/// Who runs this, as far as default paths are concerned.
#[derive(Clone, Debug)]
pub struct Places {
    env: Env,
    /// Root, who uses `/etc`, `/var/lib` and `/run`.
    privileged: bool,
}

/// The configuration file to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFile {
    /// Where it is.
    pub path: PathBuf,
    /// Somebody named it, so it must exist.
    pub named: bool,
}

impl Places {
    /// Those of this process.
    pub fn of_process() -> Places {
        Places::new(Env::Process, rustix::process::geteuid().is_root())
    }

    /// Those of somebody else, for tests.
    pub fn new(env: Env, privileged: bool) -> Places {
        Places { env, privileged }
    }

    /// Finds the configuration: `--config`, `$POSTHASTE_CONFIG`, `$CONFIGURATION_DIRECTORY`, the user's, `/etc`. A directory
    /// stands for the `posthaste.toml` in it.
    pub fn root_file(&self, argument: Option<&Path>) -> RootFile {
        let from_env = || self.env.get("POSTHASTE_CONFIG").map(PathBuf::from);
        if let Some(path) = argument.map(Path::to_owned).or_else(from_env) {
            return RootFile { path: in_directory(path), named: true };
        }
        let system = Path::new("/etc/posthaste").join(FILE_NAME);
        let path = match self.first_of("CONFIGURATION_DIRECTORY") {
            Some(directory) => directory.join(FILE_NAME),
            None if self.privileged => system,
            None => match self.user_directory("XDG_CONFIG_HOME", ".config") {
                Some(user) if user.is_dir() || !system.exists() => user.join(FILE_NAME),
                _ => system,
            },
        };
        RootFile { path, named: false }
    }

    /// Where [`Places::root_file`] looks, in order: what says so, and the file that it says. The last one that says anything
    /// is where a file is expected.
    pub fn looked_at(&self, argument: Option<&Path>) -> Vec<(&'static str, Option<PathBuf>)> {
        let variable = self.env.get("POSTHASTE_CONFIG").map(PathBuf::from).map(in_directory);
        let directory = self.first_of("CONFIGURATION_DIRECTORY").map(|path| path.join(FILE_NAME));
        let user = self.user_directory("XDG_CONFIG_HOME", ".config");
        let mut looks = vec![
            ("--config", argument.map(|path| in_directory(path.to_owned()))),
            ("$POSTHASTE_CONFIG", variable),
            ("$CONFIGURATION_DIRECTORY", directory),
        ];
        // What is named is the only place.
        if looks.iter().all(|(_, path)| path.is_none()) {
            if !self.privileged {
                looks.push(("the user's", user.map(|path| path.join(FILE_NAME))));
            }
            looks.push(("the system's", Some(Path::new("/etc/posthaste").join(FILE_NAME))));
        }
        looks
    }

    /// The default of `[store] path`.
    pub fn store(&self) -> PathBuf {
        if let Some(directory) = self.first_of("STATE_DIRECTORY") {
            return directory;
        }
        let user = || self.user_directory("XDG_STATE_HOME", ".local/state");
        let user = if self.privileged { None } else { user() };
        user.unwrap_or_else(|| PathBuf::from("/var/lib/posthaste"))
    }

    /// The default of `[admin] unix`. A user without a runtime directory, as in most containers, has it beside the store.
    pub fn admin_socket(&self) -> PathBuf {
        let user = || match self.absolute("XDG_RUNTIME_DIR") {
            Some(directory) => Some(directory.join("posthaste")),
            None => self.user_directory("XDG_STATE_HOME", ".local/state"),
        };
        let user = if self.privileged { None } else { user() };
        let directory = self.first_of("RUNTIME_DIRECTORY").or(user);
        let directory = directory.unwrap_or_else(|| PathBuf::from("/run/posthaste"));
        directory.join("admin.sock")
    }

    /// `$XDG_…/posthaste`, or its place below the home directory.
    fn user_directory(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let home = || Some(self.absolute("HOME")?.join(below_home));
        let base = self.absolute(variable).or_else(home)?;
        Some(base.join("posthaste"))
    }

    /// XDG says that relative paths are to be ignored.
    fn absolute(&self, variable: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.env.get(variable)?);
        path.is_absolute().then_some(path)
    }

    /// systemd separates several directories by colons.
    fn first_of(&self, variable: &str) -> Option<PathBuf> {
        let value = self.env.get(variable)?;
        value.split(':').next().map(PathBuf::from)
    }
}

fn in_directory(path: PathBuf) -> PathBuf {
    if path.is_dir() { path.join(FILE_NAME) } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)], privileged: bool) -> Places {
        let pairs = variables.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Places::new(Env::Fixed(pairs.collect()), privileged)
    }

    fn check(variables: &[(&str, &str)], privileged: bool, expected: [&str; 3]) {
        let places = places(variables, privileged);
        let found = [places.root_file(None).path, places.store(), places.admin_socket()];
        assert_eq!(found.map(|path| path.display().to_string()), expected);
    }

    #[test]
    fn defaults_depend_on_who_runs_it() {
        let root =
            ["/etc/posthaste/posthaste.toml", "/var/lib/posthaste", "/run/posthaste/admin.sock"];
        check(&[("HOME", "/root")], true, root);
        let systemd = [
            ("CONFIGURATION_DIRECTORY", "/etc/ph:/etc/other"),
            ("STATE_DIRECTORY", "/var/lib/ph"),
            ("RUNTIME_DIRECTORY", "/run/ph"),
            ("HOME", "/h"),
        ];
        let expected = ["/etc/ph/posthaste.toml", "/var/lib/ph", "/run/ph/admin.sock"];
        check(&systemd, false, expected);
        let home =
            [("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7"), ("XDG_STATE_HOME", "relative")];
        let expected = [
            "/h/.config/posthaste/posthaste.toml",
            "/h/.local/state/posthaste",
            "/run/user/7/posthaste/admin.sock",
        ];
        check(&home, false, expected);
    }

    #[test]
    fn it_says_where_it_looks() {
        let from = |variables: &[(&str, &str)], argument: Option<&str>| {
            let looks = places(variables, false).looked_at(argument.map(Path::new));
            let found = looks.into_iter().filter_map(|(from, path)| Some((from, path?)));
            found.map(|(from, path)| format!("{from} {}", path.display())).collect::<Vec<_>>()
        };
        let home = ("HOME", "/h");
        let expected = [
            "the user's /h/.config/posthaste/posthaste.toml",
            "the system's /etc/posthaste/posthaste.toml",
        ];
        assert_eq!(from(&[home], None), expected);
        let expected = ["$CONFIGURATION_DIRECTORY /c/posthaste.toml"];
        assert_eq!(from(&[home, ("CONFIGURATION_DIRECTORY", "/c:/d")], None), expected);
        assert_eq!(from(&[home], Some("/x.toml")), ["--config /x.toml"]);
    }

    #[test]
    fn a_user_without_a_runtime_directory_has_the_socket_beside_the_store() {
        let places = places(&[("HOME", "/h")], false);
        let expected = Path::new("/h/.local/state/posthaste/admin.sock");
        assert_eq!(places.admin_socket(), expected);
    }

    #[test]
    fn what_is_named_wins_and_must_exist() {
        let places =
            places(&[("POSTHASTE_CONFIG", "/e.toml"), ("CONFIGURATION_DIRECTORY", "/c")], true);
        let named = |path: &str| RootFile { path: path.into(), named: true };
        assert_eq!(places.root_file(None), named("/e.toml"));
        assert_eq!(places.root_file(Some(Path::new("/a.toml"))), named("/a.toml"));
        let directory = places.root_file(Some(Path::new("/")));
        assert_eq!(directory, named("/posthaste.toml"));
    }
}

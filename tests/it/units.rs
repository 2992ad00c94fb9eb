//! The files in `systemd/`: what they have to say, and that they say the same. `.ci/run` has systemd verify them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::binary;

/// The settings of a unit's section, comments left out.
fn settings(file: &str, section: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let header = format!("[{section}]");
    let inside = text.lines().skip_while(|line| *line != header).skip(1);
    let inside = inside.take_while(|line| !line.starts_with('['));
    inside.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_template_is_as_hard_as_the_service() {
    let service = settings("posthaste.service", "Service");
    let template = settings("posthaste@.service", "Service");
    let back = |line: &String| line.replace("/%i", "").replace("-%i", "");
    assert_eq!(template.iter().map(back).collect::<Vec<_>>(), service);
    let own: BTreeSet<_> = template.iter().filter(|line| line.contains("%i")).cloned().collect();
    let expected = [
        "ConfigurationDirectory=posthaste/%i",
        "RuntimeDirectory=posthaste-%i",
        "StateDirectory=posthaste-%i",
    ];
    assert_eq!(own, expected.map(str::to_owned).into());
}

/// A bad configuration, a store of another version and wrong usage are not mended by a restart; all else is tried again, but
/// not for ever.
#[test]
fn a_bad_configuration_is_not_restarted() {
    let service = settings("posthaste.service", "Service");
    for line in ["Type=notify", "Restart=on-failure", "RestartPreventExitStatus=2 78"] {
        assert!(service.contains(&line.to_owned()), "{line}");
    }
    let unit = settings("posthaste.service", "Unit");
    assert!(unit.contains(&"StartLimitBurst=5".to_owned()), "{unit:?}");
}

#[test]
fn the_sockets_are_named_after_the_parts_that_take_them() {
    for (file, name) in [("posthaste.socket", "ingress"), ("posthaste-admin.socket", "admin")] {
        let socket = settings(file, "Socket");
        assert!(socket.contains(&format!("FileDescriptorName={name}")), "{socket:?}");
        assert!(socket.contains(&"Service=posthaste.service".to_owned()), "{socket:?}");
        let files = socket.iter().filter_map(|line| line.strip_prefix("ListenStream=/"));
        for path in files {
            // The service's own directory is removed when it stops, and its sockets with it.
            assert!(!path.starts_with("run/posthaste/"), "{path}");
        }
    }
}

/// The daemon in the container: its own file is legal, and user and store are those of the image.
#[test]
fn the_container_has_a_configuration_and_a_user() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/container");
    let check = Command::new(binary())
        .args(["check", "--config"])
        .arg(config.join("posthaste.toml"))
        .env_remove("POSTHASTE_ENV")
        .output()
        .unwrap();
    let said = String::from_utf8([check.stdout, check.stderr].concat()).unwrap();
    assert_eq!(check.status.code(), Some(0), "{said}");
    let file = fs::read_to_string(config.join("Containerfile")).unwrap();
    assert!(file.contains("\nFROM scratch\n") && file.contains("\nUSER 65532:65532\n"), "{file}");
    let volume = file.lines().find_map(|line| line.strip_prefix("VOLUME [\"")).unwrap();
    let store = volume.strip_suffix("\"]").unwrap();
    assert!(said.contains(&format!("store: {store},")), "{said}");
}

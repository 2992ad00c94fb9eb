//! Every target over its seeds. `UPDATE=1` makes the seeds anew that are files of a store, after a change of the format.

use std::path::{Path, PathBuf};

use crate::store::fuzzing::{Found, seeds};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 11] = [
    ("batch", super::batch),
    ("config", super::config),
    ("filter", super::filter),
    ("record", super::record),
    ("recovery", |data| drop(super::recovery(data))),
    ("request", super::request),
    ("retry_after", super::retry_after),
    ("statuses", super::statuses),
    ("template", super::template),
    ("units", super::units),
    ("url", super::url),
];

/// All seeds together: they are in the repository for good.
const CORPUS_BYTES_MAX: u64 = 200 << 10;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn seeds_of(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(corpus(target)).unwrap();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
    let mut seeds: Vec<_> = files.map(|file| read(file.unwrap().path())).collect();
    seeds.sort();
    seeds
}

#[test]
fn every_seed_of_every_target_keeps_the_promises() {
    let mut bytes = 0;
    for (name, target) in TARGETS {
        let seeds = seeds_of(name);
        assert!(seeds.len() >= 4, "{name} has {} seeds", seeds.len());
        for (path, seed) in seeds {
            bytes += seed.len() as u64;
            println!("{}", path.display());
            target(&seed);
        }
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes of seeds");
}

#[test]
fn every_target_has_a_fuzzer_that_calls_it() {
    let fuzzers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/fuzz_targets");
    let count = std::fs::read_dir(&fuzzers).unwrap().count();
    assert_eq!(count, TARGETS.len());
    for (name, _) in TARGETS {
        let text = std::fs::read_to_string(fuzzers.join(format!("{name}.rs"))).unwrap();
        assert!(text.contains(&format!("fuzzing::{name}(")), "{name}");
    }
}

/// Seeds that stop at the first check would teach a fuzzer nothing.
#[test]
fn the_seeds_of_recovery_reach_deliveries_dead_letters_and_keys() {
    if std::env::var_os("UPDATE").is_some() {
        for (name, recovery, record) in seeds() {
            std::fs::write(corpus("recovery").join(&name), recovery).unwrap();
            std::fs::write(corpus("record").join(&name), record).unwrap();
        }
    }
    let mut all = Found::default();
    for (_, seed) in seeds_of("recovery") {
        let found = super::recovery(&seed);
        all.acknowledged += found.acknowledged;
        all.dead += found.dead;
        all.keys += found.keys;
        all.corrupt += found.corrupt;
    }
    assert!(all.acknowledged > 100 && all.dead > 10 && all.keys > 20, "{all:?}");
    let shapes = seeds().len();
    assert!(shapes >= 7, "the used store has {shapes} files");
}

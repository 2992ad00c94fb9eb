use super::super::disk::{Disk, OsDisk};
use super::super::file::attempts_name;
use super::super::tests::model_disk::{Failure, Fault, Kind, ModelDisk};
use super::super::{OpenError, Shared, StoreMetrics};
use super::memory::{RING_BYTES, SUMMARIES};
use super::recorder::Recorder;
use super::*;
use crate::clock::Clock;

const KIB: u64 = 1 << 10;
const DAY: Duration = Duration::from_secs(86_400);

/// A recorder on a disk, without its thread.
struct Rig {
    clock: Clock,
    disk: Arc<dyn Disk>,
    limit: Limit,
    metrics: Metrics,
    recorder: Recorder,
}

impl Rig {
    fn open(disk: Arc<dyn Disk>, clock: &Clock, limit: Limit) -> Rig {
        let metrics = Metrics::new();
        let recorder = recorder(&disk, clock, limit, &metrics).unwrap();
        Rig { clock: clock.clone(), disk, limit, metrics, recorder }
    }

    /// The process ends without a word and starts again.
    fn reopen(self) -> Rig {
        Rig::open(self.disk, &self.clock, self.limit)
    }

    fn note(&mut self, attempt: Attempt) {
        self.recorder.take(attempt);
        self.recorder.write();
    }

    fn find(&self, query: &AttemptQuery) -> AttemptPage {
        self.recorder.find(query).complete(query)
    }

    /// The status of each attempt that is found, the newest first.
    fn statuses(&self) -> Vec<u16> {
        let page = self.find(&AttemptQuery { limit: 100_000, ..AttemptQuery::default() });
        page.attempts.iter().map(|recorded| recorded.attempt.status).collect()
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn files(&self) -> Vec<(String, u64)> {
        let mut files = self.disk.list().unwrap();
        files.retain(|(name, _)| name.starts_with("at-"));
        files.sort();
        files
    }
}

fn recorder(
    disk: &Arc<dyn Disk>,
    clock: &Clock,
    limit: Limit,
    metrics: &Metrics,
) -> Result<Recorder, OpenError> {
    let shared = Shared {
        ticks: AtomicU64::new(0),
        attempts_bytes: AtomicU64::new(0),
        metrics: StoreMetrics::new(metrics),
    };
    let limits = (limit, 1 << 20, fastrand::u64(..));
    let log = AttemptLog::open(Arc::clone(disk), clock.clone(), Arc::new(shared), limits)?;
    Ok(Recorder::new(log, History::new(metrics).0.lost()))
}

fn clock() -> Clock {
    Clock::manual(1_700_000_000_000)
}

fn model() -> (ModelDisk, Arc<dyn Disk>) {
    let disk = ModelDisk::new(5);
    (disk.clone(), Arc::new(disk))
}

fn limit(bytes: u64) -> Limit {
    Limit { age: 14 * DAY, bytes }
}

/// The nth attempt to a connection; its number is its status.
fn attempt(clock: &Clock, connection: &str, status: u16) -> Attempt {
    Attempt {
        connection: connection.into(),
        event: EventId::new(clock.wall_ms(), &mut fastrand::Rng::with_seed(u64::from(status))),
        number: u32::from(status),
        replay: status.is_multiple_of(2),
        at_ms: clock.wall_ms(),
        age: clock.age(),
        phase: Phase::Response,
        timings: Timings {
            connect: (!status.is_multiple_of(3))
                .then_some(Duration::from_micros(u64::from(status))),
            first_byte: Some(Duration::from_millis(u64::from(status))),
            ..Timings::default()
        },
        took: Duration::from_millis(u64::from(status)),
        remote: Some("127.0.0.1:80".parse().unwrap()),
        status,
        code: Some(Cause::HttpStatus),
        generation: 3,
        excerpt: Bytes::from(vec![b'x'; 1000]),
    }
}

#[test]
fn an_attempt_reads_back_whole_after_a_restart() {
    let clock = clock();
    let mut rig = Rig::open(model().1, &clock, limit(256 * KIB));
    let first = attempt(&clock, "crm", 500);
    let excerpt = Bytes::from_static(b"<h1>\x1b[31mno\x00\xff");
    let odd = Attempt {
        connection: "n".repeat(155).into(),
        remote: Some("[2001:db8::1]:443".parse().unwrap()),
        phase: Phase::Tls,
        timings: Timings::default(),
        excerpt,
        ..attempt(&clock, "", 2)
    };
    let bare = Attempt { remote: None, code: None, excerpt: Bytes::new(), ..first.clone() };
    let all = [first, odd, bare];
    all.iter().for_each(|attempt| rig.note(attempt.clone()));
    let rig = rig.reopen();
    let page = rig.find(&AttemptQuery { limit: 10, ..AttemptQuery::default() });
    let found: Vec<_> = page.attempts.iter().rev().map(|one| one.attempt.clone()).collect();
    assert_eq!((found, page.more), (all.to_vec(), false));
    let numbers: Vec<_> = page.attempts.iter().map(|one| one.number).collect();
    assert_eq!(numbers, [3, 2, 1]);
}

#[test]
fn lists_are_filtered_and_come_in_pages() {
    let clock = clock();
    let mut rig = Rig::open(model().1, &clock, limit(4096 * KIB));
    for status in 0..300 {
        let name = if status % 10 == 0 { "rare" } else { "busy" };
        rig.note(attempt(&clock, name, status));
        clock.advance(Duration::from_secs(1));
    }
    // From memory, and from the files alone.
    for _ in 0..2 {
        let mut query = AttemptQuery {
            connection: Some("rare".to_owned()),
            limit: 12,
            ..AttemptQuery::default()
        };
        let mut found = Vec::new();
        loop {
            let page = rig.find(&query);
            found.extend(page.attempts.iter().map(|one| one.attempt.status));
            query.before = page.attempts.last().map(|one| one.number);
            assert!(page.attempts.len() == 12 || !page.more);
            if !page.more {
                break;
            }
        }
        assert_eq!(found, (0..300).rev().step_by(10).map(|s| s - 9).collect::<Vec<u16>>());
        let count = |query: AttemptQuery| {
            let page = rig.find(&AttemptQuery { limit: 1000, ..query });
            page.attempts.len()
        };
        let none = AttemptQuery::default;
        assert_eq!(count(AttemptQuery { since_ms: 1_700_000_290_000, ..none() }), 10);
        let until_ms = Some(1_700_000_290_000);
        assert_eq!(count(AttemptQuery { until_ms, ..none() }), 290);
        let statuses = Some(vec![3, 7, 290, 999]);
        assert_eq!(count(AttemptQuery { statuses: statuses.clone(), ..none() }), 3);
        assert_eq!(count(AttemptQuery { statuses, until_ms, ..none() }), 2);
        let event = Some(attempt(&Clock::manual(1_700_000_000_007), "x", 7).event);
        assert_eq!(count(AttemptQuery { event, ..none() }), 0, "of another time");
        let event = Some(attempt(&Clock::manual(1_700_000_007_000), "x", 7).event);
        assert_eq!(count(AttemptQuery { event, ..none() }), 1);
        assert_eq!(count(AttemptQuery { code: Some(None), ..none() }), 0);
        assert_eq!(count(AttemptQuery { code: Some(Some(Cause::HttpStatus)), ..none() }), 300);
        rig = rig.reopen();
    }
}

#[test]
fn memory_is_bounded_and_keeps_the_last_of_each_connection() {
    let clock = clock();
    // On disk there is nothing: memory alone answers.
    let nothing = Limit { age: Duration::ZERO, bytes: 256 * KIB };
    let mut rig = Rig::open(model().1, &clock, nothing);
    for status in 0..20 {
        rig.note(attempt(&clock, "quiet", status));
    }
    for status in 0..5000 {
        rig.note(attempt(&clock, "busy", status));
    }
    let bytes = rig.recorder.memory().bytes();
    assert!(bytes <= RING_BYTES && bytes > RING_BYTES - 2000, "{bytes}");
    let of = |name: &str| {
        let query = AttemptQuery {
            connection: Some(name.to_owned()),
            limit: 10_000,
            ..AttemptQuery::default()
        };
        rig.find(&query).attempts
    };
    let quiet = of("quiet");
    assert_eq!(quiet.len(), SUMMARIES);
    assert!(quiet.iter().all(|one| one.attempt.status >= 12 && one.attempt.excerpt.is_empty()));
    assert!(of("busy").len() > 3000);
    assert_eq!((rig.files(), rig.metric("posthaste_attempts_unrecorded_total")), (vec![], 0));
}

#[test]
fn files_are_an_eighth_of_the_cap_and_the_oldest_go() {
    let clock = clock();
    let mut rig = Rig::open(model().1, &clock, limit(256 * KIB));
    for status in 0..2000 {
        rig.note(attempt(&clock, "crm", status));
        assert!(rig.recorder.log_bytes() <= 256 * KIB);
    }
    let files = rig.files();
    assert!((7..=9).contains(&files.len()), "{files:?}");
    assert!(files.iter().all(|(_, bytes)| *bytes <= 33 * KIB), "{files:?}");
    assert_eq!(rig.metric("posthaste_store_attempts_bytes"), rig.recorder.log_bytes());
    let rig = rig.reopen();
    let left = rig.statuses();
    assert!(left.len() > 190 && left[0] == 1999, "{}", left.len());
    assert!(left.windows(2).all(|two| two[0] == two[1] + 1), "without a hole");
}

#[test]
fn old_files_go_by_store_time_also_after_a_restart() {
    let clock = clock();
    let mut rig = Rig::open(model().1, &clock, limit(256 * KIB));
    for status in 0..60 {
        rig.note(attempt(&clock, "crm", status));
    }
    clock.advance(13 * DAY);
    rig.note(attempt(&clock, "crm", 60));
    // Steps of the wall clock end nothing.
    clock.step_wall(4_000_000_000_000);
    let mut rig = rig.reopen();
    assert_eq!(rig.statuses().len(), 61);
    clock.advance(2 * DAY);
    rig.recorder.remove_old();
    let left = rig.statuses();
    assert!(
        (1..61).contains(&left.len()) && left[0] == 60,
        "the file that the last is in: {left:?}"
    );
    clock.advance(14 * DAY);
    rig.recorder.remove_old();
    assert_eq!((rig.statuses().len(), rig.files().len()), (0, 0));
    rig.note(attempt(&clock, "crm", 61));
    assert_eq!(rig.statuses()[0], 61);
}

#[test]
fn a_torn_tail_is_cut_and_written_on_and_damage_is_skipped_and_counted() {
    let clock = clock();
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(directory.path()).unwrap());
    let mut rig = Rig::open(disk, &clock, limit(1024 * KIB));
    (0..10).for_each(|status| rig.note(attempt(&clock, "crm", status)));
    let path = directory.path().join(attempts_name(1));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let mut rig = rig.reopen();
    rig.note(attempt(&clock, "crm", 10));
    assert_eq!(rig.statuses(), [10, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(rig.metric("posthaste_store_corrupt_records_total"), 0, "torn is not damaged");

    let mut damaged = std::fs::read(&path).unwrap();
    assert_eq!(rig.files().len(), 1, "it goes on in the same file");
    damaged[5000] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let rig = rig.reopen();
    assert_eq!(rig.statuses().len(), 9);
    assert_eq!(rig.statuses().len(), 9);
    assert_eq!(rig.metric("posthaste_store_corrupt_records_total"), 1, "once");
}

#[test]
fn an_unknown_version_is_refused_and_a_damaged_header_is_set_aside() {
    let clock = clock();
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(directory.path()).unwrap());
    let mut rig = Rig::open(Arc::clone(&disk), &clock, limit(1024 * KIB));
    rig.note(attempt(&clock, "crm", 1));
    let path = directory.path().join(attempts_name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    std::fs::write(&path, &bytes).unwrap();
    let refused = recorder(&disk, &clock, limit(KIB), &Metrics::new()).unwrap_err();
    assert!(matches!(refused, OpenError::UnknownVersion { version: 9, .. }), "{refused}");

    bytes[9] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let mut rig = rig.reopen();
    assert_eq!(rig.metric("posthaste_store_corrupt_records_total"), 1);
    assert!(directory.path().join("quarantine").join(attempts_name(1)).exists());
    rig.note(attempt(&clock, "crm", 2));
    assert_eq!(rig.statuses(), [2]);
}

/// Every kind of failure at every call: nothing panics, memory has all, and when the disk works again so does history.
#[test]
fn a_disk_that_fails_stops_history_for_a_while() {
    for failure in Failure::ERRORS {
        for kind in [Kind::Create, Kind::Write, Kind::Sync, Kind::SyncDir, Kind::Remove] {
            for after in 0..6 {
                let clock = clock();
                let (model, disk) = model();
                let mut rig = Rig::open(disk, &clock, limit(128 * KIB));
                let for_good = after % 2 == 0;
                model.set_fault(Some(Fault { kind: Some(kind), after, failure, for_good }));
                (0..200).for_each(|status| rig.note(attempt(&clock, "crm", status)));
                assert_eq!(rig.statuses().len(), 200, "{failure:?} {kind:?} {after}");
                let lost = rig.metric("posthaste_attempts_unrecorded_total");
                let must_lose = for_good && kind != Kind::Remove && model.failures() > 0;
                assert!(!must_lose || lost > 0, "{failure:?} {kind:?} {after}");
                model.set_fault(None);
                clock.advance(Duration::from_secs(30));
                rig.note(attempt(&clock, "crm", 200));
                assert_eq!(rig.metric("posthaste_attempts_unrecorded_total"), lost);
                assert!(rig.recorder.log_bytes() <= 128 * KIB);
                let rig = rig.reopen();
                assert_eq!(rig.statuses()[0], 200, "{failure:?} {kind:?} {after}");
            }
        }
    }
}

#[test]
fn the_last_space_of_a_disk_is_not_taken() {
    let clock = clock();
    let (model, disk) = model();
    let mut rig = Rig::open(disk, &clock, limit(256 * KIB));
    model.set_free((1 << 20) - 1);
    rig.note(attempt(&clock, "crm", 1));
    assert_eq!((rig.files(), rig.metric("posthaste_attempts_unrecorded_total")), (vec![], 1));
    model.set_free(8 << 20);
    clock.advance(Duration::from_secs(30));
    rig.note(attempt(&clock, "crm", 2));
    assert_eq!(rig.reopen().statuses(), [2]);
}

#[test]
fn a_lower_limit_holds_at_once() {
    let clock = clock();
    let mut rig = Rig::open(model().1, &clock, limit(1024 * KIB));
    (0..800).for_each(|status| rig.note(attempt(&clock, "crm", status)));
    assert!(rig.recorder.log_bytes() > 600 * KIB);
    assert!(rig.recorder.obey(Message::SetLimit(limit(256 * KIB))));
    assert!(rig.recorder.log_bytes() <= 256 * KIB, "{:?}", rig.files());
    let off = Limit { age: Duration::ZERO, bytes: 256 * KIB };
    assert!(rig.recorder.obey(Message::SetLimit(off)));
    assert_eq!(rig.files(), []);
    rig.note(attempt(&clock, "crm", 1));
    assert_eq!(rig.files(), []);
}

/// A crash keeps what it keeps, and the rest reads on.
#[test]
fn a_power_cut_costs_the_end_of_the_history() {
    for seed in 0..50 {
        let clock = clock();
        let (model, disk) = model();
        let mut rig = Rig::open(disk, &clock, limit(128 * KIB));
        (0..100).for_each(|status| rig.note(attempt(&clock, "crm", status)));
        model.crash(seed);
        let mut rig = rig.reopen();
        let left = rig.statuses();
        assert!(left.windows(2).all(|two| two[0] > two[1]), "{left:?}");
        rig.note(attempt(&clock, "crm", 1000));
        assert_eq!(rig.statuses()[0], 1000);
        let (again, before) = (rig.reopen().statuses(), left.len());
        assert!(again[0] == 1000 && again.len() == before + 1, "{again:?} {left:?}");
    }
}

/// The egress's end: what does not fit is dropped and counted, and questions still have a place.
#[test]
fn a_full_queue_drops_and_counts() {
    let metrics = Metrics::new();
    let (history, messages) = History::new(&metrics);
    (0..300).for_each(|status| history.note(attempt(&clock(), "crm", status)));
    assert_eq!(messages.len(), QUEUE_ATTEMPTS);
    assert!(metrics.render().contains("posthaste_attempts_unrecorded_total 44\n"));
    history.set_limit(limit(KIB));
    assert_eq!(messages.len(), QUEUE_ATTEMPTS + 1);
}

/// Summaries are older than what the files have between them and the ring: they must not stand for it.
#[test]
fn summaries_leave_no_hole() {
    let clock = clock();
    let mut rig = Rig::open(model().1, &clock, limit(16384 * KIB));
    let refused = |name: &str, status| Attempt {
        code: Some(Cause::ConnectRefused),
        ..attempt(&clock, name, status)
    };
    (0..8).for_each(|status| rig.note(refused("quiet", status)));
    (8..20).for_each(|status| rig.note(refused("busy", status)));
    for status in 20..6000 {
        rig.recorder.take(attempt(&clock, "busy", status));
        if status.is_multiple_of(100) {
            rig.recorder.write();
        }
    }
    rig.recorder.write();
    let query = AttemptQuery {
        code: Some(Some(Cause::ConnectRefused)),
        limit: 5,
        ..AttemptQuery::default()
    };
    let page = rig.find(&query);
    let statuses: Vec<_> = page.attempts.iter().map(|one| one.attempt.status).collect();
    assert_eq!((statuses, page.more), (vec![19, 18, 17, 16, 15], true));
    let query = AttemptQuery { connection: Some("quiet".to_owned()), ..query };
    let with_excerpt = rig.find(&query).attempts;
    assert!(with_excerpt.iter().all(|one| one.attempt.excerpt.len() == 1000), "from the files");
}

/// Kind 96 has one time, for all of dialling.
#[test]
fn attempts_of_the_format_before_are_read() {
    use super::super::record::{FileHeader, FileKind, Stamp, decode_record, encode_record};
    let clock = clock();
    let recorded = Recorded { number: 7, attempt: attempt(&clock, "crm", 500) };
    let seed = FileHeader { kind: FileKind::Attempts, number: 1, nonce: 9, created_ms: 1 }.seed();
    let mut now = Vec::new();
    record::encode(&mut now, seed, &recorded);
    let body = decode_record(&now, seed).unwrap().body.to_vec();
    let mut before = Vec::new();
    let stamp = Stamp { durable_upto: 0, commit: 7 };
    encode_record(&mut before, seed, 96, stamp, |out| {
        out.extend_from_slice(&body[..52]);
        out.extend_from_slice(&1234_u32.to_le_bytes());
        out.extend_from_slice(&body[68..]);
    });
    let read = record::decode(&decode_record(&before, seed).unwrap()).unwrap();
    let timings = Timings { connect: Some(Duration::from_micros(1234)), ..Timings::default() };
    let attempt = Attempt { timings, ..recorded.attempt };
    assert_eq!(read, Recorded { number: 7, attempt });
}

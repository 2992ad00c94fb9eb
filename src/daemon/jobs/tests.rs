use super::*;

fn kept(id: usize, state: JobState, walks: u32) -> Kept {
    Kept {
        job: Job {
            id: format!("job_{id}"),
            action: JobAction::Replay,
            state,
            by: "unix uid 0".to_owned(),
            selection: Selection { kind: Some("order".to_owned()), ..Selection::default() },
            counts: JobCounts { total: 10, ..JobCounts::default() },
            started_at: "2025-11-21T00:00:00.000Z".to_owned(),
            ended_at: None,
            error: None,
        },
        born: 77,
        walks: (0..walks).map(Walk::new).collect(),
    }
}

fn jobs(directory: &Path, kept: Vec<Kept>) -> Jobs {
    let mut jobs = Jobs::open(directory);
    jobs.kept = kept;
    jobs.plan(Instant::now());
    jobs
}

#[tokio::test]
async fn jobs_go_on_after_a_restart_where_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = kept(1, JobState::Running, 2);
    let step = |after: Option<&str>| Stepped {
        counts: JobCounts { examined: 4, matched: 3, done: 2, failed: 1, total: 0 },
        after: after.map(str::to_owned),
        ..Stepped::default()
    };
    running.take(step(Some("0-1-2-3")), 1);
    running.take(step(None), 0);
    let second = Walk { after: Some("0-1-2-3".to_owned()), done: 2, ..Walk::new(1) };
    assert_eq!(running.walks, [Walk { again: true, ..Walk::new(0) }, second.clone()]);
    let counts = JobCounts { total: 10, examined: 8, matched: 6, done: 4, failed: 2 };
    assert_eq!(running.job.counts, counts);
    let all = vec![running, kept(2, JobState::Done, 0)];
    let mut saved = jobs(directory.path(), all.clone());
    saved.save().await.unwrap();
    let opened = Jobs::open(directory.path());
    assert_eq!(opened.kept, all);
    assert!(opened.due.is_some(), "one runs");
    let mut ended = jobs(directory.path(), vec![kept(2, JobState::Done, 0)]);
    ended.save().await.unwrap();
    assert_eq!(Jobs::open(directory.path()).due, None);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_put_aside() {
    for text in ["{\"version\":1,\"jobs\":[{", "{\"version\":2,\"jobs\":[]}", ""] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("jobs.json"), text).unwrap();
        assert_eq!(Jobs::open(directory.path()).kept, []);
        let aside = std::fs::read(directory.path().join("jobs.damaged.json")).unwrap();
        assert_eq!(aside, text.as_bytes());
    }
}

/// A disk that takes nothing: it is said, and tried again at the next step.
#[tokio::test]
async fn what_could_not_be_saved_is_saved_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let mut jobs = jobs(&store, vec![kept(1, JobState::Running, 1)]);
    jobs.save_progress(true).await;
    assert!(jobs.unsaved);
    std::fs::create_dir(&store).unwrap();
    jobs.close().await;
    assert_eq!(Jobs::open(&store).kept.len(), 1);
}

#[tokio::test]
async fn jobs_and_their_connections_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let all = vec![
        kept(1, JobState::Running, 2),
        kept(2, JobState::Cancelled, 5),
        kept(3, JobState::Running, 3),
        kept(4, JobState::Running, 0),
    ];
    let mut jobs = jobs(directory.path(), all);
    let mut seen = std::collections::BTreeMap::<(String, usize), u32>::new();
    for _ in 0..18 {
        let (kept, at) = jobs.next().unwrap();
        *seen.entry((kept.job.id.clone(), at)).or_default() += 1;
    }
    let turns: Vec<_> = seen.iter().map(|((id, at), turns)| (id.as_str(), *at, *turns)).collect();
    let expected = [
        ("job_1", 0, 3),
        ("job_1", 1, 3),
        ("job_3", 0, 2),
        ("job_3", 1, 2),
        ("job_3", 2, 2),
        ("job_4", 0, 6),
    ];
    assert_eq!(turns, expected);
}

#[tokio::test]
async fn the_oldest_that_ended_are_forgotten_and_none_that_runs() {
    let directory = tempfile::tempdir().unwrap();
    let mut all: Vec<_> = (1..=ENDED_MAX + 2).map(|id| kept(id, JobState::Done, 0)).collect();
    all.insert(0, kept(0, JobState::Running, 1));
    let mut jobs = jobs(directory.path(), all);
    jobs.forget();
    let ids: Vec<&str> = jobs.kept.iter().map(|kept| kept.job.id.as_str()).collect();
    assert_eq!((ids.len(), &ids[..2]), (ENDED_MAX + 1, &["job_0", "job_3"][..]));
}

/// A letter that was passed over or failed has its turn when the walk goes through again; what is counted is counted once.
#[test]
fn a_walk_goes_through_again_until_there_is_nothing_to_do() {
    let mut running = kept(1, JobState::Running, 1);
    let step = |examined, matched, done| Stepped {
        counts: JobCounts { examined, matched, done, failed: matched - done, total: 0 },
        ..Stepped::default()
    };
    running.take(step(9, 6, 5), 0);
    // The one that failed, one that was passed over, and three that do not match.
    running.take(step(5, 2, 2), 0);
    let counts = JobCounts { total: 10, examined: 10, matched: 7, done: 7, failed: 0 };
    assert_eq!(running.job.counts, counts);
    assert_eq!(running.walks, [Walk { again: true, ..Walk::new(0) }]);
    running.take(step(3, 0, 0), 0);
    assert_eq!((running.job.counts, running.walks), (counts, Vec::new()));
}

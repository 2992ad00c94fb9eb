//! Events whose producers do not wait for the sync, and producers that wait for far more than it.

use super::super::outcomes::{Ended, Outcomes, WATCHERS};
use super::model_disk::{Failure, Fault, Kind, ModelDisk};
use super::*;
use crate::store::intake::Durability;

type Queue = (ConnectionId, Arc<QueueCounters>);

impl Rig {
    fn route(&self, to: &Queue, bytes: usize) -> Route {
        assert!(to.1.try_reserve(bytes as u64, u64::MAX, u64::MAX));
        let (connection, queue) = (to.0, Arc::clone(&to.1));
        Route { connection, queue, fate: Fate::Queued, delay: Duration::ZERO }
    }

    fn event(&mut self, body: &[u8]) -> Arc<Event> {
        let mut content = ContentBuilder::new("default", "", "", body.len());
        content.body(body);
        let id = EventId::new(self.clock.wall_ms(), &mut self.rng);
        let (accepted_ms, accepted_age) = (id.unix_ms(), self.clock.age());
        Arc::new(Event { id, accepted_ms, accepted_age, content: content.finish() })
    }

    /// Appends all of these in one commit; the answers.
    fn append_together(
        &mut self,
        all: &[(&[u8], Durability)],
        to: &Queue,
    ) -> Vec<Result<(), AppendError>> {
        let mut appends = Vec::new();
        let (intake, lane) = self.ends.intakes[0].clone();
        for (body, durability) in all {
            let event = self.event(body);
            let routes = vec![self.route(to, event.content.as_bytes().len())];
            let intake = intake.clone();
            let durability = *durability;
            appends.push(Box::pin(async move {
                intake.append_with(event, routes, None, durability).await
            }));
        }
        let writer = &mut self.writer;
        self.runtime.block_on(async {
            for append in &mut appends {
                assert!(futures_poll(append.as_mut()).await.is_none());
            }
            writer.turn();
            tokio::select! { biased; () = lane.run() => {}, () = std::future::ready(()) => {} }
            let mut answers = Vec::new();
            for append in appends {
                answers.push(append.await);
            }
            answers
        })
    }

    /// Appends an event that is waited for, to several connections.
    fn watch(&mut self, to: &[&Queue], dead: Option<Cause>) -> Option<Outcomes> {
        let event = self.event(b"watched");
        let bytes = event.content.as_bytes().len();
        let mut routes: Vec<_> = to.iter().map(|to| self.route(to, bytes)).collect();
        if let (Some(cause), Some(first)) = (dead, routes.first_mut()) {
            first.queue.give_back(bytes as u64);
            first.fate = Fate::Dead(cause);
        }
        let (intake, lane) = self.ends.intakes[0].clone();
        let writer = &mut self.writer;
        self.runtime.block_on(async {
            let append = intake.append_watched(event, routes, None, Durability::Disk);
            tokio::pin!(append);
            assert!(futures_poll(append.as_mut()).await.is_none());
            writer.turn();
            tokio::select! {
                biased;
                () = lane.run() => unreachable!("it runs for ever"),
                answer = append => answer.unwrap(),
            }
        })
    }

    fn all_known(&self, outcomes: &Outcomes) -> bool {
        self.runtime.block_on(async {
            tokio::select! { biased; () = outcomes.all() => true, () = std::future::ready(()) => false }
        })
    }
}

#[test]
fn relaxed_ones_are_answered_although_their_sync_fails_and_never_delivered_by_that_process() {
    let disk = ModelDisk::new(7);
    let clock = Clock::manual(1_700_000_000_000);
    let mut rig = Rig::open_on(Arc::new(disk.clone()), &clock, options(1));
    let crm = rig.connection("crm");
    rig.pass(Duration::from_secs(2));
    let (relaxed, durable) = (Durability::Relaxed, Durability::Disk);
    let fault = Fault { kind: Some(Kind::Sync), after: 0, failure: Failure::Io, for_good: false };
    disk.set_fault(Some(fault));
    let answers = rig.append_together(&[(b"a", relaxed), (b"b", durable), (b"c", relaxed)], &crm);
    assert_eq!(answers, [Ok(()), Err(AppendError::Failed), Ok(())]);
    assert_eq!(rig.writer.relaxed_lost, 2);
    assert_eq!(crm.1.live.load(Ordering::Relaxed), 0, "the room is given back");
    // One that cannot even be written is refused.
    disk.set_fault(Some(Fault { kind: Some(Kind::Write), ..fault }));
    assert_eq!(rig.append_together(&[(b"d", relaxed)], &crm), [Err(AppendError::Failed)]);
    disk.set_fault(None);
    rig.pass(Duration::from_secs(2));
    let answers = rig.append_together(&[(b"e", relaxed), (b"f", durable)], &crm);
    assert_eq!(answers, [Ok(()), Ok(())]);
    assert_eq!(rig.deliver_all(), [b"e", b"f"]);
    assert_eq!(rig.writer.relaxed_lost, 2);
}

/// What was synced in the end is as safe as any other.
#[test]
fn relaxed_ones_outlive_a_kill() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    assert_eq!(rig.append_together(&[(b"a", Durability::Relaxed)], &crm), [Ok(())]);
    drop(rig);
    let mut rig = Rig::open(directory.path(), &clock);
    rig.connection("crm");
    assert_eq!(rig.deliver_all(), [b"a"]);
}

#[test]
fn who_waits_is_told_how_each_delivery_ended() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let names = ["full", "good", "bad", "removed"];
    let all: Vec<Queue> = names.into_iter().map(|name| rig.connection(name)).collect();
    let to: Vec<_> = all.iter().collect();
    let outcomes = rig.watch(&to, Some(Cause::QueueFull)).unwrap();
    let dead = |cause, status, attempts| Some(Ended::Dead { cause, status, attempts });
    let known = |outcomes: &Outcomes| outcomes.known().into_iter().map(|(_, how)| how);
    let full = dead(Cause::QueueFull, 0, 0);
    assert_eq!(known(&outcomes).collect::<Vec<_>>(), [full, None, None, None]);
    for delivery in rig.due() {
        if delivery.connection() == all[1].0 {
            rig.settle(&delivery, Disposition::RetryAfter(Duration::ZERO));
        } else if delivery.connection() == all[2].0 {
            let cause = Cause::HttpStatus;
            rig.settle(&delivery, Disposition::Dead { cause, status: 422 });
        }
    }
    let retry = rig.due();
    assert!(!rig.all_known(&outcomes));
    retry.iter().for_each(|delivery| rig.settle(delivery, Disposition::Delivered));
    rig.pass(Duration::ZERO);
    let connection = all[3].0;
    assert_eq!(rig.ask(|reply| Command::Discard { connection, reply }).0, 1);
    assert!(rig.all_known(&outcomes));
    let good = Some(Ended::Delivered { attempts: 2 });
    let bad = dead(Cause::HttpStatus, 422, 1);
    assert_eq!(known(&outcomes).collect::<Vec<_>>(), [full, good, bad, Some(Ended::Cancelled)]);
    let ids: Vec<_> = outcomes.known().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, all.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(rig.writer.watched.len(), 0);
}

#[test]
fn a_seat_is_free_again_when_who_waited_goes_away() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let crm = rig.connection("crm");
    let mut waiting: Vec<_> = (0..WATCHERS).map(|_| rig.watch(&[&crm], None).unwrap()).collect();
    assert!(rig.watch(&[&crm], None).is_none(), "it is appended, and nobody waits");
    assert_eq!(rig.writer.watched.len(), WATCHERS);
    waiting.truncate(10);
    rig.pass(Duration::ZERO);
    assert_eq!(rig.writer.watched.len(), 10);
    let last = rig.watch(&[&crm], None).unwrap();
    assert_eq!(rig.deliver_all().len(), WATCHERS + 2);
    assert!(waiting.iter().chain([&last]).all(|outcomes| rig.all_known(outcomes)));
    assert_eq!(rig.writer.watched.len(), 0);
}

/// A record that is moved to a cold segment takes who waits for it along.
#[test]
fn what_is_moved_is_waited_for_where_it_is() {
    let (directory, clock) = start();
    let mut rig = Rig::open(directory.path(), &clock);
    let held = rig.connection("held");
    rig.ask(|reply| Command::Status { reply });
    rig.ends.commands.send(Command::Detach { connection: held.0 }).unwrap();
    rig.writer.turn();
    let outcomes = rig.watch(&[&held], None).unwrap();
    let busy = rig.connection("busy");
    for _ in 0..80 {
        rig.append(&[7; 30_000], std::slice::from_ref(&busy)).unwrap();
        rig.deliver_all();
    }
    compact(&mut rig);
    assert!(rig.writer.state.segments.keys().any(|number| *number < FIRST_HOT), "nothing moved");
    rig.ends.commands.send(Command::Attach { connection: held.0, feed: 0 }).unwrap();
    assert_eq!(rig.deliver_all(), [b"watched"]);
    assert!(rig.all_known(&outcomes));
}

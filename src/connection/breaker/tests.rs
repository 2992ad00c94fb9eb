//! Each rule of the breaker alone, and all of them against a plain model.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: 5,
        failure_ratio: 0.5,
        min_attempts: 20,
        window: 60 * SECOND,
        open_for: 30 * SECOND,
        open_for_max: 300 * SECOND,
    }
}

fn id(number: u128) -> EventId {
    EventId(uuid::Uuid::from_u128(number))
}

/// A breaker and the time it is told.
struct Rig {
    breaker: Breaker,
    now: Instant,
    next: u128,
}

impl Rig {
    fn new(policy: BreakerPolicy) -> Rig {
        let now = Instant::now();
        Rig { breaker: Breaker::new(policy, now), now, next: 0 }
    }

    /// One attempt of a delivery of its own, from start to end.
    fn attempt(&mut self, verdict: Verdict) -> Option<Change> {
        self.next += 1;
        self.attempt_of(self.next, verdict)
    }

    fn attempt_of(&mut self, number: u128, verdict: Verdict) -> Option<Change> {
        let ticket = self.breaker.start();
        self.breaker.ended(ticket, verdict, id(number), self.now)
    }

    fn wait(&mut self, by: Duration) -> Gate {
        self.now += by;
        self.breaker.gate(self.now)
    }
}

#[test]
fn what_counts_is_what_the_target_or_the_way_to_it_did() {
    let success = StatusSet::success();
    let mut seen = [0; 3];
    for status in 100..=599u16 {
        let verdict = Verdict::of(&Outcome::Response { status, retry_after: None }, &success);
        let expected = if status >= 500 { Verdict::Failed } else { Verdict::Alive };
        assert_eq!(verdict, expected, "{status}");
    }
    for cause in Cause::ALL {
        seen[Verdict::of(&Outcome::Failed(cause), &success) as usize] += 1;
    }
    assert_eq!(seen, [0, 16, 11]);
    let own = StatusSet::parse(&["2xx", "503"], super::super::status::Purpose::Success).unwrap();
    let configured = Outcome::Response { status: 503, retry_after: None };
    assert_eq!(Verdict::of(&configured, &own), Verdict::Alive, "a success is a success");
    for (cause, verdict) in [
        (Cause::ConnectRefused, Verdict::Failed),
        (Cause::RequestTimeout, Verdict::Failed),
        (Cause::EgressBlocked, Verdict::Silent),
        (Cause::Template, Verdict::Silent),
        (Cause::Internal, Verdict::Silent),
    ] {
        assert_eq!(Verdict::of(&Outcome::Failed(cause), &success), verdict, "{cause}");
    }
}

#[test]
fn failures_in_a_row_open_it_and_an_answer_in_between_does_not() {
    let mut rig = Rig::new(policy());
    for _ in 0..4 {
        assert_eq!(rig.attempt(Verdict::Failed), None);
    }
    assert_eq!(rig.attempt(Verdict::Alive), None);
    for _ in 0..4 {
        assert_eq!(rig.attempt(Verdict::Failed), None);
        assert_eq!(rig.attempt(Verdict::Silent), None, "our own causes are no answer");
    }
    assert_eq!(rig.breaker.phase(), Phase::Closed);
    assert_eq!(rig.attempt(Verdict::Failed), Some(Change::Opened(30 * SECOND)));
    assert_eq!(rig.wait(29 * SECOND), Gate::Until(rig.now + SECOND));
    assert_eq!(rig.breaker.phase(), Phase::Open);
    assert_eq!(rig.wait(SECOND), Gate::Probe);
}

#[test]
fn one_delivery_counts_once() {
    let mut rig = Rig::new(policy());
    for _ in 0..1000 {
        assert_eq!(rig.attempt_of(7, Verdict::Failed), None);
        rig.wait(10 * SECOND);
    }
    for number in 8..11 {
        assert_eq!(rig.attempt_of(number, Verdict::Failed), None);
    }
    assert!(matches!(rig.attempt_of(11, Verdict::Failed), Some(Change::Opened(_))));
}

#[test]
fn a_share_of_failures_opens_it_when_enough_have_ended() {
    let mut rig = Rig::new(policy());
    // Half of them fail, never two in a row: the twentieth decides.
    for _ in 0..9 {
        assert_eq!(rig.attempt(Verdict::Failed), None);
        assert_eq!(rig.attempt(Verdict::Alive), None);
    }
    rig.attempt(Verdict::Alive);
    assert_eq!(rig.attempt(Verdict::Failed), Some(Change::Opened(30 * SECOND)));
    // Fewer than half do not.
    let mut rig = Rig::new(policy());
    for _ in 0..200 {
        assert_eq!(rig.attempt(Verdict::Failed), None);
        assert_eq!(rig.attempt(Verdict::Alive), None);
        assert_eq!(rig.attempt(Verdict::Alive), None);
    }
}

#[test]
fn what_happened_before_the_window_does_not_count() {
    let mut rig = Rig::new(policy());
    for _ in 0..3 {
        for _ in 0..3 {
            rig.attempt(Verdict::Failed);
        }
        for _ in 0..5 {
            rig.attempt(Verdict::Alive);
        }
        // 9 of 24 failed within a window; then they are forgotten piece by piece.
        rig.wait(6 * SECOND);
    }
    assert_eq!(rig.breaker.window.counts(), (24, 9));
    rig.wait(43 * SECOND);
    rig.attempt(Verdict::Alive);
    assert_eq!(rig.breaker.window.counts(), (17, 6));
    rig.wait(3600 * SECOND);
    rig.attempt(Verdict::Alive);
    assert_eq!(rig.breaker.window.counts(), (1, 0));
}

#[test]
fn one_probe_at_a_time_and_each_that_fails_doubles_the_wait() {
    let mut rig = Rig::new(policy());
    for _ in 0..5 {
        rig.attempt(Verdict::Failed);
    }
    for seconds in [30, 60, 120, 240, 300, 300] {
        let wait = seconds * SECOND;
        assert_eq!(rig.wait(wait - SECOND), Gate::Until(rig.now + SECOND));
        assert_eq!(rig.wait(SECOND), Gate::Probe);
        assert_eq!(rig.wait(SECOND), Gate::Probe, "nothing started yet");
        let ticket = rig.breaker.start();
        assert_eq!(rig.wait(SECOND), Gate::Probing);
        let next = (wait * 2).min(300 * SECOND);
        let change = rig.breaker.ended(ticket, Verdict::Failed, id(1), rig.now);
        assert_eq!(change, Some(Change::Opened(next)), "the same delivery may be the probe again");
        assert_eq!(rig.breaker.phase(), Phase::Open);
    }
    rig.wait(300 * SECOND);
    assert_eq!(rig.attempt(Verdict::Alive), Some(Change::Closed));
    assert_eq!(rig.breaker.phase(), Phase::Closed);
    for _ in 0..4 {
        assert_eq!(rig.attempt(Verdict::Failed), None, "it begins anew");
    }
    assert_eq!(rig.attempt(Verdict::Failed), Some(Change::Opened(30 * SECOND)));
}

#[test]
fn what_started_before_it_opened_says_nothing_afterwards() {
    let mut rig = Rig::new(policy());
    let early: Vec<Ticket> = (0..8).map(|_| rig.breaker.start()).collect();
    for (number, ticket) in (0..).zip(&early[..5]) {
        rig.breaker.ended(*ticket, Verdict::Failed, id(number), rig.now);
    }
    assert_eq!(rig.breaker.phase(), Phase::Open);
    assert_eq!(rig.breaker.ended(early[5], Verdict::Alive, id(50), rig.now), None);
    rig.wait(30 * SECOND);
    let probe = rig.breaker.start();
    assert_eq!(rig.breaker.ended(early[6], Verdict::Alive, id(51), rig.now), None);
    assert_eq!(rig.breaker.ended(early[7], Verdict::Failed, id(52), rig.now), None);
    assert_eq!(rig.breaker.phase(), Phase::HalfOpen);
    assert_eq!(rig.breaker.ended(probe, Verdict::Alive, id(53), rig.now), Some(Change::Closed));
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_another() {
    let mut rig = Rig::new(policy());
    for _ in 0..5 {
        rig.attempt(Verdict::Failed);
    }
    rig.wait(30 * SECOND);
    assert_eq!(rig.attempt(Verdict::Silent), None);
    assert_eq!(rig.wait(SECOND), Gate::Probe);
    let ticket = rig.breaker.start();
    assert_eq!(rig.wait(SECOND), Gate::Probing);
    assert!(rig.breaker.abandoned(ticket));
    assert!(!rig.breaker.abandoned(ticket), "once");
    assert_eq!(rig.wait(SECOND), Gate::Probe);
}

#[test]
fn new_settings_do_not_close_it() {
    let mut rig = Rig::new(policy());
    for _ in 0..5 {
        rig.attempt(Verdict::Failed);
    }
    let changed = BreakerPolicy { open_for: SECOND, window: 10 * SECOND, ..policy() };
    rig.breaker.set_policy(changed, rig.now);
    assert_eq!(rig.wait(29 * SECOND), Gate::Until(rig.now + SECOND));
    rig.wait(SECOND);
    assert_eq!(rig.attempt(Verdict::Failed), Some(Change::Opened(2 * SECOND)));
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Alive), Just(Verdict::Failed), Just(Verdict::Silent)]
}

proptest! {
    /// Whatever happens in whatever order: never two probes at once, nothing while it is open, and it always comes back.
    #[test]
    fn it_never_lets_more_through_than_it_says(
        steps in proptest::collection::vec((any_verdict(), 0u64..40, 0usize..4, 0u128..6), 1..200),
    ) {
        let mut rig = Rig::new(policy());
        let mut out: Vec<(Ticket, u128, Phase)> = Vec::new();
        for (verdict, wait, which, event) in steps {
            let gate = rig.wait(Duration::from_secs(wait));
            let probes = out.iter().filter(|(ticket, _, phase)| {
                *phase == Phase::HalfOpen && ticket.0 == rig.breaker.epoch
            });
            match gate {
                Gate::All => {}
                Gate::Probe => prop_assert_eq!(probes.count(), 0),
                Gate::Probing => prop_assert_eq!(probes.count(), 1),
                Gate::Until(until) => {
                    prop_assert!(until > rig.now && until <= rig.now + 300 * SECOND);
                }
            }
            if matches!(gate, Gate::All | Gate::Probe) {
                out.push((rig.breaker.start(), event, rig.breaker.phase()));
            }
            if which < out.len() {
                let (ticket, event, _) = out.remove(which);
                rig.breaker.ended(ticket, verdict, id(event), rig.now);
            }
        }
        for (ticket, _, _) in out {
            rig.breaker.abandoned(ticket);
        }
        if rig.wait(300 * SECOND) != Gate::All {
            prop_assert_eq!(rig.attempt(Verdict::Alive), Some(Change::Closed));
        }
        prop_assert_eq!(rig.wait(SECOND), Gate::All);
    }
}

use std::collections::VecDeque;

use super::*;

/// An answer, and after how long it comes.
type Answer = (Duration, Result<Found, NotFound>);

/// A resolver that answers from a list, each answer after a while, and counts.
#[derive(Clone, Default)]
struct Script {
    answers: Rc<RefCell<VecDeque<Answer>>>,
    asked: Rc<RefCell<Vec<String>>>,
}

impl Script {
    fn dns(&self) -> Dns {
        let script = self.clone();
        Dns::new(Rc::new(move |name| {
            script.asked.borrow_mut().push(name.to_owned());
            let (after, answer) = script.answers.borrow_mut().pop_front().expect("an answer");
            Box::pin(async move {
                tokio::time::sleep(after).await;
                answer
            })
        }))
    }

    fn then(&self, after: Duration, answer: Result<Found, NotFound>) {
        self.answers.borrow_mut().push_back((after, answer));
    }

    fn asked(&self) -> usize {
        self.asked.borrow().len()
    }
}

fn at(last: u8, ttl: u64) -> Result<Found, NotFound> {
    let addresses = vec![IpAddr::from([192, 0, 2, last])];
    Ok(Found { addresses, ttl: Duration::from_secs(ttl) })
}

fn failed() -> Result<Found, NotFound> {
    Err(NotFound::Failed("SERVFAIL".to_owned()))
}

fn nothing() -> Result<Found, NotFound> {
    Err(NotFound::Nothing("no such name".to_owned()))
}

const SOON: Duration = Duration::from_millis(5);
const HANGS: Duration = Duration::from_secs(3600);

async fn last_octet(dns: &Dns, name: &str) -> Result<u8, String> {
    let found = dns.addresses(name).await?;
    assert_eq!(found.len(), 1);
    match found[0] {
        IpAddr::V4(address) => Ok(address.octets()[3]),
        IpAddr::V6(address) => panic!("{address}"),
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Script) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test(Script::default()));
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[test]
fn an_answer_is_used_for_its_ttl_within_bounds() {
    run(|script| async move {
        let dns = script.dns();
        for (ttl, used) in [(0, 1), (30, 30), (86_400, 300)] {
            script.then(SOON, at(1, ttl));
            script.then(SOON, at(2, ttl));
            let before = script.asked();
            let name = format!("ttl-{ttl}");
            assert_eq!(last_octet(&dns, &name).await, Ok(1));
            tokio::time::sleep(Duration::from_secs(used) - SOON).await;
            assert_eq!(last_octet(&dns, &name).await, Ok(1), "{ttl}");
            tokio::time::sleep(SOON).await;
            assert_eq!(last_octet(&dns, &name).await, Ok(2), "{ttl}");
            assert_eq!(script.asked() - before, 2, "{ttl}");
        }
    });
}

#[test]
fn a_name_is_looked_up_once_for_all_who_ask() {
    run(|script| async move {
        script.then(Duration::from_secs(1), at(7, 60));
        let dns = script.dns();
        let ask = || async { last_octet(&dns, "a").await };
        assert_eq!(tokio::join!(ask(), ask(), ask()), (Ok(7), Ok(7), Ok(7)));
        assert_eq!(script.asked(), 1);
    });
}

#[test]
fn who_gives_up_leaves_the_lookup_behind_for_the_next() {
    run(|script| async move {
        script.then(Duration::from_secs(3), at(7, 60));
        let dns = script.dns();
        let impatient = timeout(Duration::from_secs(2), last_octet(&dns, "a")).await;
        assert!(impatient.is_err());
        let start = Instant::now();
        assert_eq!(last_octet(&dns, "a").await, Ok(7));
        assert_eq!(start.elapsed().as_secs(), 1);
        assert_eq!(script.asked(), 1);
    });
}

#[test]
fn a_name_that_hangs_holds_up_no_other() {
    run(|script| async move {
        script.then(HANGS, at(1, 60));
        script.then(SOON, at(2, 60));
        let dns = script.dns();
        let hung = timeout(Duration::from_millis(50), last_octet(&dns, "hangs")).await;
        assert!(hung.is_err());
        let start = Instant::now();
        assert_eq!(last_octet(&dns, "b").await, Ok(2));
        assert_eq!(start.elapsed(), SOON);
    });
}

#[test]
fn a_failure_is_remembered_for_five_seconds() {
    run(|script| async move {
        let dns = script.dns();
        for answer in [failed(), nothing()] {
            let before = script.asked();
            script.then(SOON, answer.clone());
            script.then(SOON, at(3, 60));
            let name = format!("{answer:?}");
            let error = last_octet(&dns, &name).await.unwrap_err();
            assert!(name.contains(&error), "{error}");
            tokio::time::sleep(NEGATIVE - SOON).await;
            assert!(last_octet(&dns, &name).await.is_err());
            assert_eq!(script.asked() - before, 1);
            tokio::time::sleep(SOON).await;
            assert_eq!(last_octet(&dns, &name).await, Ok(3));
        }
    });
}

#[test]
fn the_last_answer_serves_while_lookups_fail_but_not_for_ever() {
    run(|script| async move {
        let dns = script.dns();
        script.then(SOON, at(1, 10));
        assert_eq!(last_octet(&dns, "a").await, Ok(1));
        pass(10).await;
        // 5 s apart, and at most 300 s past the TTL.
        let mut served = 0;
        loop {
            script.then(SOON, failed());
            match last_octet(&dns, "a").await {
                Ok(1) => served += 1,
                other => {
                    assert_eq!(other, Err("SERVFAIL".to_owned()));
                    break;
                }
            }
            pass(5).await;
        }
        assert_eq!(served, 60);
        pass(5).await;
        script.answers.borrow_mut().clear();
        script.then(SOON, at(2, 10));
        assert_eq!(last_octet(&dns, "a").await, Ok(2));
    });
}

#[test]
fn silent_servers_cost_a_moment_once_and_then_nothing() {
    run(|script| async move {
        let dns = script.dns();
        script.then(SOON, at(1, 10));
        script.then(Duration::from_secs(10), failed());
        script.then(SOON, at(2, 10));
        assert_eq!(last_octet(&dns, "a").await, Ok(1));
        pass(10).await;
        let start = Instant::now();
        assert_eq!(last_octet(&dns, "a").await, Ok(1));
        assert_eq!(start.elapsed(), PATIENCE);
        pass(10).await;
        // The failure is known now.
        let start = Instant::now();
        assert_eq!(last_octet(&dns, "a").await, Ok(1));
        assert_eq!(start.elapsed(), Duration::ZERO);
        pass(5).await;
        assert_eq!(last_octet(&dns, "a").await, Ok(2));
    });
}

#[test]
fn a_name_that_is_gone_is_not_served_from_memory() {
    run(|script| async move {
        let dns = script.dns();
        script.then(SOON, at(1, 10));
        script.then(SOON, nothing());
        assert_eq!(last_octet(&dns, "a").await, Ok(1));
        pass(10).await;
        assert_eq!(last_octet(&dns, "a").await, Err("no such name".to_owned()));
    });
}

#[test]
fn names_are_bounded() {
    run(|script| async move {
        let dns = script.dns();
        for number in 0..NAMES_MAX + 10 {
            script.then(Duration::ZERO, at(1, 60));
            last_octet(&dns, &format!("n{number}")).await.unwrap();
        }
        assert!(dns.names.entries.borrow().len() <= NAMES_MAX);
    });
}

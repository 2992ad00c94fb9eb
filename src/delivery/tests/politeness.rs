//! Retry-After and its corners, rate limits across reloads, and lanes, over real sockets.

use super::peers::{Peer, answering, healthy, peer, read_request};
use super::*;
use crate::connection::RateLimit;
use crate::delivery::testing::connection;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A target whose first answer is this, and then 200.
async fn first(answer: String) -> Peer {
    peer(move |mut tcp, notes| {
        let answer = answer.clone();
        async move {
            while read_request(&mut tcp, &notes).await {
                let first = notes.requests.borrow().len() == 1;
                let text = if first { answer.as_str() } else { OK };
                tcp.write_all(text.as_bytes()).await.unwrap();
            }
        }
    })
    .await
}

/// Status, value, whether it is retried, and for how many seconds the whole connection is held.
#[test]
fn retry_after_is_read_or_ignored_and_capped() {
    paused(async {
        // The rig's wall clock begins at Tue, 14 Nov 2023 22:13:20 GMT.
        for (status, value, retried, held) in [
            (429, "7", true, 7),
            (503, "7", true, 7),
            (503, "Tue, 14 Nov 2023 22:14:20 GMT", true, 60),
            (429, "Tue, 14 Nov 2023 22:00:00 GMT", true, 0),
            (429, "99999999999999999999", true, 100),
            (503, "Fri, 31 Dec 9999 23:59:59 GMT", true, 100),
            (429, "soon", true, 0),
            (429, "-5", true, 0),
            (429, "1.5", true, 0),
            (503, "\u{9b}7", true, 0),
            // Only these two statuses speak for the whole connection; the delivery alone waits.
            (500, "7", true, 0),
            (404, "7", false, 0),
        ] {
            let head = format!("HTTP/1.1 {status} X\r\nretry-after: {value}\r\n");
            let peer = first(format!("{head}content-length: 0\r\n\r\n")).await;
            let mut connection = connection("crm", &peer.url);
            connection.max_in_flight = 1;
            connection.retry.retry_after_max = Duration::from_secs(100);
            let mut rig = Rig::with(connection).await;
            rig.send(1, 2);
            let settled = rig.settle(2).await;
            let case = format!("{status} {value:?}");
            let wait = match settled[0].disposition {
                Disposition::RetryAfter(wait) => Some(wait),
                _ => None,
            };
            assert_eq!(wait.is_some(), retried, "{case}: {settled:?}");
            // The schedule alone is 5 s; a Retry-After only makes it longer.
            let asked = if status == 500 { 7 } else { held };
            let close = |found: Duration, seconds: u64| {
                found <= Duration::from_secs(seconds)
                    && found + Duration::from_secs(1) > Duration::from_secs(seconds)
            };
            assert!(wait.is_none_or(|wait| close(wait, asked.max(5))), "{case}: {wait:?}");
            let times = peer.times();
            let pause = (times[1] - times[0]).saturating_sub(Duration::from_millis(50));
            assert!(close(pause, held), "{case}: the next went out after {pause:?}");
        }
    });
}

/// A hold that is shorter does not end one that is longer, and a date counts from now.
#[test]
fn the_longest_hold_counts() {
    paused(async {
        let peer = peer(|mut tcp, notes| async move {
            while read_request(&mut tcp, &notes).await {
                let value = match notes.requests.borrow().len() {
                    1..=4 => "1",
                    5 => "30",
                    6..=8 => "2",
                    _ => "",
                };
                sleep(Duration::from_millis(100)).await;
                let text = match value {
                    "" => OK.to_owned(),
                    value => format!(
                        "HTTP/1.1 429 X\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"
                    ),
                };
                tcp.write_all(text.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, connection("crm", &peer.url)).await;
        rig.send(1, 5);
        rig.settle(5).await;
        let until = status.hold_until_ms.load(Ordering::Relaxed);
        rig.send(1, 1);
        sleep(Duration::from_secs(28)).await;
        assert_eq!(peer.requests(), 5);
        assert_eq!(status.hold_until_ms.load(Ordering::Relaxed), until);
        rig.settle(1).await;
        assert!(rig.counts("posthaste_retry_after_holds_total{connection=\"crm\"} 6"));
    });
}

/// The rates that are in force over time, in tokens that have come since the beginning.
struct Tokens(Vec<(Instant, f64)>);

impl Tokens {
    fn at(&self, now: Instant) -> f64 {
        let mut sum = 0.0;
        for (number, (from, rate)) in self.0.iter().enumerate() {
            let to = self.0.get(number + 1).map_or(now, |(next, _)| (*next).min(now));
            sum += to.saturating_duration_since(*from).as_secs_f64() * rate;
        }
        sum
    }
}

/// Never above burst + rate x T over any interval, over 100,000 sends and reloads that change the limit or leave it.
#[test]
fn a_rate_limit_is_kept_over_any_interval_and_across_reloads() {
    const SENDS: usize = 100_000;
    paused(async {
        let peer = healthy().await;
        let limit = |limit, burst| RateLimit { limit, per: Duration::from_secs(1), burst };
        let mut limited = connection("crm", &peer.url);
        limited.max_in_flight = 4;
        limited.rate_limit = Some(limit(4000, 400));
        let mut rig = Rig::with(limited.clone()).await;
        let mut rates = Tokens(vec![(Instant::now(), 4000.0)]);
        let mut sent = 0;
        let mut rng = fastrand::Rng::with_seed(7);
        let mut reloads = 0;
        while sent < SENDS {
            let count = rng.u32(50..1500);
            rig.send(1, count);
            sent += count as usize;
            // Sometimes it runs dry, so that the burst fills up.
            if rng.u8(..4) == 0 {
                rig.wait(|rig| rig.out.is_empty()).await;
                sleep(Duration::from_millis(rng.u64(1..300))).await;
            } else {
                sleep(Duration::from_millis(rng.u64(1..250))).await;
            }
            limited.description = Some(format!("reload {reloads}"));
            if rng.u8(..3) == 0 {
                let rate = rng.choice([1000, 4000, 8000]).unwrap();
                limited.rate_limit = Some(limit(rate, rng.u32(1..=400)));
                rates.0.push((Instant::now(), f64::from(rate)));
            }
            rig.replace(1, limited.clone()).await;
            reloads += 1;
            rig.receive();
            rig.settled.clear();
        }
        rig.wait(|rig| rig.out.is_empty()).await;
        let times = peer.times();
        assert_eq!(times.len(), sent);
        assert!(reloads > 50, "{reloads}");
        // For each pair of sends i <= j: j - i + 1 <= burst + tokens(j) - tokens(i), so the largest rise of
        // `sends - tokens` is at most the burst. A millisecond and a reload on its way are not seen from here.
        let (mut least, mut most) = (f64::MAX, f64::MIN);
        for (sends, at) in times.iter().enumerate() {
            let above = sends as f64 - rates.at(*at);
            least = least.min(above);
            most = most.max(above - least + 1.0);
        }
        let slack = 2.0 * 8000.0 * 0.001;
        assert!(most <= 400.0 + slack, "{most} more than the rate allows");
        assert!(most > 300.0, "the burst is used: {most}");
    });
}

/// Retries and replays are many, and new events get half of the turns while they wait.
#[test]
fn retries_and_replays_do_not_starve_new_events() {
    paused(async {
        let peer = answering(OK, Duration::from_millis(10)).await;
        let mut one = connection("crm", &peer.url);
        one.max_in_flight = 1;
        let mut rig = Rig::with(one).await;
        rig.send_lane(1, 128, Lane::Retry, b"retry");
        rig.send_lane(1, 64, Lane::Replay, b"replay");
        rig.send_lane(1, 50, Lane::New, b"new");
        rig.settle(242).await;
        let bodies: Vec<Vec<u8>> =
            peer.notes.requests.borrow().iter().map(|(_, request)| request.body.clone()).collect();
        let last = bodies.iter().rposition(|body| body == b"new").unwrap();
        assert!(last <= 100, "the last new one was number {last}");
        // And they do not starve either.
        let of = |body: &[u8]| bodies[..100].iter().filter(|found| *found == body).count();
        assert_eq!((of(b"new"), of(b"retry"), of(b"replay")), (50, 25, 25));
    });
}

/// Slow start after a restart, a pause and an edit of the target: the first attempt is alone.
#[test]
fn concurrency_starts_at_one_after_a_pause() {
    paused(async {
        let round = Duration::from_millis(100);
        let peer = answering(OK, round).await;
        let mut active = connection("crm", &peer.url);
        active.max_in_flight = 16;
        active.pool.max_per_host = 16;
        let mut rig = Rig::with(active.clone()).await;
        rig.send(1, 100);
        rig.settle(100).await;
        let held = Connection { state: crate::connection::State::Paused, ..active.clone() };
        rig.replace(1, held).await;
        rig.send(1, 31);
        sleep(Duration::from_secs(5)).await;
        // What the outbox has not started goes back to the store when it is paused, and comes again.
        rig.replace(1, active).await;
        rig.settle(31).await;
        let times = &peer.times()[100..];
        let in_round = |number: u32| {
            let from = times[0] + round * number;
            times.iter().filter(|at| **at >= from && **at < from + round / 2).count()
        };
        assert_eq!((0..5).map(in_round).collect::<Vec<_>>(), [1, 2, 4, 8, 16]);
    });
}

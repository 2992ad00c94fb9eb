//! Which gate says no to a delivery, and until when.

use super::peers::{Peer, answering, healthy, hung, peer, read_request};
use super::*;
use crate::connection::RateLimit;
use crate::connection::State;
use crate::connection::breaker::BreakerPolicy;
use crate::delivery::testing::connection;
use crate::delivery::{Look, Place};
use crate::event::Wait;
use tokio::io::AsyncWriteExt;

const BROKEN: &str = "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n";

/// Sends ten to a connection and looks at the last of them a second later.
async fn tenth(connection: Connection) -> (Look, Rig) {
    let mut rig = Rig::with(connection).await;
    rig.send(1, 10);
    sleep(Duration::from_secs(1)).await;
    (rig.look(1, 9).await, rig)
}

#[test]
fn each_gate_is_named_with_its_time() {
    paused(async {
        let healthy = healthy().await;
        let rate_limit = Some(RateLimit { limit: 1, per: Duration::from_secs(60), burst: 1 });
        let limited = Connection { rate_limit, ..connection("crm", &healthy.url) };
        let (look, _rig) = tenth(limited).await;
        assert_eq!((look.place, look.gate.wait), (Place::Waiting, Wait::RateLimit));
        let left = look.gate.left.unwrap();
        assert!(left > Duration::from_secs(58) && left <= Duration::from_secs(60), "{left:?}");

        let broken: Peer = answering(BROKEN, Duration::ZERO).await;
        let breaker = BreakerPolicy {
            consecutive_failures: 1,
            failure_ratio: 1.0,
            min_attempts: 20,
            window: Duration::from_secs(60),
            open_for: Duration::from_secs(30),
            open_for_max: Duration::from_secs(30),
        };
        let guarded = Connection { breaker: Some(breaker), ..connection("crm", &broken.url) };
        let (look, _rig) = tenth(guarded).await;
        assert_eq!((look.place, look.gate.wait), (Place::Waiting, Wait::Breaker));
        assert_eq!(look.gate.left.map(|left| left.as_secs()), Some(28 + 1));

        let asked = "HTTP/1.1 429 Slow\r\nretry-after: 20\r\ncontent-length: 0\r\n\r\n";
        let patient = answering(asked, Duration::ZERO).await;
        let (look, _rig) = tenth(connection("crm", &patient.url)).await;
        assert_eq!((look.place, look.gate.wait), (Place::Waiting, Wait::RetryAfter));
        assert_eq!(look.gate.left.map(|left| left.as_secs()), Some(18 + 1));

        let paused = Connection { state: State::Paused, ..connection("crm", &healthy.url) };
        let (look, _rig) = tenth(paused).await;
        assert_eq!((look.place, look.gate.wait), (Place::Waiting, Wait::Paused));
    });
}

#[test]
fn what_is_being_sent_is_gone_and_those_behind_wait_for_workers() {
    paused(async {
        let silent = hung().await;
        let slow = Connection {
            request_timeout: Duration::from_secs(50),
            ..connection("crm", &silent.url)
        };
        // It starts with one at a time.
        let (look, rig) = tenth(slow).await;
        assert_eq!((look.place, look.gate.wait), (Place::Waiting, Wait::Concurrency));
        assert_eq!(look.in_flight, 1);
        assert_eq!(rig.look(1, 0).await.place, Place::Gone);

        // Four answers, so that four may go at one time; then silence.
        let four = peer(|mut tcp, notes| async move {
            while read_request(&mut tcp, &notes).await {
                if notes.requests.borrow().len() > 4 {
                    std::future::pending::<()>().await;
                }
                let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                tcp.write_all(ok.as_bytes()).await.unwrap();
            }
        })
        .await;
        let slow = |max_in_flight| Connection {
            request_timeout: Duration::from_secs(50),
            max_in_flight,
            ..connection("crm", &four.url)
        };
        let (look, rig) = tenth(slow(4)).await;
        assert_eq!((look.place, look.gate.wait, look.in_flight), (Place::Waiting, Wait::Pool, 4));
        drop(rig);
        let silent = hung().await;
        let fewer = Connection { max_in_flight: 1, ..slow(1) };
        let fewer = Connection { target: connection("x", &silent.url).target, ..fewer };
        let (look, _rig) = tenth(fewer).await;
        assert_eq!(look.gate.wait, Wait::Concurrency, "the pool has room for more");
    });
}

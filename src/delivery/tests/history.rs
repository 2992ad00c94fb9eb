//! What attempts leave behind.

use super::peers::{answering, healthy, hung};
use super::*;
use crate::delivery::testing::connection;
use crate::store::history::{Attempt, Phase};

/// Sends one event and returns the one attempt that was noted.
async fn noted(url: &str) -> Attempt {
    let mut rig = Rig::with(connection("crm", url)).await;
    rig.send(1, 1);
    rig.settle(1).await;
    let mut noted = rig.port.noted_for_test();
    assert_eq!(noted.len(), 1);
    noted.remove(0)
}

/// Nothing on the way of a successful first attempt pays for history: not even a message is sent.
#[test]
fn first_attempts_that_succeed_leave_nothing() {
    paused(async {
        let peer = healthy().await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 200);
        rig.settle(200).await;
        assert_eq!(rig.port.noted_for_test(), []);

        rig.send_lane(1, 1, Lane::Retry, b"again");
        rig.settle(1).await;
        let noted = rig.port.noted_for_test();
        let [ended] = &noted[..] else { panic!("{noted:?}") };
        assert_eq!((ended.number, ended.status, ended.code), (2, 200, None));
        assert!(ended.excerpt.is_empty() && !ended.replay);
    });
}

#[test]
fn a_failure_is_noted_with_the_start_of_the_response() {
    paused(async {
        let peer = answering(
            "HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\n\x1b[31mno\r\n",
            Duration::from_millis(50),
        );
        let peer = peer.await;
        let attempt = noted(&peer.url).await;
        assert_eq!(&*attempt.connection, "crm");
        assert_eq!((attempt.number, attempt.status), (1, 500));
        assert_eq!((attempt.code, attempt.phase), (Some(Cause::HttpStatus), Phase::Response));
        assert_eq!(attempt.excerpt, "\x1b[31mno\r\n", "as it came");
        assert!(attempt.took >= Duration::from_millis(50) && attempt.timings.connect.is_some());
        assert!(attempt.timings.first_byte.unwrap() >= Duration::from_millis(50));
        assert_eq!((attempt.timings.lookup, attempt.timings.tls), (None, None));
        let port = peer.url.split(':').nth(2).unwrap().split('/').next().unwrap();
        assert_eq!(attempt.remote, Some(format!("127.0.0.1:{port}").parse().unwrap()));
        assert!(attempt.at_ms >= WALL_MS + 50);
    });
}

#[test]
fn an_excerpt_has_an_end_also_when_the_body_has_none() {
    paused(async {
        let long =
            format!("HTTP/1.1 404 No\r\ncontent-length: 60000\r\n\r\n{}", "x".repeat(60_000));
        let attempt = noted(&answering(long.leak(), Duration::ZERO).await.url).await;
        assert_eq!((attempt.excerpt.len(), attempt.phase), (4096, Phase::Response));
        let endless =
            format!("HTTP/1.1 404 No\r\ncontent-length: 9999999\r\n\r\n{}", "y".repeat(5000));
        let attempt = noted(&answering(endless.leak(), Duration::ZERO).await.url).await;
        assert_eq!((attempt.code, attempt.phase), (Some(Cause::ResponseTooLarge), Phase::Body));
        assert!(attempt.excerpt.len() <= 4096 && attempt.excerpt.iter().all(|byte| *byte == b'y'));
    });
}

#[test]
fn the_phase_says_how_far_it_came() {
    paused(async {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let attempt = noted(&format!("http://{closed}/")).await;
        assert_eq!((attempt.phase, attempt.remote), (Phase::Connect, Some(closed)));
        assert_eq!((attempt.code, attempt.status), (Some(Cause::ConnectRefused), 0));

        let attempt = noted(&hung().await.url).await;
        assert_eq!((attempt.phase, attempt.code), (Phase::Request, Some(Cause::RequestTimeout)));
        assert!(attempt.remote.is_some());

        let attempt = noted("http://no-such-name.invalid/").await;
        assert_eq!((attempt.phase, attempt.remote), (Phase::Lookup, None));
    });
}

/// An attempt that ends after a reload names the configuration that it began under.
#[test]
fn an_attempt_names_the_configuration_that_it_used() {
    paused(async {
        let peer = answering("HTTP/1.1 500 Oh\r\n\r\n", Duration::from_millis(500)).await;
        let mut rig = Rig::with(connection("crm", &peer.url)).await;
        rig.send(1, 1);
        sleep(Duration::from_millis(100)).await;
        rig.port.set_generation_for_test(7);
        rig.replace(1, connection("crm", &peer.url)).await;
        rig.settle(1).await;
        rig.send(1, 1);
        rig.settle(1).await;
        let generations: Vec<_> =
            rig.port.noted_for_test().iter().map(|attempt| attempt.generation).collect();
        assert_eq!(generations, [0, 7]);
    });
}

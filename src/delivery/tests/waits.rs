//! What waits for the gates is charged: the sum of the causes is the time that the deliveries waited here.

use super::peers::{answering, healthy, hung};
use super::*;
use crate::connection::RateLimit;
use crate::delivery::testing::connection;
use crate::event::Wait;

fn charged(status: &Status) -> Vec<(Wait, u64)> {
    let all = Wait::ALL.map(|wait| (wait, status.waits.ms(wait)));
    all.into_iter().filter(|(_, ms)| *ms > 0).collect()
}

#[test]
fn the_sum_of_the_causes_is_what_the_deliveries_waited() {
    paused(async {
        let peer = healthy().await;
        let rate_limit = Some(RateLimit { limit: 1, per: Duration::from_secs(2), burst: 1 });
        let limited = Connection { rate_limit, ..connection("crm", &peer.url) };
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, limited).await;
        sleep(Duration::from_millis(10)).await;
        let handed_out = Instant::now();
        rig.send(1, 10);
        rig.settle(10).await;
        let waited: Duration = peer.times().iter().map(|started| *started - handed_out).sum();
        assert!(waited >= Duration::from_secs(2 * 45), "{waited:?}");
        let all: u64 = charged(&status).iter().map(|(_, ms)| ms).sum();
        let waited = u64::try_from(waited.as_millis()).unwrap();
        // A millisecond for the way of each to the peer.
        assert!(waited.abs_diff(all) <= 10, "{waited} {:?}", charged(&status));
        assert!(waited.abs_diff(status.waits.ms(Wait::RateLimit)) <= 10, "{:?}", charged(&status));
        assert_eq!(status.waits.gate(), Wait::Turn, "nothing waits any more");
    });
}

#[test]
fn a_hold_and_a_silent_target_are_charged_while_nothing_happens() {
    paused(async {
        let asked = "HTTP/1.1 429 Slow\r\nretry-after: 100\r\ncontent-length: 0\r\n\r\n";
        let patient = answering(asked, Duration::ZERO).await;
        let mut rig = Rig::new(1 << 20);
        let status = rig.attach(1, connection("crm", &patient.url)).await;
        rig.send(1, 6);
        rig.settle(1).await;
        sleep(Duration::from_secs(50)).await;
        assert_eq!(status.waits.gate(), Wait::RetryAfter);
        let ms = status.waits.ms(Wait::RetryAfter);
        // Five wait; the last second may not be charged yet.
        assert!((5 * 49_000..=5 * 50_000 + 100).contains(&ms), "{ms}");

        let silent = hung().await;
        let slow = Connection {
            request_timeout: Duration::from_secs(60),
            ..connection("erp", &silent.url)
        };
        let status = rig.attach(2, slow).await;
        rig.send(2, 3);
        sleep(Duration::from_secs(50)).await;
        // One at a time is how it starts.
        let ms = status.waits.ms(Wait::Concurrency);
        assert!((2 * 49_000..=2 * 50_000 + 100).contains(&ms), "{:?}", charged(&status));
    });
}

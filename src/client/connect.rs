//! Opens a TCP connection to the first of several addresses that answers (happy eyeballs, RFC 8305).

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{DialError, Stage, cause_of_io};
use crate::event::Cause;

/// Addresses of one name that are tried at most.
const ADDRESSES_MAX: usize = 8;
/// The next address is tried beside the one before after this, or at once when that has failed (RFC 8305, 8).
const STAGGER: Duration = Duration::from_millis(250);

/// The order in which addresses are tried: the families in turn, IPv6 first, each in the resolver's order.
pub(super) fn in_turn(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let (mut six, mut four): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6());
    six.reverse();
    four.reverse();
    let mut sorted = Vec::with_capacity(addresses.len());
    while let Some(address) = six.pop().or_else(|| four.pop()) {
        sorted.push(address);
        sorted.extend(four.pop());
    }
    let address = |address| SocketAddr::new(address, port);
    sorted.into_iter().take(ADDRESSES_MAX).map(address).collect()
}

/// Tries the addresses, each a little after the one before; the first that opens wins, the others are dropped.
///
/// # Errors
/// Why the last one failed, or that none was open at the deadline.
pub(super) async fn race<S, F: Future<Output = io::Result<S>>>(
    addresses: &[SocketAddr],
    timeout: Duration,
    deadline: Instant,
    open: impl Fn(SocketAddr) -> F,
) -> Result<(S, SocketAddr), DialError> {
    let mut last =
        DialError::new(Cause::DnsFailed, Stage::Lookup, "the name has no address".to_owned());
    let mut next = addresses.iter().copied();
    let mut dials: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::with_capacity(1);
    let mut stagger: Option<Pin<Box<Sleep>>> = None;
    let mut late = std::pin::pin!(sleep_until(deadline));
    let mut start_next = true;
    poll_fn(|cx| {
        loop {
            if std::mem::take(&mut start_next)
                && let Some(address) = next.next()
            {
                dials.push((address, Box::pin(open(address))));
                let more = next.len() > 0;
                stagger = more.then(|| Box::pin(sleep_until(Instant::now() + STAGGER)));
            }
            let mut number = 0;
            while let Some((address, dial)) = dials.get_mut(number) {
                let address = *address;
                match dial.as_mut().poll(cx) {
                    Poll::Ready(Ok(socket)) => return Poll::Ready(Ok((socket, address))),
                    Poll::Ready(Err(error)) => {
                        last = DialError::of_io(Stage::Connect, &error).at(address);
                        drop(dials.swap_remove(number));
                        start_next = true;
                    }
                    Poll::Pending => number += 1,
                }
            }
            if !start_next && let Some(sleep) = &mut stagger {
                start_next = sleep.as_mut().poll(cx).is_ready();
            }
            if start_next && next.len() > 0 {
                continue;
            }
            start_next = false;
            if dials.is_empty() {
                return Poll::Ready(Err(last.clone()));
            }
            if late.as_mut().poll(cx).is_ready() {
                let error = DialError::late(Stage::Connect, timeout);
                let tried = dials.last().map(|(address, _)| *address);
                return Poll::Ready(Err(DialError { remote: tried, ..error }));
            }
            return Poll::Pending;
        }
    })
    .await
}

/// Opens one socket.
pub(super) async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    // Requests are written whole, so waiting for more to send only costs time. A failure costs the same.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

impl DialError {
    pub(super) fn of_io(stage: Stage, error: &io::Error) -> DialError {
        DialError::new(cause_of_io(error), stage, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn sockets(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([192, 0, 2, last], 80))).collect()
    }

    #[test]
    fn families_take_turns() {
        let mixed = addresses(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1", "::2"]);
        let order: Vec<_> = in_turn(&mixed, 9).iter().map(|a| a.ip().to_string()).collect();
        assert_eq!(order, ["::1", "1.1.1.1", "::2", "1.1.1.2", "1.1.1.3"]);
        let many = addresses(&["1.1.1.1"; 20]);
        assert_eq!(in_turn(&many, 9).len(), ADDRESSES_MAX);
        assert_eq!(in_turn(&many, 9)[0].port(), 9);
    }

    type Tried = RefCell<Vec<(u8, Duration)>>;

    /// Dials addresses that end as `how` says of the last octet: after so many milliseconds, with an error or not.
    async fn dial(
        count: u8,
        how: impl Fn(u8) -> (u64, Option<io::ErrorKind>),
    ) -> (Result<u8, DialError>, Vec<(u8, Duration)>, Duration) {
        let start = Instant::now();
        let tried: Tried = RefCell::default();
        let limit = Duration::from_secs(2);
        let raced = race(&sockets(count), limit, start + limit, |address| {
            let last = match address.ip() {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(_) => 0,
            };
            tried.borrow_mut().push((last, start.elapsed()));
            let (after, error) = how(last);
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                error.map_or(Ok(last), |kind| Err(kind.into()))
            }
        })
        .await;
        (raced.map(|(last, _)| last), tried.into_inner(), start.elapsed())
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_swallows_packets_costs_a_quarter_of_a_second() {
        let hole = |last| if last == 1 { (60_000, None) } else { (10, None) };
        let (won, tried, took) = dial(3, hole).await;
        assert_eq!((won.unwrap(), took), (2, ms(260)));
        assert_eq!(tried, [(1, ms(0)), (2, ms(250))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_starts_the_next_at_once() {
        let refused = |last| match last {
            1 | 2 => (5, Some(io::ErrorKind::ConnectionRefused)),
            _ => (10, None),
        };
        let (won, tried, took) = dial(3, refused).await;
        assert_eq!((won.unwrap(), took), (3, ms(20)));
        assert_eq!(tried, [(1, ms(0)), (2, ms(5)), (3, ms(10))]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_one_that_is_slow_still_wins() {
        let slow = |last| if last == 1 { (300, None) } else { (500, None) };
        let (won, _, took) = dial(2, slow).await;
        assert_eq!((won.unwrap(), took), (1, ms(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_one_says_why() {
        let (won, _, _) = dial(2, |_| (1, Some(io::ErrorKind::ConnectionRefused))).await;
        let error = won.unwrap_err();
        assert_eq!(error.cause, Cause::ConnectRefused);
        assert_eq!(error.remote, Some(sockets(2)[1]));
        let (won, tried, took) = dial(7, |_| (60_000, None)).await;
        let error = won.unwrap_err();
        assert_eq!(
            (error.cause, error.stage, took),
            (Cause::ConnectTimeout, Stage::Connect, ms(2000))
        );
        assert_eq!(tried.len(), 7);
        let (won, _, _) = dial(0, |_| (1, None)).await;
        assert_eq!(won.unwrap_err().cause, Cause::DnsFailed);
    }
}

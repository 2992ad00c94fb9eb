//! The targets: each has a mood, which says what it does to a request. They tell the ledger what they saw and said.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::ledger::{Attempt, Key};
use super::pipe::Pipe;
use super::wire::{Head, Wire};
use super::world::World;
use crate::event::EventId;

/// Chunks of 4 KiB in a long error: twice of what the relay reads of one.
const LONG_CHUNKS: u32 = 32;

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Healthy,
    /// Nobody listens.
    Refusing,
    /// Nobody answers the dial.
    Unreachable,
    /// Anything may happen to a request.
    Mixed,
    /// Answers 500.
    Failing,
    /// Answers 429 or 503, with a time to wait.
    Throttling,
    /// Answers 404: dead letters.
    Rejecting,
    /// Takes requests and says nothing.
    Hanging,
}

impl Mood {
    pub(super) const ALL: [Mood; 8] = [
        Mood::Healthy,
        Mood::Refusing,
        Mood::Unreachable,
        Mood::Mixed,
        Mood::Failing,
        Mood::Throttling,
        Mood::Rejecting,
        Mood::Hanging,
    ];
}

/// What a target does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// 200 after so many milliseconds, which is in time.
    Ok(u64),
    /// 204 without a body.
    NoContent,
    /// 200, and the connection is closed as the next request comes.
    OkThenClose,
    /// 200, whose body is cut off.
    OkCut,
    /// 200, byte by byte: the head may be late.
    OkTrickled,
    /// 200 when nobody waits for it any more.
    OkLate,
    /// Nothing.
    Hang,
    /// Reset before the request is read.
    ResetBefore,
    /// Reset after it, without an answer.
    ResetAfter,
    /// Closed without an answer.
    Close,
    Status(u16),
    /// A status and `Retry-After` in seconds.
    Throttle(u16, u64),
    /// Something that is not HTTP.
    Garbage,
    /// 500 with more body than anybody wants.
    LongError,
}

impl Act {
    fn draw(mood: Mood, rng: &mut fastrand::Rng) -> Act {
        match mood {
            Mood::Healthy | Mood::Refusing | Mood::Unreachable => match rng.u8(..20) {
                0 => Act::OkThenClose,
                1 => Act::NoContent,
                2 => Act::OkCut,
                _ => Act::Ok(rng.u64(..30)),
            },
            Mood::Failing => Act::Status(rng.choice([500, 502, 503]).unwrap()),
            Mood::Throttling => {
                let status = rng.choice([429, 503]).unwrap();
                Act::Throttle(status, rng.u64(1..25))
            }
            Mood::Rejecting => Act::Status(rng.choice([400, 404, 302, 410]).unwrap()),
            Mood::Hanging => Act::Hang,
            Mood::Mixed => Act::draw_any(rng),
        }
    }

    fn draw_any(rng: &mut fastrand::Rng) -> Act {
        match rng.u8(..18) {
            0 => Act::NoContent,
            1 | 2 => Act::OkThenClose,
            3 => Act::OkCut,
            4 => Act::OkTrickled,
            5 => Act::OkLate,
            6 => Act::Hang,
            7 => Act::ResetBefore,
            8 => Act::ResetAfter,
            9 => Act::Close,
            10 => Act::Status(500),
            11 => Act::Status(rng.choice([408, 425, 501, 404]).unwrap()),
            12 => Act::Throttle(429, rng.u64(0..4)),
            13 => Act::Garbage,
            14 => Act::LongError,
            _ => Act::Ok(rng.u64(..200)),
        }
    }

    /// Whether it says that the event was taken.
    pub(super) fn says_yes(self) -> bool {
        matches!(
            self,
            Act::Ok(_)
                | Act::NoContent
                | Act::OkThenClose
                | Act::OkCut
                | Act::OkTrickled
                | Act::OkLate
        )
    }

    /// Whether it says so in time, whatever the timeouts.
    fn is_clear(self) -> bool {
        self.says_yes() && !matches!(self, Act::OkTrickled | Act::OkLate)
    }

    fn name(self) -> &'static str {
        match self {
            Act::Ok(_) | Act::NoContent => "ok",
            Act::OkThenClose => "kept connection closed",
            Act::OkCut => "answer cut",
            Act::OkTrickled => "answer trickled",
            Act::OkLate => "answer late",
            Act::Hang => "hang",
            Act::ResetBefore => "reset before the request",
            Act::ResetAfter => "reset after the request",
            Act::Close => "closed without an answer",
            Act::Status(404) => "status 404",
            Act::Status(500) => "status 500",
            Act::Status(_) => "other status",
            Act::Throttle(..) => "Retry-After",
            Act::Garbage => "garbage",
            Act::LongError => "long error",
        }
    }
}

/// A socket that a target has accepted, from the process of that life.
pub(super) struct Accepted {
    pub(super) target: usize,
    pub(super) life: u32,
    pub(super) pipe: Pipe,
}

/// Serves all targets, for ever.
pub(super) async fn serve_all(world: Rc<World>, mut sockets: mpsc::UnboundedReceiver<Accepted>) {
    while let Some(Accepted { target, life, pipe }) = sockets.recv().await {
        let world = Rc::clone(&world);
        tokio::task::spawn_local(async move {
            let mut wire = Wire::new(pipe);
            // A relay that went away, or that we did not want to hear: both are fine.
            while serve(&world, (target, life), &mut wire).await.unwrap_or(false) {}
        });
    }
}

/// Serves one request. Whether there may be another.
async fn serve(world: &World, (target, life): (usize, u32), wire: &mut Wire) -> io::Result<bool> {
    if !wire.begins().await? {
        return Ok(false);
    }
    let mood = world.moods.borrow()[target];
    let act = world.draw(|rng| Act::draw(mood, rng));
    world.reach(act.name());
    if act == Act::ResetBefore {
        let (fresh, _) = world.socket();
        std::mem::replace(&mut wire.pipe, fresh).reset();
        return Ok(false);
    }
    let Some(head) = wire.head().await? else {
        return Ok(false);
    };
    let length = head.parsed("content-length").unwrap_or(0);
    let body = wire.body(length).await?;
    let Some(attempt) = attempt(&head, life) else {
        world.ledger.borrow_mut().fail(format!("a target got {:?}", head.start));
        return Ok(false);
    };
    let now = world.trace.now_ms();
    let (key, number) = (attempt.key, attempt.number);
    world.note(format_args!("target {target}: {key:?} attempt {number} {act:?}"));
    let in_lines = world.ledger.borrow().in_lines;
    let place = world.ledger.borrow_mut().received(attempt, act, &body, now);
    if world.ledger.borrow().in_lines > in_lines {
        world.reach("order kept");
    }
    let (lives, goes_on) = (world.life.get() == life, answer(world, act, wire).await?);
    // An answer that nobody is there to read says nothing.
    if lives && act.is_clear() {
        world.ledger.borrow_mut().answered(key, place, world.trace.now_ms());
    }
    Ok(goes_on)
}

fn attempt(head: &Head, life: u32) -> Option<Attempt> {
    let event: EventId = head.parsed("webhook-id")?;
    let connection = head.second_word().strip_prefix("/c")?.parse().ok()?;
    Some(Attempt {
        key: Key { event, connection },
        number: head.parsed("posthaste-attempt")?,
        replay: head.header("posthaste-replay").is_some(),
        life,
    })
}

/// Says what the act wants. Whether the connection is kept.
async fn answer(world: &World, act: Act, wire: &mut Wire) -> io::Result<bool> {
    match act {
        Act::Ok(ms) => {
            sleep(Duration::from_millis(ms)).await;
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
        Act::NoContent => wire.send(b"HTTP/1.1 204 No Content\r\n\r\n").await?,
        Act::OkThenClose => {
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            // The next request is on its way, or will be.
            sleep(Duration::from_millis(world.draw(|rng| rng.u64(..8)))).await;
            return Ok(false);
        }
        Act::OkCut => {
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut").await?;
            return Ok(false);
        }
        Act::OkTrickled => {
            for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" {
                wire.send(&[*byte]).await?;
                sleep(Duration::from_millis(40)).await;
            }
        }
        Act::OkLate => {
            sleep(Duration::from_secs(70)).await;
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
        // Until the relay gives it up.
        Act::Hang => drop(wire.begins().await?),
        Act::ResetAfter => {
            let (fresh, _) = world.socket();
            std::mem::replace(&mut wire.pipe, fresh).reset();
            return Ok(false);
        }
        Act::ResetBefore | Act::Close => return Ok(false),
        Act::Status(status) => {
            let text = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n");
            wire.send(text.as_bytes()).await?;
        }
        Act::Throttle(status, seconds) => {
            let text = format!(
                "HTTP/1.1 {status} No\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n"
            );
            wire.send(text.as_bytes()).await?;
        }
        Act::Garbage => {
            wire.send(b"SSH-2.0-OpenSSH_9.2\r\n").await?;
            return Ok(false);
        }
        Act::LongError => {
            wire.send(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            for _ in 0..LONG_CHUNKS {
                wire.send(b"1000\r\n").await?;
                wire.send(&[b'x'; 0x1000]).await?;
                wire.send(b"\r\n").await?;
            }
            return Ok(false);
        }
    }
    Ok(true)
}

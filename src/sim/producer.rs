//! Producers: they post, read the answer or not, and write down what they were told.

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::ledger::{Answer, Post, Try, body};
use super::plan::kind;
use super::wire::{Head, Wire};
use super::world::World;
use crate::connection::State;
use crate::event::EventId;

/// How long a producer waits for its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a producer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Plain,
    /// The length is not told before.
    Chunked,
    /// In pieces, with pauses.
    Slow,
    /// Goes away in the middle of the body.
    Aborts,
    /// Goes away as soon as all is sent.
    HangsUp,
}

impl Manner {
    fn draw(rng: &mut fastrand::Rng) -> Manner {
        match rng.u8(..20) {
            0 => Manner::Aborts,
            1 => Manner::HangsUp,
            2 | 3 => Manner::Slow,
            4 => Manner::Chunked,
            _ => Manner::Plain,
        }
    }
}

/// Posts new events, each on a socket and in a task of its own.
pub(super) fn post_new(world: &Rc<World>, count: usize, largest: usize) {
    for _ in 0..count {
        let number = world.ledger.borrow().posts.len() as u64 + 1;
        let connections = world.plan.connections.len();
        let (size, direct, keyed) = world.draw(|rng| {
            let direct = (rng.u8(..5) == 0).then(|| rng.usize(..connections));
            (rng.usize(..=largest), direct, rng.u8(..3) == 0)
        });
        let key = keyed.then(|| format!("key-{number}"));
        let post = Post { size, key, direct, tries: Vec::new() };
        world.ledger.borrow_mut().posts.insert(number, post);
        post_number(world, number, None);
    }
}

/// Posts an event again under its key, as a producer does that does not know what became of it, or is confused.
pub(super) fn post_again(world: &Rc<World>) {
    let keyed: Vec<u64> = {
        let ledger = world.ledger.borrow();
        let keyed = ledger.posts.iter().filter(|(_, post)| post.key.is_some());
        keyed.map(|(number, _)| *number).collect()
    };
    if let Some(number) = world.draw(|rng| rng.choice(keyed)) {
        world.reach("key posted again");
        post_number(world, number, None);
    }
}

/// Posts one event to all connections, plainly. Returns its number.
pub(super) fn post_fresh(world: &Rc<World>) -> u64 {
    let number = world.ledger.borrow().posts.len() as u64 + 1;
    world.ledger.borrow_mut().posts.insert(number, Post { size: 100, ..Post::default() });
    post_number(world, number, Some(Manner::Plain));
    number
}

fn post_number(world: &Rc<World>, number: u64, manner: Option<Manner>) {
    let Some(relay) = world.relay() else {
        return;
    };
    let manner = manner.unwrap_or_else(|| world.draw(Manner::draw));
    let post = world.ledger.borrow().posts[&number].clone();
    let routes = routes(world, post.direct);
    let at = world.trace.now_ms();
    let one = Try {
        life: world.life.get(),
        at,
        may: routes.clone(),
        must: routes,
        answer: Answer::Pending,
    };
    let place = world.ledger.borrow_mut().posted(number, one);
    let (ours, theirs) = world.socket();
    if !relay.accept(theirs) {
        return tell(world, number, place, Answer::Refused(0));
    }
    world.note(format_args!("post {number} of {} bytes, {manner:?}", post.size));
    let world = Rc::clone(world);
    tokio::task::spawn_local(async move {
        let mut wire = Wire::new(ours);
        let exchange = exchange(&world, &mut wire, (number, &post), manner);
        let answer = match timeout(PATIENCE, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Answer::Unknown,
        };
        tell(&world, number, place, answer);
    });
}

/// The connections that an event goes to by the configuration in force.
pub(super) fn routes(world: &World, direct: Option<usize>) -> BTreeSet<usize> {
    let config = world.config.borrow();
    let takes = config.iter().filter(|(_, connection)| connection.state != State::Disabled);
    let numbers = takes.map(|(number, _)| *number);
    numbers.filter(|number| direct.is_none_or(|direct| direct == *number)).collect()
}

fn tell(world: &World, number: u64, place: usize, answer: Answer) {
    world.note(format_args!("post {number} was told {answer:?}"));
    match answer {
        Answer::Refused(507) => world.reach("store full"),
        Answer::Refused(503) => world.reach("refused for now"),
        Answer::Refused(413) => world.reach("body too large"),
        Answer::Refused(404 | 409) => world.reach("nowhere to go"),
        Answer::Unknown => world.reach("answer lost"),
        Answer::Accepted { .. } => world.reach("accepted"),
        Answer::Ignored | Answer::Refused(_) | Answer::Pending => {}
    }
    world.ledger.borrow_mut().told(number, place, answer);
}

async fn exchange(
    world: &World,
    wire: &mut Wire,
    (number, post): (u64, &Post),
    manner: Manner,
) -> io::Result<Answer> {
    let body = body(number, post.size);
    let path = match post.direct {
        None => "/v1/events".to_owned(),
        Some(connection) => format!("/v1/connections/c{connection}/events"),
    };
    let key = post.key.as_ref().map(|key| format!("idempotency-key: {key}\r\n"));
    let length = match manner {
        Manner::Chunked => "transfer-encoding: chunked".to_owned(),
        _ => format!("content-length: {}", body.len()),
    };
    let key = key.unwrap_or_default();
    let kind = kind(number).map(|kind| format!("posthaste-type: type-{kind}\r\n"));
    let kind = kind.unwrap_or_default();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{key}{kind}{length}\r\n\r\n");
    wire.send(head.as_bytes()).await?;
    match manner {
        Manner::Plain | Manner::HangsUp => wire.send(&body).await?,
        Manner::Chunked => send_chunked(wire, &body).await?,
        Manner::Slow => {
            for piece in body.chunks(body.len() / 4 + 1) {
                wire.send(piece).await?;
                sleep(Duration::from_millis(world.draw(|rng| rng.u64(..2000)))).await;
            }
        }
        Manner::Aborts => wire.send(&body[..body.len() / 2]).await?,
    }
    if matches!(manner, Manner::Aborts | Manner::HangsUp) {
        return Ok(Answer::Unknown);
    }
    let Some(head) = wire.head().await? else {
        return Ok(Answer::Unknown);
    };
    read_answer(world, wire, &head).await
}

async fn send_chunked(wire: &mut Wire, body: &[u8]) -> io::Result<()> {
    for piece in body.chunks(500) {
        wire.send(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        wire.send(piece).await?;
        wire.send(b"\r\n").await?;
    }
    wire.send(b"0\r\n\r\n").await
}

async fn read_answer(world: &World, wire: &mut Wire, head: &Head) -> io::Result<Answer> {
    let status: u16 = head.second_word().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    let length = head.parsed("content-length").unwrap_or(0);
    let json: serde_json::Value = serde_json::from_slice(&wire.body(length).await?)?;
    if status != 202 {
        return Ok(Answer::Refused(status));
    }
    let members =
        [("full", "queue full"), ("too_large", "too large for one"), ("ignored", "ignored")];
    for (member, state) in members {
        if json.get(member).is_some() {
            world.reach(state);
        }
    }
    let id: Option<EventId> = json["id"].as_str().and_then(|id| id.parse().ok());
    let at = world.trace.now_ms();
    Ok(id.map_or(Answer::Ignored, |id| Answer::Accepted { id, at }))
}

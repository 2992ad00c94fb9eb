//! The fault phase: so many steps, each one thing that goes wrong, is changed, or is posted.

use std::rc::Rc;
use std::time::Duration;

use super::endpoint::Mood;
use super::ledger::Ending;
use super::plan::{draw_ordering, draw_rate};
use super::producer::{post_again, post_new};
use super::world::{Verdict, WALL_MS, World};
use crate::connection::State;
use crate::store::testing::model_disk::{Failure, Fault, Kind};

const HOUR_MS: u64 = 3_600_000;
const TEN_YEARS_MS: u64 = 10 * 365 * 24 * HOUR_MS;

/// Runs the phase.
pub(super) async fn run(world: &Rc<World>) -> Verdict {
    for _ in 0..world.plan.steps {
        let pick = world.draw(|rng| rng.u8(..100));
        step(world, pick).await?;
        let pause = world.draw(|rng| match rng.u8(..10) {
            0 => rng.u64(..30_000),
            1..=4 => rng.u64(..2000),
            _ => rng.u64(..60),
        });
        world.wait(pause).await?;
        look(world);
        world.verdict()?;
    }
    Ok(())
}

/// The power may be off, the process gone; and what can be compared at any time is.
fn look(world: &Rc<World>) {
    if world.disk.power_is_off() {
        world.reach("power off in a call");
        world.crash();
    }
    if let Some(relay) = world.relay() {
        relay.note_states(world);
        relay.check_caps(world);
        relay.check_books(world);
    }
}

async fn step(world: &Rc<World>, pick: u8) -> Verdict {
    if world.relay().is_none() && !revive(world).await? {
        return Ok(());
    }
    match pick {
        0..=34 => {
            let count = world.draw(|rng| rng.usize(1..=6));
            let largest = world.draw(|rng| rng.choice([100, 1000, 4000]).unwrap());
            post_new(world, count, largest);
        }
        35..=37 => post_new(world, world.draw(|rng| rng.usize(10..40)), 12_000),
        38..=41 => post_again(world),
        42..=56 => change_mood(world),
        57..=64 => break_disk(world),
        65..=67 => world.disk.set_fault(None),
        68..=70 => fill_disk(world),
        71 | 72 => world.disk.write_back(world.draw(|rng| rng.u64(..))),
        73..=75 => {
            world.reach("killed");
            world.end_process(Ending::Kill);
        }
        76..=79 => world.crash(),
        80 | 81 => stop(world).await?,
        82..=84 => step_wall(world),
        85..=95 => reload(world).await?,
        _ => replay(world).await?,
    }
    Ok(())
}

/// Starts a process, as a service manager does. After some tries the disk is mended.
async fn revive(world: &Rc<World>) -> Result<bool, String> {
    if world.disk.power_is_off() {
        world.crash();
    }
    if world.start().await? {
        return Ok(true);
    }
    if world.draw(|rng| rng.bool()) {
        world.disk.set_fault(None);
        world.disk.set_free(u64::MAX);
    }
    Ok(false)
}

fn change_mood(world: &World) {
    let targets = world.plan.targets();
    let (target, mood) = world.draw(|rng| (rng.usize(..targets), rng.choice(Mood::ALL).unwrap()));
    world.note(format_args!("target {target} is {mood:?}"));
    world.moods.borrow_mut()[target] = mood;
}

fn break_disk(world: &World) {
    let kinds = [
        None,
        Some(Kind::Write),
        Some(Kind::Sync),
        Some(Kind::Create),
        Some(Kind::Rename),
        Some(Kind::Remove),
        Some(Kind::SyncDir),
        Some(Kind::Allocate),
    ];
    let fault = world.draw(|rng| Fault {
        kind: rng.choice(kinds).unwrap(),
        after: rng.u64(..20),
        failure: match rng.usize(..Failure::ERRORS.len() + 2) {
            picked if picked < Failure::ERRORS.len() => Failure::ERRORS[picked],
            _ => Failure::PowerOff,
        },
        for_good: rng.u8(..4) == 0,
    });
    world.note(format_args!("{fault:?}"));
    world.reach(match fault.failure {
        Failure::PowerOff => "fault: power off",
        Failure::Full | Failure::Quota => "fault: no space",
        Failure::Short => "fault: short write",
        Failure::Io | Failure::ReadOnly => "fault: i/o error",
    });
    world.disk.set_fault(Some(fault));
}

fn fill_disk(world: &World) {
    let free = world.draw(|rng| rng.choice([u64::MAX, 0, 20_000, 100_000]).unwrap());
    world.note(format_args!("{free} bytes are free"));
    if free < u64::MAX {
        world.disk_is_full.set(true);
        world.reach("disk full");
    }
    world.disk.set_free(free);
}

/// A clean stop, as SIGTERM makes it; it is started again in a later step.
async fn stop(world: &Rc<World>) -> Verdict {
    let Some(relay) = world.relay() else {
        return Ok(());
    };
    let within = world.draw(|rng| rng.u64(..6000));
    world.note(format_args!("stop within {within} ms"));
    relay.stop(Duration::from_millis(within)).await;
    world.reach("stopped");
    world.end_process(Ending::Stop);
    world.verdict()
}

fn step_wall(world: &World) {
    let now = world.clock.wall_ms();
    let to = world.draw(|rng| {
        let places =
            [now + HOUR_MS, now.saturating_sub(HOUR_MS), WALL_MS + TEN_YEARS_MS, 0, WALL_MS];
        rng.choice(places).unwrap()
    });
    world.note(format_args!("the wall clock shows {to}"));
    world.reach("clock step");
    world.clock.set_wall(to);
}

async fn reload(world: &Rc<World>) -> Verdict {
    let Some(relay) = world.relay() else {
        return Ok(());
    };
    let number = world.draw(|rng| rng.usize(..world.plan.connections.len()));
    let change = world.draw(|rng| rng.u8(..16));
    edit(world, number, change);
    world.note(format_args!("reload of c{number}: {change}"));
    relay.reload(world).await
}

/// One edit of the files.
fn edit(world: &World, number: usize, change: u8) {
    let original = &world.plan.connections[number];
    let target = world.draw(|rng| rng.usize(..world.plan.targets()));
    let rate = world.draw(|rng| rng.bool().then(|| draw_rate(rng)));
    let ordering = world.draw(|rng| draw_ordering(rng));
    let removed = !world.config.borrow().contains_key(&number);
    if removed {
        world.reach("put back");
        world.config.borrow_mut().insert(number, original.clone());
        return;
    }
    let mut config = world.config.borrow_mut();
    if matches!(change, 9..=11) {
        world.reach("removed");
        config.remove(&number);
        return;
    }
    let Some(connection) = config.get_mut(&number) else {
        return;
    };
    match change {
        0..=3 => connection.state = State::Paused,
        4 | 5 => connection.state = State::Disabled,
        6 => connection.rate_limit = rate,
        7 | 8 => super::plan::lead(connection, number, target),
        _ => {
            connection.state = State::Active;
            if connection.ordering != ordering {
                world.reach("order changed");
            }
            connection.ordering = ordering;
        }
    }
    world.reach(match connection.state {
        State::Paused => "paused",
        State::Disabled => "disabled",
        State::Active => "changed",
    });
}

async fn replay(world: &Rc<World>) -> Verdict {
    let Some(relay) = world.relay() else {
        return Ok(());
    };
    let (number, count) =
        world.draw(|rng| (rng.usize(..world.plan.connections.len()), rng.usize(1..5)));
    relay.replay(world, number, count).await.map(drop)
}

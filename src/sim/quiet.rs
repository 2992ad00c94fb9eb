//! The quiet phase: all faults are over, and everything must get through.

use std::rc::Rc;
use std::time::Duration;

use super::endpoint::Mood;
use super::ledger::Ending;
use super::producer::post_fresh;
use super::world::{Verdict, World};

/// How long everything may take to get through, in steps of [`ROUND_MS`].
const ROUNDS: u32 = 2000;
const ROUND_MS: u64 = 5_000;

/// Runs the phase.
pub(super) async fn run(world: &Rc<World>) -> Verdict {
    calm(world);
    if !world.start().await? {
        return Err("it does not start, and nothing is wrong any more".to_owned());
    }
    if let Some(relay) = world.relay() {
        relay.reload(world).await?;
    }
    world.note(format_args!("quiet"));
    drain(world).await?;
    fresh_event_passes(world).await?;
    drain(world).await?;
    world.ledger.borrow_mut().settle_up();
    world.verdict()?;
    nothing_is_left_after_a_restart(world).await
}

/// Ends all faults: targets, disk, configuration.
fn calm(world: &Rc<World>) {
    world.disk.set_fault(None);
    world.disk.set_free(u64::MAX);
    if world.disk.power_is_off() {
        world.crash();
    }
    world.moods.borrow_mut().fill(Mood::Healthy);
    let configured = world.plan.connections.iter().cloned().enumerate();
    world.config.replace(configured.collect());
}

/// Waits until no delivery is left; dead letters are sent again.
async fn drain(world: &Rc<World>) -> Verdict {
    for _ in 0..ROUNDS {
        world.wait(ROUND_MS).await?;
        let relay = world.relay().ok_or("no process")?;
        relay.check_caps(world);
        let compared = relay.check_books(world);
        world.verdict()?;
        for number in 0..world.plan.connections.len() {
            relay.replay(world, number, usize::MAX).await?;
        }
        if compared && relay.left() == (0, 0) && world.ledger.borrow().pending() == 0 {
            return Ok(());
        }
    }
    let left = world.relay().map(|relay| relay.left());
    Err(format!("it does not drain: {left:?} live and dead"))
}

/// A fresh event reaches every connection within five seconds.
async fn fresh_event_passes(world: &Rc<World>) -> Verdict {
    // A store that was full a moment ago takes events again by then.
    world.wait(5_000).await?;
    let before = world.ledger.borrow().delivered();
    let number = post_fresh(world);
    world.wait(5_000).await?;
    let passed = world.ledger.borrow().delivered() - before;
    let wanted = world.plan.connections.len();
    if passed != wanted {
        return Err(format!("fresh event {number} reached {passed} of {wanted} connections"));
    }
    Ok(())
}

async fn nothing_is_left_after_a_restart(world: &Rc<World>) -> Verdict {
    let relay = world.relay().ok_or("no process")?;
    relay.stop(Duration::from_secs(5)).await;
    world.end_process(Ending::Stop);
    world.start().await?;
    world.wait(3_000).await?;
    let left = world.relay().map(|relay| relay.left());
    if left != Some((0, 0)) {
        return Err(format!("after a restart there is something again: {left:?} live and dead"));
    }
    Ok(())
}

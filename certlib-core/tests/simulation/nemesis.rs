//! What goes wrong, and when.

use std::sync::Arc;

use crate::world::{LEADER_TTL, World};

#[derive(Debug, Clone, Copy)]
enum Harm {
    Pause,
    Crash,
    Stop,
    Cut,
    StepWall,
    ChangeLink,
}

/// Does harm until the plan's time is over.
pub async fn rage(world: &Arc<World>) {
    let plan = &world.plan;
    let mut harms = Vec::new();
    harms.extend(plan.pauses.then_some(Harm::Pause));
    harms.extend(plan.crashes.then_some(Harm::Crash));
    harms.extend(plan.stops.then_some(Harm::Stop));
    harms.extend(plan.cuts.then_some(Harm::Cut));
    harms.extend(plan.steps.then_some(Harm::StepWall));
    harms.extend((plan.lossy || plan.late).then_some(Harm::ChangeLink));
    let stage = &world.stage;
    let end = stage.now() + plan.span;
    if harms.is_empty() {
        tokio::time::sleep(plan.span).await;
        return;
    }
    while stage.now() < end {
        tokio::time::sleep(stage.millis(500..=25_000)).await;
        let harm = *stage.pick(&harms);
        let index = usize::try_from(stage.draw(0..=2)).unwrap();
        do_harm(world, harm, index);
    }
}

fn do_harm(world: &Arc<World>, harm: Harm, index: usize) {
    let stage = &world.stage;
    let node = world.nodes()[index].clone();
    if node.is_dead() || (node.is_paused() && !matches!(harm, Harm::Crash)) {
        return;
    }
    let up_to_three_ttl = || stage.millis(500..=u64::try_from(LEADER_TTL.as_millis()).unwrap() * 3);
    match harm {
        Harm::Pause => {
            let length = up_to_three_ttl();
            stage.note(&node.name, format!("is paused for {length:?}"));
            node.pause(length);
        }
        Harm::Crash => world.crash(index),
        Harm::Stop => world.stop(index),
        Harm::Cut => {
            let length = up_to_three_ttl();
            stage.note(&node.name, format!("is cut off for {length:?}"));
            node.cut(length);
        }
        Harm::StepWall => {
            let step = time::Duration::seconds(i64::try_from(stage.draw(0..=7_200)).unwrap() - 3_600);
            stage.note(&node.name, format!("its wall clock is {step} off"));
            node.step_wall(step);
        }
        Harm::ChangeLink => {
            let link = world.link();
            stage.note(&node.name, format!("{link:?}"));
            node.set_link(link);
        }
    }
}

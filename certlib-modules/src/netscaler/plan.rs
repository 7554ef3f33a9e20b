//! Saying what would be done.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::module::{Plan, Step, Verb};

use super::NetScalerConfig;
use super::undo::{Delivery, HolderChange};

/// A digest of what the target looks like, as far as it matters for what is to be done.
pub(super) fn base(delivery: &Delivery) -> String {
    // Strings and booleans always encode, and always in the same order.
    let json = serde_json::to_vec(delivery).unwrap_or_default();
    digest(&SHA256, &json).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The plan that carries `delivery` out; `unsaved` tells that others left something unsaved.
pub(super) fn plan(
    module: &str,
    target: &str,
    config: &NetScalerConfig,
    delivery: &Delivery,
    unsaved: Option<bool>,
) -> Plan {
    Plan::new(module, target, base(delivery), steps(config, delivery, unsaved))
}

fn steps(config: &NetScalerConfig, delivery: &Delivery, unsaved: Option<bool>) -> Vec<Step> {
    let now = format!("sha256:{}", delivery.after.fingerprint);
    if !delivery.changes_anything() {
        return vec![Step::new(Verb::Keep, format!("certkey {}", delivery.pair)).before(now)];
    }
    let mut steps = Vec::new();
    let file = |file: &String| Step::new(Verb::Create, format!("file {}/{file}", delivery.folder.path));
    steps.extend(delivery.files.iter().map(file));
    for issuer in delivery.issuers.iter().rev() {
        let subject = format!("certkey {}", issuer.name);
        let holds = format!("sha256:{}", issuer.fingerprint);
        steps.push(match &issuer.added {
            Some(_) => Step::new(Verb::Create, subject).after(holds),
            None => Step::new(Verb::Keep, subject).before(holds),
        });
        steps.extend(link(&issuer.name, issuer.link_before.as_ref(), issuer.link_after.as_ref()));
    }
    pair(delivery, &now, &mut steps);
    steps.extend(delivery.holders.iter().map(binding));
    let gone = delivery.garbage.pairs.iter().map(|name| format!("certkey {name}"));
    steps.extend(gone.map(|subject| Step::new(Verb::Delete, subject).irreversible()));
    if config.save {
        let step = Step::new(Verb::Call, "save the configuration").irreversible();
        steps.push(match unsaved {
            Some(true) => step.after("with changes that somebody else has not saved"),
            _ => step,
        });
    }
    let gone = delivery.garbage.files.iter().map(|file| format!("file {}/{file}", delivery.folder.path));
    steps.extend(gone.map(|subject| Step::new(Verb::Delete, subject).irreversible()));
    steps
}

fn pair(delivery: &Delivery, now: &str, steps: &mut Vec<Step>) {
    let subject = format!("certkey {}", delivery.pair);
    let after = format!("{now} in {}", delivery.after.cert);
    let before_link = delivery.before.as_ref().and_then(|before| before.link.as_ref());
    let step = match &delivery.before {
        None => Step::new(Verb::Create, subject).after(after),
        Some(before) if delivery.changes_files() => {
            let step = Step::new(Verb::Replace, subject);
            let step = step.before(format!("serial {} in {}", before.serial, before.cert)).after(after);
            // Without its files there is no way back.
            if delivery.restorable { step } else { step.irreversible() }
        }
        Some(_) => Step::new(Verb::Keep, subject).before(now.to_owned()),
    };
    steps.push(step);
    steps.extend(link(&delivery.pair, before_link, delivery.after.link.as_ref()));
}

fn link(name: &str, before: Option<&String>, after: Option<&String>) -> Option<Step> {
    let subject = format!("link of {name}");
    match (before, after) {
        (before, after) if before == after => None,
        (None, Some(after)) => Some(Step::new(Verb::Create, subject).after(after)),
        (Some(before), Some(after)) => Some(Step::new(Verb::Replace, subject).before(before).after(after)),
        (before, None) => Some(Step::new(Verb::Delete, subject).before(before.cloned().unwrap_or_default())),
    }
}

fn binding(change: &HolderChange) -> Step {
    let list = |bound: Vec<&super::Bound>| {
        let words = bound.iter().map(|bound| match bound.sni {
            true => format!("{} (SNI)", bound.certkey),
            false => bound.certkey.clone(),
        });
        words.collect::<Vec<_>>().join(", ")
    };
    let subject = format!("certificates of {}", change.kind.label(&change.name));
    let (removed, added) = (change.removed().collect::<Vec<_>>(), change.added().collect::<Vec<_>>());
    if removed.is_empty() {
        return Step::new(Verb::Create, subject).after(list(added));
    }
    Step::new(Verb::Replace, subject).before(list(removed)).after(list(added))
}

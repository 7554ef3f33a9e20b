//! Writing a secret as planned.

use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{ApprovedPlan, Facts, Journal, Target};

use super::config::MountKind;
use super::kv::{CHANGED, Kv};
use super::plan::{Survey, named};
use super::undo::{CustomChange, Is, Place, Recorded, SecretChange, Undo};
use super::{OPERATION, VaultModule, possible};

/// Delivers to a key-value engine. See [the module](super) for what is promised.
pub(super) async fn execute(
    cx: &Context,
    kv: &Kv<'_>,
    target: Target<'_, VaultModule>,
    bundle: &CertificateBundle,
    approved: &ApprovedPlan,
    journal: &Journal<'_, Undo>,
) -> Result<Facts> {
    let entries = journal.entries().await?;
    let recorded = Recorded::read(&entries);
    let survey = Survey::take(cx, kv, target, bundle).await;
    let survey = if recorded.is_empty() { survey? } else { survey.map_err(possible)? };
    let place = Place::of(target.location, if kv.versioned { MountKind::Kv2 } else { MountKind::Kv1 });
    let written = match recorded.secret {
        Some(change) => resume(cx, kv, &survey, &place, bundle, change).await.map_err(possible)?,
        None if recorded.is_empty() => {
            cx.check_cancelled(OPERATION)?;
            if survey.base() != approved.plan().base {
                return Err(stale("the secret is not what the plan saw; plan again"));
            }
            match survey.holds() {
                true => false,
                false => begin(cx, kv, &survey, place, bundle, journal).await.map(|()| true)?,
            }
        }
        // Only what is said about the secret was to change.
        None if survey.holds() => false,
        None => return Err(foreign()),
    };
    let described = match survey.new_custom() {
        None => false,
        Some(custom) => {
            let changing = |error: Error| if written { possible(error) } else { error };
            if recorded.custom.is_none() {
                let now = survey.custom.clone().unwrap_or_default();
                let change = CustomChange::record(&now, &survey.saying);
                journal.record("custom_metadata", &Undo::Custom(change)).await.map_err(changing)?;
            }
            kv.describe(cx, &custom).await.map_err(possible)?;
            true
        }
    };
    Ok(Facts::new()
        .with("secret", kv.subject())
        .with("certificate", named(bundle.fingerprint()))
        .with("written", written)
        .with("custom_metadata_written", described)
        .with("resumed", !recorded.is_empty()))
}

/// A first attempt.
async fn begin(
    cx: &Context,
    kv: &Kv<'_>,
    survey: &Survey,
    place: Place,
    bundle: &CertificateBundle,
    journal: &Journal<'_, Undo>,
) -> Result<()> {
    let before = survey.found.data.clone();
    let after = before.clone().unwrap_or_default().with(&survey.certificate)?;
    let version = survey.found.version;
    let change = SecretChange { place, version, before, after: after.digest(), fingerprint: bundle.fingerprint() };
    let undo = Undo::Secret(change);
    journal.record("secret", &undo).await?;
    let Err(error) = kv.write(cx, &survey.found, &after).await else { return Ok(()) };
    if error.effect() != Effect::None {
        return Err(error);
    }
    // Certainly not written: the journal must not say that it may be.
    if journal.record("not_written", &Undo::NotWritten).await.is_err() {
        return Err(possible(error));
    }
    Err(if error.code() == CHANGED { stale("somebody else changed the secret just now; plan again") } else { error })
}

/// Another attempt, after one that recorded what it was about to do. Whether it wrote anything now or before.
async fn resume(
    cx: &Context,
    kv: &Kv<'_>,
    survey: &Survey,
    place: &Place,
    bundle: &CertificateBundle,
    change: &SecretChange,
) -> Result<bool> {
    if change.place != *place {
        return Err(Error::validation(OPERATION, WRONG_PLACE, "an interrupted attempt was at another secret")
            .with("then", format!("{}/{}", change.place.mount, change.place.path).escape_debug())
            .with("now", format!("{}/{}", place.mount, place.path).escape_debug()));
    }
    match change.classify(&survey.found) {
        Is::New if change.fingerprint == bundle.fingerprint() => return Ok(true),
        Is::Former if !kv.versioned || survey.found.version == change.version => {}
        _ => return Err(foreign()),
    }
    let after = survey.found.data.clone().unwrap_or_default().with(&survey.certificate)?;
    if after.digest() != change.after {
        return Err(stale("an interrupted attempt was about to write something else to this secret"));
    }
    match kv.write(cx, &survey.found, &after).await {
        // What the former attempt sent may have come in late.
        Err(error) if error.code() == CHANGED => match change.classify(&kv.read(cx).await?) {
            Is::New => Ok(true),
            _ => Err(foreign()),
        },
        written => written.map(|()| true),
    }
}

/// The journal is about another secret.
pub(super) const WRONG_PLACE: &str = "wrong_target";

fn stale(why: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, why)
}

fn foreign() -> Error {
    let why = "the secret is neither what was there nor what was to come: somebody else changed it";
    possible(Error::validation(OPERATION, codes::FOREIGN_CHANGE, why))
}

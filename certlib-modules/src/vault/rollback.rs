//! Taking a secret back.

use certlib_core::Context;
use certlib_core::error::{Result, codes};
use certlib_core::module::{RollbackOutcome, Target};

use super::apply::WRONG_PLACE;
use super::config::MountKind;
use super::kv::{CHANGED, Found, Kv};
use super::undo::{Is, Place, Recorded, SecretChange, Undo};
use super::{VaultModule, possible, refusal};

/// Makes the secret what it was: a new version with the former fields, or none where none was.
pub(super) async fn rollback(
    cx: &Context,
    kv: &Kv<'_>,
    target: Target<'_, VaultModule>,
    undo: &[Undo],
) -> Result<RollbackOutcome> {
    let recorded = Recorded::read(undo);
    let mut changed = false;
    if let Some(change) = recorded.secret {
        let place = Place::of(target.location, if kv.versioned { MountKind::Kv2 } else { MountKind::Kv1 });
        if change.place != place {
            let reason = format!("the delivery was to {}/{}", change.place.mount, change.place.path);
            return Ok(refusal(WRONG_PLACE, reason));
        }
        let found = kv.read(cx).await?;
        match change.classify(&found) {
            Is::Former => {}
            Is::New => match restore(cx, kv, target, change, &found).await? {
                None => changed = true,
                Some(refused) => return Ok(refused),
            },
            Is::Other if was_never_written(cx, kv, change).await? => return Ok(RollbackOutcome::NothingToDo),
            Is::Other => return Ok(foreign(kv)),
        }
    }
    if let Some(change) = recorded.custom {
        let failed = |error| if changed { possible(error) } else { error };
        if let Some(custom) = change.undone(&kv.custom(cx).await.map_err(failed)?) {
            kv.describe(cx, &custom).await.map_err(failed)?;
            changed = true;
        }
    }
    Ok(if changed { RollbackOutcome::RolledBack } else { RollbackOutcome::NothingToDo })
}

/// Puts back what was there before; a refusal when that would make things worse.
async fn restore(
    cx: &Context,
    kv: &Kv<'_>,
    target: Target<'_, VaultModule>,
    change: &SecretChange,
    found: &Found,
) -> Result<Option<RollbackOutcome>> {
    let former = change.before.as_ref().and_then(|former| former.certificate(&target.config.fields));
    if former.is_some_and(|former| former.leaf().not_after <= cx.clock.now()) {
        let reason = format!("{} would come back with an expired certificate", kv.subject());
        return Ok(Some(refusal("backup_expired", reason)));
    }
    let restored = match &change.before {
        Some(former) => kv.write(cx, found, former).await,
        None => kv.remove(cx, found).await,
    };
    match restored {
        Err(error) if error.code() == CHANGED => {
            // Another rollback may have been faster.
            let now = kv.read(cx).await?;
            Ok((change.classify(&now) != Is::Former).then(|| foreign(kv)))
        }
        restored => restored.map(|()| None),
    }
}

/// Whether the version that would be ours is somebody else's: then the change was recorded, but never made.
async fn was_never_written(cx: &Context, kv: &Kv<'_>, change: &SecretChange) -> Result<bool> {
    if !kv.versioned {
        return Ok(false);
    }
    let ours = kv.version_digest(cx, change.version + 1).await?;
    Ok(ours.is_some_and(|digest| digest != change.after))
}

fn foreign(kv: &Kv<'_>) -> RollbackOutcome {
    refusal(codes::FOREIGN_CHANGE, format!("{} is not what was put there", kv.subject()))
}

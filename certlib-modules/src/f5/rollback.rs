//! Taking back what was done.

use certlib_core::error::{Result, codes};
use certlib_core::module::RollbackOutcome;

use super::apply::{is_all, point, possible, selections};
use super::profile::Selection;
use super::session::Session;
use super::transaction::Committed;
use super::undo::{Change, Is, Switch, Undo};

impl Session<'_> {
    /// Makes the target as it was before. Tolerates nothing done, half done, and done twice.
    ///
    /// # Errors
    /// As the requests; afterwards as [`Session::keep`].
    pub(super) async fn roll_back(&self, undo: &[Undo]) -> Result<RollbackOutcome> {
        let switch = undo.iter().find_map(|entry| match entry {
            Undo::Switch(switch) => Some(switch),
            Undo::Clean { .. } => None,
        });
        let Some(switch) = switch else { return Ok(RollbackOutcome::NothingToDo) };
        self.check_active().await?;
        let found = selections(self, &switch.profiles).await?;
        let mut switched = Vec::new();
        for (change, found) in switch.profiles.iter().zip(&found) {
            match (change.classify(found.as_ref()), found) {
                (Is::Former, _) => {}
                (Is::New, Some(found)) => switched.push((change, found)),
                _ => {
                    let why = "has neither the new certificate nor the former";
                    return self.refuse(switch, refused(codes::FOREIGN_CHANGE, change, why)).await;
                }
            }
        }
        if let Some(outcome) = self.refusal(switch, &switched).await? {
            return self.refuse(switch, outcome).await;
        }
        self.point_back(switch, &switched).await?;
        self.remove_uploads(switch.uploads()).await.map_err(possible)?;
        let removed = self.remove(&switch.objects).await;
        if let Some(error) = removed.problem {
            return Err(possible(error));
        }
        if !removed.in_use.is_empty() {
            tracing::warn!(names = removed.in_use.join(" "), "new objects stay, because something else uses them");
        }
        // Also when there was nothing left to do: an earlier attempt may have died before it came to this.
        self.keep().await?;
        let nothing = switched.is_empty() && removed.gone.is_empty();
        Ok(if nothing { RollbackOutcome::NothingToDo } else { RollbackOutcome::RolledBack })
    }

    /// Leaves everything as it is, except that uploads, which are nobody else's, go.
    async fn refuse(&self, switch: &Switch, outcome: RollbackOutcome) -> Result<RollbackOutcome> {
        self.remove_uploads(switch.uploads()).await.map_err(possible)?;
        Ok(outcome)
    }

    /// Why going back would make things worse, if it would.
    async fn refusal(&self, switch: &Switch, switched: &[(&Change, &Selection)]) -> Result<Option<RollbackOutcome>> {
        for (change, _) in switched {
            let made = self.cert(&change.after.cert).await?;
            if !switch.made(made.as_ref()) {
                let why = "has the new certificate's file, but with other content";
                return Ok(Some(refused(codes::FOREIGN_CHANGE, change, why)));
            }
            let Some(before) = &change.before else { continue };
            let missing = || Some(refused("backup_missing", change, "had a certificate that was deleted meanwhile"));
            let Some(cert) = self.cert(&before.cert).await? else { return Ok(missing()) };
            let chain_missing = match &before.chain {
                Some(chain) => self.cert(chain).await?.is_none(),
                None => false,
            };
            if chain_missing || !self.has_key(&before.key).await? {
                return Ok(missing());
            }
            if cert.expires().is_some_and(|at| at <= self.cx.clock.now().unix_timestamp()) {
                return Ok(Some(refused("backup_expired", change, "would come back with an expired certificate")));
            }
        }
        Ok(None)
    }

    /// All profiles in one transaction.
    async fn point_back(&self, switch: &Switch, switched: &[(&Change, &Selection)]) -> Result<()> {
        if switched.is_empty() {
            return Ok(());
        }
        let commands: Vec<_> =
            switched.iter().map(|(change, found)| point(change, found, false)).collect::<Result<_>>()?;
        match self.commit(&commands).await {
            Committed::Yes => Ok(()),
            Committed::No(error) => Err(possible(error)),
            Committed::Unknown(error) => match selections(self, &switch.profiles).await {
                Ok(found) if is_all(&switch.profiles, &found, Is::Former) => Ok(()),
                _ => Err(possible(error)),
            },
        }
    }
}

fn refused(code: &str, change: &Change, why: &str) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason: format!("{} {why}", change.title()) }
}

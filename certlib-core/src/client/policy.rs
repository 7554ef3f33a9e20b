//! What a project may have issued.

use serde_json::json;

use super::Client;
use crate::error::Result;
use crate::model::{Event, IssuancePolicy};
use crate::policy::{self, Wish};
use crate::store::{StoreExt as _, WriteBatch};

impl Client {
    /// The policy of a project; the one that allows everything if none was set.
    ///
    /// # Errors
    /// `not_found` for an unknown project.
    pub async fn issuance_policy(&self, project: &str) -> Result<IssuancePolicy> {
        self.project(project).await?;
        let policy = self.engine.store.find::<IssuancePolicy>(project).await?;
        Ok(policy.map_or_else(|| IssuancePolicy::new(project), |policy| policy.record))
    }

    /// Sets the policy of a project, in the name of `by`. Certificates that exist stay; whether they are still renewed is
    /// up to [`IssuancePolicy::stop_renewals`].
    ///
    /// # Errors
    /// `policy_invalid`, `not_found`; `conflict` when somebody else sets it at the same moment.
    pub async fn set_issuance_policy(&self, project: &str, by: &str, policy: IssuancePolicy) -> Result<IssuancePolicy> {
        policy::check_policy(&policy)?;
        self.project(project).await?;
        let new = IssuancePolicy { id: project.to_owned(), ..policy };
        let event = Event::new(project, "policy.changed", project, json!({ "by": by }), self.engine.clock.now());
        let batch = match self.engine.store.find::<IssuancePolicy>(project).await? {
            Some(mut former) => {
                former.record = new.clone();
                WriteBatch::new().update(&former)?
            }
            None => WriteBatch::new().insert(&new)?,
        };
        self.engine.store.commit(batch.insert(&event)?).await?;
        Ok(new)
    }

    /// Fails unless the project's policy allows this.
    pub(super) async fn admit(&self, project: &str, wish: &Wish<'_>) -> Result<()> {
        match self.engine.store.find::<IssuancePolicy>(project).await? {
            Some(policy) => policy::admit(&policy, wish),
            None => Ok(()),
        }
    }
}

//! Saying what would be done.

use certlib_core::module::{Step, Verb};
use certlib_core::{CertificateBundle, Context, Result};
use futures::future::join_all;

use super::Delivery;
use super::survey::{Item, base};
use crate::files::sha256;
use crate::probe;
use crate::winrm::host::{Found, Host};
use crate::winrm::sddl::Dacl;

/// What would be done, and a digest of what the machine looks like.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) steps: Vec<Step>,
    pub(crate) base: String,
}

impl Delivery<'_> {
    /// What [`execute`](Delivery::execute) would do. Changes nothing.
    ///
    /// # Errors
    /// `Validation`: as [`check`](Delivery::check); `path_not_a_file`, `path_is_link`, `file_too_large`,
    /// `path_escapes_root`, `directory_missing`, `account_unknown`, `key_missing`. `IoPermanent` `disk_full`,
    /// `permission_denied`. `Network` when the machine is lost.
    pub(crate) async fn plan(&self, cx: &Context, host: &mut Host<'_>, bundle: &CertificateBundle) -> Result<Planned> {
        let items = self.survey(host, bundle).await?;
        let mut steps: Vec<Step> = items.iter().map(|item| file_step(item, bundle)).collect();
        if items.iter().any(|item| !item.keep) || self.needs_reload(cx, bundle).await {
            steps.extend(self.commands.test.map(|command| Step::new(Verb::Test, command)));
            steps.extend(self.commands.reload.map(|command| Step::new(Verb::Reload, command)));
        }
        Ok(Planned { steps, base: base(&items) })
    }

    /// Files that are right already may still not be served: an earlier reload can have been lost.
    async fn needs_reload(&self, cx: &Context, bundle: &CertificateBundle) -> bool {
        let looks = self.endpoints.iter().map(|endpoint| probe::look(cx, endpoint, bundle.fingerprint()));
        join_all(looks).await.iter().any(|check| check.problem.is_some())
    }
}

fn file_step(item: &Item<'_>, bundle: &CertificateBundle) -> Step {
    let subject = item.output.path.as_str();
    let after = format!("{} of {}", item.format.as_str(), bundle.fingerprint());
    let after = match &item.sddl {
        Some(list) => format!("{after}, access {list}"),
        None => after,
    };
    match &item.found {
        _ if item.keep => Step::new(Verb::Keep, subject).before(after),
        Found::Absent => Step::new(Verb::Create, subject).after(after),
        Found::File(file) => {
            let list = Dacl::text(&file.sddl).unwrap_or("unknown");
            let before = format!("sha256 {}, access {list}", sha256(file.content.expose()));
            Step::new(Verb::Replace, subject).before(before).after(after)
        }
    }
}

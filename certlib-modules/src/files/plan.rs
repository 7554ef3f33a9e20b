//! Saying what would be done.

use std::collections::BTreeSet;

use certlib_core::module::{Plan, Step, Verb};
use certlib_core::{CertificateBundle, Context, Error, Result};
use futures::future::{join, join_all, try_join, try_join_all};

use super::filesystem::{FileSystem, Found};
use super::survey::{Item, base};
use super::{Delivery, FILE_LIMIT, haproxy, path, sha256};
use crate::probe;

/// Space that must be free in a directory before anything is written, in bytes.
const MIN_FREE: u64 = FILE_LIMIT as u64;

impl Delivery<'_> {
    /// What [`execute`](Delivery::execute) would do. Changes nothing.
    ///
    /// # Errors
    /// `Validation`: as [`check`](Delivery::check); `path_not_a_file`, `link_dangling`, `file_too_large`,
    /// `path_duplicate`, `path_escapes_root`, `directory_missing`, `owner_unknown`, `key_missing`,
    /// `haproxy_certificate_unknown`; as [`FileSystem`]. `IoPermanent` `disk_full`, `permission_denied`, `haproxy_not_understood`. As
    /// [`FileSystem::ask`]. `Network` when the machine is lost.
    pub async fn plan(&self, cx: &Context, fs: &dyn FileSystem, bundle: &CertificateBundle) -> Result<Plan> {
        self.check()?;
        let files = async {
            let (items, directories) = join(self.survey(fs, bundle), self.check_directories(fs)).await;
            // The same error each time, whichever was found first.
            let items = items?;
            directories.map(|()| items)
        };
        let (items, memory) = try_join(files, self.memory(fs)).await?;
        let mut steps: Vec<Step> = items.iter().map(|item| file_step(item, bundle)).collect();
        let changes = items.iter().any(|item| !item.keep) || !haproxy::has(memory.as_deref(), bundle);
        if changes || self.needs_reload(cx, bundle).await {
            let settings = self.settings;
            steps.extend(settings.test_command.as_ref().map(|command| Step::new(Verb::Test, command)));
            steps.extend(settings.reload_command.as_ref().map(|command| Step::new(Verb::Reload, command)));
            steps.extend(memory.as_ref().and_then(|memory| self.haproxy_step(memory, bundle)));
            steps.extend(settings.after_reload_check.as_ref().map(|command| Step::new(Verb::Test, command)));
        }
        Ok(Plan::new(self.module, self.target, base(&items, memory.as_deref()), steps))
    }

    async fn check_directories(&self, fs: &dyn FileSystem) -> Result<()> {
        let outputs = self.layout.outputs();
        let parents: BTreeSet<&str> = outputs.iter().map(|(_, output)| path::parent(&output.path)).collect();
        let free = try_join_all(parents.iter().map(|parent| fs.free_space(parent))).await?;
        for (parent, free) in parents.iter().zip(free) {
            if let Some(free) = free.filter(|free| *free < MIN_FREE) {
                return Err(Error::permanent(
                    "files.plan",
                    "disk_full",
                    "there is not enough room to write the new files",
                )
                .with("directory", parent.escape_debug())
                .with("free_bytes", free));
            }
        }
        Ok(())
    }

    /// Files that are right already may still not be served: an earlier reload can have been lost.
    async fn needs_reload(&self, cx: &Context, bundle: &CertificateBundle) -> bool {
        let looks = self.settings.endpoints.iter().map(|endpoint| probe::look(cx, endpoint, bundle.fingerprint()));
        join_all(looks).await.iter().any(|check| check.problem.is_some())
    }
}

fn file_step(item: &Item<'_>, bundle: &CertificateBundle) -> Step {
    let subject = if item.real() == item.output.path {
        item.output.path.clone()
    } else {
        format!("{} -> {}", item.output.path, item.real())
    };
    let after = format!("{} of {}, mode {:04o}", item.format.as_str(), bundle.fingerprint(), item.attributes.mode);
    let after = match (item.attributes.owner_required, item.attributes.uid, item.attributes.gid) {
        (false, _, _) => after,
        (true, uid, gid) => {
            let number = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            format!("{after}, owner {}:{}", number(uid), number(gid))
        }
    };
    match &item.found {
        _ if item.keep => Step::new(Verb::Keep, subject).before(after),
        Found::Absent => Step::new(Verb::Create, subject).after(after),
        Found::File(file) => {
            let digest = sha256(file.content.expose());
            let before = format!("sha256 {digest}, mode {:04o}, owner {}:{}", file.mode, file.uid, file.gid);
            Step::new(Verb::Replace, subject).before(before).after(after)
        }
    }
}

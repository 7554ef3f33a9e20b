//! The `file` module: certificates as files on the machine that this process runs on.
//!
//! This is the module to read, and to copy, before writing another one. A module is a type that implements
//! [`DistributionModule`]: it names its settings, and answers `check`, `dry_run`, `execute`, `validate` and
//! `rollback`. Delivery as files is shared by several modules and lives in [`files`](crate::files); what is
//! left to each is how to reach the machine: here [`LocalFileSystem`].
//!
//! # Settings
//! Location: [`Layout`]; configuration: [`Settings`]; credentials: [`FileCredentials`], needed for PKCS#12 files only.
//!
//! ```
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::file::FileModule;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t-1",
//!     "this machine",
//!     json!({
//!         "test_command": "nginx -t",
//!         "reload_command": "systemctl reload nginx",
//!         "endpoints": [{"host": "127.0.0.1", "port": 443, "server_name": "www.example.com"}],
//!     }),
//!     json!({
//!         "root": "/etc/nginx/tls",
//!         "paths": {
//!             "fullchain": "/etc/nginx/tls/www.pem",
//!             "key": {"path": "/etc/nginx/tls/www.key", "mode": "0640", "group": "ssl-cert"},
//!         },
//!     }),
//!     None,
//! );
//! ErasedModule::check(&FileModule::new(), &target)?;
//!
//! // HAProxy serves the new certificate at once, without a reload; the file is for its next start.
//! let target = TargetSpec::new(
//!     "t-2",
//!     "HAProxy on this machine",
//!     json!({
//!         "haproxy": {"socket": "/run/haproxy/admin.sock"},
//!         "after_reload_check": "systemctl is-active haproxy",
//!         "endpoints": [{"host": "127.0.0.1", "port": 443, "server_name": "www.example.com"}],
//!     }),
//!     json!({"paths": {"combined": "/etc/haproxy/tls/www.pem"}}),
//!     None,
//! );
//! ErasedModule::check(&FileModule::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! # Rights
//! This process needs to write into the directories of the files, and to read what is there; to give files to others, it
//! has to be root. A [`Haproxy`](crate::files::Haproxy) needs `stats socket PATH level admin` in its configuration, with a
//! mode and a group that let this process write to the socket.
//!
//! Where SELinux is enabled, a new file gets the label of the one in whose place it comes, or by `restorecon` the one that
//! the policy has for that place. Where that is not permitted it is delivered all the same, and the fact `label_kept` is
//! false.

mod command;
mod label;
mod local;
mod socket;

use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};
use certlib_core::secret::SecretString;
use certlib_core::{CertificateBundle, Context, Result};
use serde::Deserialize;

pub use self::local::LocalFileSystem;
use crate::files::{Delivery, Layout, Settings, Undo};

/// Delivers to files of this machine, as the user that this process runs as.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct FileModule;

/// The credentials of a `file` target.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileCredentials {
    /// The password of PKCS#12 files.
    pub pfx_password: Option<SecretString>,
}

impl FileModule {
    /// The module.
    pub fn new() -> Self {
        Self
    }
}

/// Puts the parts of a target together for the shared code.
fn delivery<'a>(target: Target<'a, FileModule>) -> Delivery<'a> {
    let password = target.credentials.as_ref().and_then(|credentials| credentials.pfx_password.as_ref());
    Delivery::new(FileModule::KIND, target.name, local::machine(), target.location, target.config)
        .with_pfx_password(password)
}

impl DistributionModule for FileModule {
    const KIND: &'static str = "file";
    type Config = Settings;
    type Credentials = Option<FileCredentials>;
    type Location = Layout;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        // Renames are atomic one by one; a pair of files is not one step.
        Capabilities::default()
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        delivery(target).check()
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        delivery(target).plan(cx, &LocalFileSystem::new(), bundle).await
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        delivery(target).execute(cx, &LocalFileSystem::new(), bundle, plan, undo).await
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let delivery = delivery(target);
        match delivery.probe(cx, bundle).await {
            Some(validation) => Ok(validation),
            None => delivery.read_back(&LocalFileSystem::new(), bundle).await,
        }
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        delivery(target).rollback(cx, &LocalFileSystem::new(), &undo).await
    }
}

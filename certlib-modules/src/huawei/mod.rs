//! Delivery to Huawei Cloud: the certificate manager, load balancers, the delivery network and the web application
//! firewall.
//!
//! The certificate is put into the certificate manager (SCM) and, where the resource has a store of its own, into that
//! store. Then the resource is pointed at it by id, in one request. The former certificate stays where it was, so the
//! way back is to point at it again.
//!
//! | Resource | What is made | What is changed |
//! |---|---|---|
//! | `scm` | a certificate in the certificate manager | nothing |
//! | `elb` | that, and one in the load balancers' store | the listener's default certificate, or the one for its names |
//! | `cdn` | a certificate in the certificate manager | the certificate of the domain's HTTPS section |
//! | `waf` | that, and one in the firewall's store | the host's certificate |
//!
//! A target, as JSON:
//!
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::huawei::HuaweiCloud;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t1",
//!     "shop-elb",
//!     json!({"endpoints": [{"host": "shop.example.com"}]}),
//!     json!({
//!         "region": "cn-north-4",
//!         "project_id": "0605767cae00d5762f19c0155cd8c1a8",
//!         "resource": {"service": "elb", "listener_id": "0b11747a-b139-492f-9692-2df0b1c87193", "use": "default"},
//!     }),
//!     Some(Secret::new(r#"{"access_key": "AKEXAMPLE", "secret_key": "example"}"#.to_owned())),
//! );
//! ErasedModule::check(&HuaweiCloud::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! The other resources are `{"service": "scm"}`, `{"service": "cdn", "domain": "www.example.com"}` and
//! `{"service": "waf", "host_id": "…", "mode": "cloud"}` (or `"premium"`).
//!
//! # Permissions
//! - Certificate manager: `scm:cert:import`, `scm:cert:list`, `scm:cert:get`, `scm:cert:delete`,
//!   `scm:cert:listDeployedResources`.
//! - Load balancers: `elb:certificates:create`, `…:list`, `…:delete`; `elb:listeners:get`, `…:put`.
//! - Delivery network: `cdn:configuration:queryDomains`, `…:queryDomainConfigInfo`, `…:modifyDomainConfigInfo`, and the
//!   network's delegation to the certificate manager, which an administrator switches on in its console.
//! - Firewall: `waf:certificate:create`, `…:list`, `…:get`, `…:delete`, `…:apply`; `waf:instance:get` or
//!   `waf:premiumInstance:get`.
//! - `iam:projects:listProjects`, if no project id is configured; with one, it makes mistakes about region and project
//!   easier to tell.
//!
//! # What a plan shows
//! Each certificate that is made or found, what the resource uses now and will use, and earlier generations that go.
//! Nothing is written; signatures, permissions to read, the resource, its names and the length of each part are checked.
//!
//! # What rollback restores
//! The resource uses its former certificate again, by id, and the new one is removed unless something uses it. Where the
//! delivery network was given certificate and key directly, there is no id and no key to be had: the plan marks that
//! step as one that cannot be undone, and rollback is refused with `former_not_restorable`. It is also refused when
//! somebody else changed the resource (`foreign_change`), and when the former certificate is gone (`former_gone`) or has
//! expired (`backup_expired`).
//!
//! # Cleaning up
//! The certificates of a target are named `PREFIX-TARGET-FINGERPRINT`. A delivery removes those of its own target that
//! nothing uses, except for the newest former one. What it removes does not come back with a rollback.

mod apply;
mod bound;
mod cdn;
mod client;
mod config;
mod elb;
mod leaf;
mod plan;
mod project;
mod rollback;
mod scm;
mod stores;
mod survey;
mod undo;
mod validate;
mod waf;

use std::sync::Arc;

use certlib_core::error::Result;
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};
use certlib_core::{CertificateBundle, Context};

use self::client::Cloud;
pub use self::config::{HuaweiConfig, HuaweiCredentials, HuaweiLocation, Place, Resource, ServiceUrls, WafMode};
pub use self::undo::{Binding, Creation, Retirement, Undo};
use crate::net::{Lookup, SystemLookup};

/// What errors of this module name as their operation.
const OPERATION: &str = "huawei";

/// The module for targets of kind `huawei`.
#[derive(Debug)]
pub struct HuaweiCloud {
    lookup: Arc<dyn Lookup>,
}

impl HuaweiCloud {
    /// The module, with the operating system's resolver.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup }
    }

    /// The account behind a target whose settings make sense.
    fn cloud<'a>(&self, target: Target<'a, Self>) -> Result<Cloud<'a>> {
        config::check(target.config, target.location, target.credentials)?;
        Cloud::new(target, Arc::clone(&self.lookup))
    }
}

impl Default for HuaweiCloud {
    fn default() -> Self {
        Self::new()
    }
}

impl DistributionModule for HuaweiCloud {
    const KIND: &'static str = "huawei";
    type Config = HuaweiConfig;
    type Credentials = HuaweiCredentials;
    type Location = HuaweiLocation;
    type Undo = Undo;

    /// Reversible except for certificates that the delivery network was given directly: see [the module](self).
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.atomic = true;
        // The services allow each account some ten requests a second.
        capabilities.concurrency = 5;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        config::check(target.config, target.location, target.credentials)
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        self.cloud(target)?.plan(cx, target.name, bundle).await
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        self.cloud(target)?.execute(cx, bundle, plan, undo).await
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        self.cloud(target)?.validate(cx, bundle).await
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        self.cloud(target)?.rollback(cx, &undo).await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

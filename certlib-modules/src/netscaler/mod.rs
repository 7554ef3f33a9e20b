//! Delivery to a Citrix NetScaler ADC over its NITRO API.
//!
//! The certificate goes into a certificate-key pair (`sslcertkey`); what the pair is bound to serves it from then on.
//! Two ways, see [`Switch`]:
//!
//! - **update** (the default) uploads certificate and key as new files, and has the pair load them: one step for every
//!   virtual server, service and service group at once, whose bindings stay.
//! - **rebind** adds a new pair, with its whole chain, and binds it in place of the former one, SNI bindings included.
//!
//! The issuers of the bundle become pairs of their own, linked in order, however many there are. A certificate that
//! the appliance has already is used, whatever its name is, and never added twice.
//!
//! | Operation | What it does |
//! |---|---|
//! | `dry_run` | logs in, reads pairs, files, links and bindings, and names each file, pair, link and binding that would be made or changed, what would be removed, and whether somebody left changes unsaved |
//! | `execute` | uploads, links, switches, reads back, saves the configuration (unless `save` is off) |
//! | `validate` | a TLS handshake with each of the `endpoints`; without any, reads pair, chain and bindings back |
//! | `rollback` | loads the former files into the pair (or binds the former pair again), links as before, removes the files, pairs and links that were made unless somebody else uses them by now, and saves if the delivery was saved |
//!
//! Files and pairs that the module makes are named `certlib-...` after the target's pair, the certificate's start of
//! validity, and its fingerprint; nothing else is ever removed. Two generations stay: what is served, and what was
//! served before. Removing older ones is not undone by rollback.
//!
//! **High availability.** Changes are made on the primary node only. A secondary one is refused (`not_primary`), or left
//! for the other node when `peer_url` names it. The role is looked at again before the switch and before saving.
//!
//! **Partitions.** With `partition`, everything happens there, and files go to `/nsconfig/partitions/NAME/ssl`.
//!
//! **What the login needs**, as a command policy: `login`, `logout`, `show`, `add`, `update`, `link`, `unlink` and `rm`
//! of `ssl certKey`; `show`, `add` and `rm` of `system file`; `bind`, `unbind` and `show` of `ssl vserver`,
//! `ssl service` and `ssl serviceGroup` (for rebind and `bind`); `show ha node`; `show ns config` and `save ns config`;
//! `switch ns partition` in partitions.
//!
//! Sources: <https://developer-docs.netscaler.com/en-us/adc-nitro-api/current-release.html>,
//! <https://docs.netscaler.com/en-us/citrix-adc/current-release/ssl/ssl-certificates.html>.
//!
//! A target, as JSON:
//!
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::netscaler::NetScaler;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t1",
//!     "shop on the ADC",
//!     json!({
//!         "connection": {"addresses": {"allow": ["10.1.0.0/16"]}},
//!         "bind": [{"name": "vs-shop"}],
//!         "endpoints": [{"host": "shop.example.com"}],
//!     }),
//!     json!({"url": "https://ns1.example.com", "peer_url": "https://ns2.example.com", "certkey": "shop"}),
//!     Some(Secret::new(r#"{"username": "certlib", "password": "..."}"#.to_owned())),
//! );
//! ErasedModule::check(&NetScaler::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod apply;
mod config;
mod names;
mod nitro;
mod objects;
mod plan;
mod rollback;
mod session;
mod survey;
mod turns;
mod undo;
mod validate;

use std::sync::Arc;

use certlib_core::error::{Effect, Error, Result};
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};
use certlib_core::{CertificateBundle, Context};

use self::apply::{Work, possible, stale};
pub use self::config::{Bind, Chain, HolderKind, NetScalerConfig, NetScalerCredentials, NetScalerLocation, Switch};
pub use self::names::Folder;
pub use self::objects::{Bound, Pair};
use self::rollback::{WayBack, refused};
use self::session::Session;
use self::survey::Survey;
use self::turns::Turns;
pub use self::undo::{After, Delivery, Garbage, HolderChange, Issuer, Undo};
use crate::net::{Lookup, SystemLookup};

/// What errors of this module name as their operation.
const OPERATION: &str = "netscaler";

/// How many deliveries at a time; on one appliance it is one.
const CONCURRENCY: usize = 10;

/// The journal is about another appliance, partition or pair.
const WRONG_TARGET: &str = "wrong_target";

/// The module for targets of kind `netscaler`.
#[derive(Debug)]
pub struct NetScaler {
    lookup: Arc<dyn Lookup>,
    turns: Turns,
}

impl NetScaler {
    /// The module, with the operating system's resolver.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup, turns: Turns::default() }
    }

    async fn open<'a>(&self, cx: &'a Context, target: Target<'a, Self>) -> Result<Session<'a>> {
        let Target { location, config, credentials, .. } = target;
        config::check(location, config, credentials)?;
        Session::open(cx, location, config, credentials, &self.lookup).await
    }

    /// Looks at the target. Changes nothing.
    async fn look<'a>(
        session: &mut Session<'a>,
        target: Target<'a, Self>,
        bundle: &CertificateBundle,
    ) -> Result<Delivery> {
        let Target { location, config, credentials, .. } = target;
        Survey::begin(session, location, config, credentials).await?.delivery(bundle).await
    }

    /// A first attempt: looks, compares with the plan, records, and begins.
    async fn begin<'a>(
        cx: &Context,
        session: &mut Session<'a>,
        target: Target<'a, Self>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        let unchanged = |error: Error| error.with_effect(Effect::None);
        let delivery = Self::look(session, target, bundle).await.map_err(unchanged)?;
        if plan::base(&delivery) != approved.plan().base {
            return Err(stale("the appliance does not look as the plan saw it; plan again"));
        }
        if !delivery.changes_anything() {
            return Ok(Facts::new().with("certkey", delivery.pair).with("changed", false));
        }
        cx.check_cancelled(OPERATION)?;
        journal.record("delivery", &Undo::Delivery(Box::new(delivery.clone()))).await?;
        let mut work = Work { session, config: target.config, delivery: &delivery };
        let facts = work.run(cx, bundle, journal, false).await.map_err(possible)?;
        Ok(facts.with("changed", true).with("resumed", false))
    }

    /// Another attempt, after one that recorded what it was about to do.
    async fn resume<'a>(
        cx: &Context,
        session: &mut Session<'a>,
        target: Target<'a, Self>,
        bundle: &CertificateBundle,
        (delivery, saving): (&Delivery, bool),
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        let mut work = Work { session, config: target.config, delivery };
        let facts = work.run(cx, bundle, journal, saving).await?;
        Ok(facts.with("changed", true).with("resumed", true))
    }
}

impl Default for NetScaler {
    fn default() -> Self {
        Self::new()
    }
}

/// What the journal says: the delivery, and whether it was about to be saved.
fn recorded(entries: &[Undo]) -> Option<(&Delivery, bool)> {
    let saving = entries.iter().any(|entry| matches!(entry, Undo::Saving));
    entries.iter().find_map(|entry| match entry {
        Undo::Delivery(delivery) => Some((&**delivery, saving)),
        Undo::Saving => None,
    })
}

impl DistributionModule for NetScaler {
    const KIND: &'static str = "netscaler";
    type Config = NetScalerConfig;
    type Credentials = NetScalerCredentials;
    type Location = NetScalerLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.concurrency = CONCURRENCY;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        config::check(target.location, target.config, target.credentials).map(drop)
    }

    /// Logs in and reads. Needs the bundle's key, which is not sent.
    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        bundle.key_pem()?;
        let unchanged = |error: Error| error.with_effect(Effect::None);
        let mut session = self.open(cx, target).await.map_err(unchanged)?;
        let looked = async {
            let delivery = Self::look(&mut session, target, bundle).await?;
            let unsaved = if target.config.save { session.unsaved().await? } else { None };
            Ok((delivery, unsaved))
        };
        let looked = looked.await;
        session.close().await;
        let (delivery, unsaved) = looked.map_err(unchanged)?;
        Ok(plan::plan(Self::KIND, target.name, target.config, &delivery, unsaved))
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        undo: &Journal<'_, Self::Undo>,
    ) -> Result<Facts> {
        bundle.key_pem()?;
        let entries = undo.entries().await?;
        let recorded = recorded(&entries);
        if let Some((delivery, _)) = recorded {
            if delivery.appliance != target.location.appliance() {
                let why = "an interrupted attempt was on another appliance, partition or pair";
                return Err(possible(Error::validation(OPERATION, WRONG_TARGET, why)));
            }
            if delivery.after.fingerprint != bundle.fingerprint() {
                return Err(possible(stale("an interrupted attempt was about to deliver another certificate")));
            }
        } else {
            cx.check_cancelled(OPERATION)?;
        }
        let effect = if recorded.is_some() { Effect::Possible } else { Effect::None };
        let _turn = self.turns.take(&target.location.url, target.location.peer_url.as_deref()).await;
        let mut session = self.open(cx, target).await.map_err(|error| error.with_effect(effect))?;
        let outcome = match recorded {
            Some(recorded) => {
                let resumed = Self::resume(cx, &mut session, target, bundle, recorded, undo);
                resumed.await.map_err(possible)
            }
            None => Self::begin(cx, &mut session, target, bundle, approved, undo).await,
        };
        session.close().await;
        outcome
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        if let Some(validation) = validate::probe(cx, &target.config.endpoints, bundle).await {
            return Ok(validation);
        }
        let unchanged = |error: Error| error.with_effect(Effect::None);
        let mut session = self.open(cx, target).await.map_err(unchanged)?;
        let looked = Self::look(&mut session, target, bundle).await;
        session.close().await;
        looked.map(|delivery| validate::read_back(&delivery)).map_err(unchanged)
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Self::Undo>) -> Result<RollbackOutcome> {
        let Some((delivery, saved)) = recorded(&undo) else { return Ok(RollbackOutcome::NothingToDo) };
        if delivery.appliance != target.location.appliance() {
            return Ok(refused(WRONG_TARGET, &delivery.appliance, "is where the delivery was"));
        }
        let _turn = self.turns.take(&target.location.url, target.location.peer_url.as_deref()).await;
        let mut session = self.open(cx, target).await.map_err(possible)?;
        let mut way = WayBack { session: &mut session, credentials: target.credentials, delivery, saved };
        let outcome = way.run(cx).await.map_err(possible);
        session.close().await;
        outcome
    }
}

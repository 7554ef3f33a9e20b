//! PKI engines: the certificate, which is that of an authority, becomes the default issuer.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Context;
use certlib_core::bundle::{CertificateBundle, Fingerprint};
use certlib_core::error::{Error, ErrorClass, Result, codes};
use certlib_core::module::{ApprovedPlan, EndpointCheck, Facts, Journal, Plan, RollbackOutcome, Step, Target, Verb};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::apply::WRONG_PLACE;
use super::config::{MountKind, PkiRollback};
use super::data::hex;
use super::plan::named;
use super::rights;
use super::session::{Ask, Reply, Session, refused};
use super::undo::{IssuerChange, Place, Undo};
use super::{OPERATION, VaultModule, possible, refusal};
use crate::net::Answer;

/// A PKI engine.
#[derive(Debug)]
pub(super) struct Pki<'a> {
    session: &'a Session<'a>,
    mount: &'a str,
}

/// Which issuer is the default one.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    default: String,
    #[serde(default)]
    default_follows_latest_issuer: bool,
}

#[derive(Debug, Deserialize)]
struct Keys {
    #[serde(default)]
    keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Issuer {
    certificate: String,
    #[serde(default)]
    key_id: String,
}

#[derive(Debug, Deserialize)]
struct Imported {
    #[serde(default)]
    mapping: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Role {
    #[serde(default)]
    no_store: bool,
}

/// A mount as it was found.
#[derive(Debug)]
struct Survey {
    config: Config,
    issuers: Vec<String>,
    /// The certificate of the default issuer, and whether its key is there.
    default: Option<(CertificateBundle, bool)>,
}

impl Survey {
    fn base(&self) -> String {
        let Config { default, default_follows_latest_issuer } = &self.config;
        let has_key = self.default.as_ref().map(|(_, has_key)| *has_key);
        let json = serde_json::to_vec(&(default, default_follows_latest_issuer, &self.issuers, has_key));
        // Texts in a fixed order always encode.
        hex(digest(&SHA256, &json.unwrap_or_default()).as_ref())
    }

    fn default_fingerprint(&self) -> Option<Fingerprint> {
        self.default.as_ref().map(|(certificate, _)| certificate.fingerprint())
    }

    /// Whether the default issuer is this one, with its key.
    fn is_at(&self, fingerprint: Fingerprint) -> bool {
        self.default.as_ref().is_some_and(|(found, has_key)| *has_key && found.fingerprint() == fingerprint)
    }
}

impl<'a> Pki<'a> {
    pub(super) fn new(session: &'a Session<'a>, mount: &'a str) -> Self {
        Self { session, mount: mount.trim_matches('/') }
    }

    fn subject(&self, path: &str) -> String {
        format!("{}/{path}", self.mount)
    }

    /// What `execute` would do.
    pub(super) async fn plan(
        &self,
        cx: &Context,
        target: Target<'_, VaultModule>,
        bundle: &CertificateBundle,
    ) -> Result<Plan> {
        check(bundle)?;
        let survey = self.survey(cx).await?;
        let fingerprint = bundle.fingerprint();
        let import = self.subject("issuers");
        let switch = self.subject("config/issuers default");
        let steps = if survey.is_at(fingerprint) {
            vec![Step::new(Verb::Keep, switch).after(named(fingerprint))]
        } else {
            self.check_rights(cx).await?;
            let mut switch = Step::new(Verb::Replace, switch).after(named(fingerprint));
            switch.before = survey.default_fingerprint().map(named);
            switch.reversible = target.config.pki_rollback == PkiRollback::IfUnused && switch.before.is_some();
            vec![Step::new(Verb::Create, import).after(named(fingerprint)).irreversible(), switch]
        };
        Ok(Plan::new(
            <VaultModule as certlib_core::module::DistributionModule>::KIND,
            target.name,
            survey.base(),
            steps,
        ))
    }

    async fn check_rights(&self, cx: &Context) -> Result<()> {
        const WRITE: &[&[&str]] = &[&["update", "create"]];
        let needs = [(self.subject("issuers/import/bundle"), WRITE), (self.subject("config/issuers"), WRITE)];
        rights::check(cx, self.session, &needs).await
    }

    /// Imports the issuer and makes it the default one.
    pub(super) async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, VaultModule>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        check(bundle)?;
        let entries = journal.entries().await?;
        let recorded = change(&entries);
        let place = Place::of(target.location, MountKind::Pki);
        let survey = self.survey(cx).await?;
        let facts = Facts::new()
            .with("mount", self.mount)
            .with("certificate", named(bundle.fingerprint()))
            .with("resumed", recorded.is_some());
        let (former, follows_latest) = match recorded {
            None => {
                cx.check_cancelled(OPERATION)?;
                if survey.base() != approved.plan().base {
                    let why = "the issuers of the mount are not those that the plan saw; plan again";
                    return Err(Error::validation(OPERATION, codes::PLAN_STALE, why));
                }
                if survey.is_at(bundle.fingerprint()) {
                    return Ok(facts.with("switched", false));
                }
                let former = Some(survey.config.default.clone()).filter(|id| !id.is_empty());
                let follows_latest = survey.config.default_follows_latest_issuer;
                let issued = match target.config.pki_rollback {
                    PkiRollback::Refuse => None,
                    PkiRollback::IfUnused => self.issued(cx, bundle).await?,
                };
                let (former_id, fingerprint) = (former.clone(), bundle.fingerprint());
                let change = IssuerChange { place, former: former_id, follows_latest, issued, fingerprint };
                journal.record("issuer", &Undo::Issuer(change)).await?;
                (former, follows_latest)
            }
            Some(change) if change.place != place || change.fingerprint != bundle.fingerprint() => {
                let why = "an interrupted attempt was at another mount, or with another certificate";
                return Err(possible(Error::validation(OPERATION, WRONG_PLACE, why)));
            }
            Some(change) => (change.former.clone(), change.follows_latest),
        };
        let id = self.import(cx, bundle).await.map_err(|error| match recorded {
            Some(_) => possible(error),
            None => error,
        })?;
        self.switch(cx, former.as_deref(), &id, bundle, follows_latest).await.map_err(possible)?;
        Ok(facts.with("switched", true).with("issuer", id).with("former_issuer", former))
    }

    /// The id of the issuer, which is there afterwards with its key. Importing twice is importing once.
    async fn import(&self, cx: &Context, bundle: &CertificateBundle) -> Result<String> {
        let pem = Zeroizing::new(bundle.key_pem()?.expose().clone() + &bundle.fullchain_pem());
        let ask = Ask::post(&[self.mount, "issuers/import/bundle"], &json!({ "pem_bundle": *pem }))?;
        let answer = self.session.call(cx, &ask).await?;
        if answer.status() == 400 {
            let why = "Vault does not take this as an issuer";
            return Err(answer.error(ErrorClass::Validation, "issuer_refused", why));
        }
        let imported = accepted(answer)?.json::<Reply<Imported>>().map_err(possible)?.data;
        for (id, key) in &imported.mapping {
            let issuer = self.issuer(cx, id).await.map_err(possible)?;
            if issuer.is_some_and(|(certificate, _)| certificate.fingerprint() == bundle.fingerprint()) {
                return if key.is_empty() { Err(possible(keyless())) } else { Ok(id.clone()) };
            }
        }
        let why = "the issuer is not among those that Vault says it has imported";
        Err(possible(Error::permanent(OPERATION, "issuer_missing", why)))
    }

    /// Makes an issuer the default one in place of `former`, and of no other.
    async fn switch(
        &self,
        cx: &Context,
        former: Option<&str>,
        id: &str,
        bundle: &CertificateBundle,
        follows_latest: bool,
    ) -> Result<()> {
        let now = self.config(cx).await?.default;
        // An import makes an issuer of its own the default one where there was none.
        let imported = match self.issuer(cx, &now).await? {
            Some((found, _)) => bundle.certificates().iter().any(|der| Fingerprint::of(der) == found.fingerprint()),
            None => now.is_empty(),
        };
        if now == id {
            return Ok(());
        }
        if former != Some(now.as_str()) && !imported {
            let why = "the mount's default issuer is neither the former nor the new one: somebody else changed it";
            return Err(Error::validation(OPERATION, codes::FOREIGN_CHANGE, why));
        }
        self.make_default(cx, id, follows_latest).await
    }

    async fn make_default(&self, cx: &Context, id: &str, follows_latest: bool) -> Result<()> {
        // What is left out here counts as false.
        let body = json!({ "default": id, "default_follows_latest_issuer": follows_latest });
        accepted(self.session.call(cx, &Ask::post(&[self.mount, "config/issuers"], &body)?).await?).map(drop)
    }

    /// Whether the default issuer is the certificate's, with its key.
    pub(super) async fn read_back(&self, cx: &Context, bundle: &CertificateBundle) -> Result<EndpointCheck> {
        let survey = self.survey(cx).await?;
        let found = survey.default_fingerprint();
        let problem = match &survey.default {
            None => Some("has no default issuer"),
            Some((found, _)) if found.fingerprint() != bundle.fingerprint() => Some("has another default issuer"),
            Some((_, false)) => Some("has no key for its default issuer"),
            Some((_, true)) => None,
        };
        Ok(EndpointCheck::new(format!("vault {}", self.mount), found, 1, problem.map(str::to_owned)))
    }

    /// Sets the former default issuer back, if nothing can have been issued by the new one; refuses otherwise.
    pub(super) async fn rollback(
        &self,
        cx: &Context,
        target: Target<'_, VaultModule>,
        undo: &[Undo],
    ) -> Result<RollbackOutcome> {
        let Some(change) = change(undo) else { return Ok(RollbackOutcome::NothingToDo) };
        if change.place != Place::of(target.location, MountKind::Pki) {
            return Ok(refusal(WRONG_PLACE, format!("the delivery was to {}", change.place.mount)));
        }
        let survey = self.survey(cx).await?;
        if survey.config.default == change.former.as_deref().unwrap_or_default() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        if survey.default_fingerprint() != Some(change.fingerprint) {
            let reason = format!("the default issuer of {} is not the one that was put there", self.mount);
            return Ok(refusal(codes::FOREIGN_CHANGE, reason));
        }
        let ratcheted =
            |why: &str| refusal("ratcheted", format!("{} has moved on to the new issuer: {why}", self.mount));
        if target.config.pki_rollback == PkiRollback::Refuse {
            return Ok(ratcheted("what it has issued since would be served by an issuer that is not its default"));
        }
        let Some(former) = &change.former else { return Ok(ratcheted("it had none before")) };
        let certificate = match survey.issuers.contains(former) {
            true => self.issuer(cx, former).await?,
            false => None,
        };
        let Some((certificate, _)) = certificate else {
            return Ok(ratcheted("the former one is not there any more"));
        };
        if certificate.leaf().not_after <= cx.clock.now() {
            return Ok(refusal("backup_expired", format!("the former issuer of {} has expired", self.mount)));
        }
        let Some((new, _)) = &survey.default else { return Ok(RollbackOutcome::NothingToDo) };
        match (&change.issued, self.issued(cx, new).await?) {
            (Some(before), Some(now)) if *before == now => {}
            (Some(_), Some(_)) => return Ok(ratcheted("certificates have been issued since")),
            _ => return Ok(ratcheted("it cannot be told whether certificates have been issued since")),
        }
        self.make_default(cx, former, change.follows_latest).await?;
        Ok(RollbackOutcome::RolledBack)
    }

    async fn survey(&self, cx: &Context) -> Result<Survey> {
        let config = self.config(cx).await?;
        let Some(mut issuers) = self.list(cx, "issuers").await? else {
            let why = "Vault does not let this login list the issuers; add it to its policy";
            return Err(Error::auth(OPERATION, "vault_forbidden", why).with("path", self.subject("issuers")));
        };
        issuers.sort();
        let default = self.issuer(cx, &config.default).await?;
        Ok(Survey { config, issuers, default })
    }

    async fn config(&self, cx: &Context) -> Result<Config> {
        let answer = self.session.call(cx, &Ask::get(&[self.mount, "config/issuers"])).await?;
        if answer.status() == 404 {
            let why = "this Vault is older than 1.11 and keeps one issuer a mount, so that there is no way back: \
                       it is not delivered to";
            return Err(answer.error(ErrorClass::Validation, "pki_unsupported", why));
        }
        Ok(accepted(answer)?.json::<Reply<Config>>()?.data)
    }

    /// An issuer's certificate, and whether its key is there; `None` when there is no such issuer.
    async fn issuer(&self, cx: &Context, id: &str) -> Result<Option<(CertificateBundle, bool)>> {
        if id.is_empty() {
            return Ok(None);
        }
        let answer = self.session.call(cx, &Ask::get(&[self.mount, "issuer", id])).await?;
        // Versions differ in how they say it.
        if matches!(answer.status(), 400 | 404) {
            return Ok(None);
        }
        let issuer = accepted(answer)?.json::<Reply<Issuer>>()?.data;
        let certificate = CertificateBundle::from_pem(issuer.certificate.as_bytes());
        let unreadable = |_| Error::permanent(OPERATION, "issuer_unreadable", "an issuer's certificate cannot be read");
        Ok(Some((certificate.map_err(unreadable)?, !issuer.key_id.is_empty())))
    }

    /// The digest of the serial numbers of everything that was issued and kept, but the certificates of `authority`
    /// itself; `None` where something may be issued and not kept, or where this login may not look.
    async fn issued(&self, cx: &Context, authority: &CertificateBundle) -> Result<Option<String>> {
        let (Some(certificates), Some(roles)) = (self.list(cx, "certs").await?, self.list(cx, "roles").await?) else {
            return Ok(None);
        };
        for role in &roles {
            let answer = self.session.call(cx, &Ask::get(&[self.mount, "roles", role])).await?;
            match answer.status() {
                404 => {}
                200 if !answer.json::<Reply<Role>>()?.data.no_store => {}
                200 | 403 => return Ok(None),
                _ => return Err(refused(&answer)),
            }
        }
        let plain = |serial: &str| serial.replace([':', '-'], "").to_lowercase();
        let own = plain(&authority.leaf().serial);
        let mut serials: Vec<String> = certificates.iter().map(|serial| plain(serial)).collect();
        serials.retain(|serial| serial.trim_start_matches('0') != own.trim_start_matches('0'));
        serials.sort();
        Ok(Some(hex(digest(&SHA256, serials.join(" ").as_bytes()).as_ref())))
    }

    /// What is listed at a path; `None` when this login may not look.
    async fn list(&self, cx: &Context, path: &str) -> Result<Option<Vec<String>>> {
        let answer = self.session.call(cx, &Ask::list(&[self.mount, path])).await?;
        match answer.status() {
            404 => Ok(Some(Vec::new())),
            403 => Ok(None),
            _ => Ok(Some(accepted(answer)?.json::<Reply<Keys>>()?.data.keys)),
        }
    }
}

fn accepted(answer: Answer) -> Result<Answer> {
    if answer.is_success() { Ok(answer) } else { Err(refused(&answer)) }
}

/// Checks that the certificate can be an issuer, with its key.
fn check(bundle: &CertificateBundle) -> Result<()> {
    if !bundle.is_authority() {
        let why = "a PKI mount takes the certificate of an authority; this one may not issue others. Deliver it to a \
                   key-value mount";
        return Err(Error::validation(OPERATION, "not_an_authority", why));
    }
    bundle.key_pem().map(drop)
}

fn keyless() -> Error {
    Error::permanent(OPERATION, "issuer_without_key", "Vault has the issuer without its key")
}

fn change(entries: &[Undo]) -> Option<&IssuerChange> {
    entries.iter().find_map(|entry| match entry {
        Undo::Issuer(change) => Some(change),
        _ => None,
    })
}

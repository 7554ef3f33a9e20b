//! What is in a secret, and what would change.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Error, Result};
use certlib_core::module::{Plan, Step, Target, Verb};
use certlib_core::{Context, Fingerprint};

use super::data::{SecretData, hex, not_after};
use super::kv::{Custom, Found, Kv};
use super::rights::Need;
use super::{OPERATION, VaultModule};

/// Pairs of custom metadata that a secret can have.
const CUSTOM_MAX: usize = 64;
/// The longest value there, in bytes.
const CUSTOM_LONGEST: usize = 512;

/// A secret, and what is to be in it.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) found: Found,
    /// What is said about it now; `None` where that is not for us to say.
    pub(super) custom: Option<Custom>,
    pub(super) certificate: SecretData,
    pub(super) saying: Custom,
    stamp: String,
}

impl Survey {
    /// Looks at the secret.
    ///
    /// # Errors
    /// As [`Kv::read`] and [`Kv::custom`]; `key_missing`; `Validation` `metadata_full`.
    pub(super) async fn take(
        cx: &Context,
        kv: &Kv<'_>,
        target: Target<'_, VaultModule>,
        bundle: &CertificateBundle,
    ) -> Result<Self> {
        let certificate = SecretData::of(bundle, &target.config.fields)?;
        let found = kv.read(cx).await?;
        let custom = match target.config.custom_metadata && kv.versioned {
            true => Some(kv.custom(cx).await?),
            false => None,
        };
        let saying = if custom.is_some() { saying(target.id, bundle)? } else { Custom::new() };
        let stamp = found.stamp(kv.versioned, &kv.subject());
        let survey = Self { found, custom, certificate, saying, stamp };
        if survey.new_custom().is_some_and(|custom| custom.len() > CUSTOM_MAX) {
            let why = "the secret has no room for more custom metadata: set `custom_metadata` to false";
            return Err(Error::validation(OPERATION, "metadata_full", why).with("limit", CUSTOM_MAX));
        }
        Ok(survey)
    }

    /// Whether the certificate is in it already.
    pub(super) fn holds(&self) -> bool {
        self.found.data.as_ref().is_some_and(|data| data.holds(&self.certificate))
    }

    /// What would be said about the secret; `None`: what is said now.
    pub(super) fn new_custom(&self) -> Option<Custom> {
        let now = self.custom.as_ref()?;
        let mut custom = now.clone();
        custom.extend(self.saying.clone());
        (custom != *now).then_some(custom)
    }

    /// What must be allowed: to write, and to take back.
    pub(super) fn needs(&self, kv: &Kv<'_>) -> Vec<Need> {
        let mut needs = Vec::new();
        let update: &[&[&str]] = &[&["update"]];
        if !self.holds() {
            let write: &[&[&str]] = if self.found.is_known() { update } else { &[&["create"], &["update"]] };
            needs.push((kv.subject(), write));
            if self.found.data.is_none() {
                let delete: &[&[&str]] = if kv.versioned { update } else { &[&["delete"]] };
                needs.push((kv.removal_subject(), delete));
            }
        }
        if self.new_custom().is_some() {
            needs.push((kv.metadata_subject(), &[&["create", "update"]]));
        }
        needs
    }

    /// A digest of what the secret looks like.
    pub(super) fn base(&self) -> String {
        // Texts in a fixed order always encode.
        let json = serde_json::to_vec(&(&self.stamp, &self.custom)).unwrap_or_default();
        hex(digest(&SHA256, &json).as_ref())
    }

    pub(super) fn plan(&self, kv: &Kv<'_>, target: Target<'_, VaultModule>, bundle: &CertificateBundle) -> Plan {
        let fields = &target.config.fields;
        let now = self.found.data.as_ref();
        let others = now.map_or(0, |data| data.others(&self.certificate));
        let kept = if others == 0 { String::new() } else { format!(", {others} other fields kept") };
        let version = |number: u64| if kv.versioned { format!("version {number}: ") } else { String::new() };
        let holding = now.and_then(|data| data.fingerprint(fields));
        let before = match now {
            Some(_) => Some(version(self.found.version) + &holding.map_or("no certificate".to_owned(), named)),
            None if self.found.version > 0 => Some(version(self.found.version) + "deleted"),
            None => None,
        };
        let step = match now {
            _ if self.holds() => Step::new(Verb::Keep, kv.subject()),
            Some(_) => Step::new(Verb::Replace, kv.subject()),
            None => Step::new(Verb::Create, kv.subject()),
        };
        let number = if self.holds() { self.found.version } else { self.found.version + 1 };
        let mut step = step.after(format!("{}{}{kept}", version(number), named(bundle.fingerprint())));
        step.before = before;
        let mut steps = vec![step];
        if let Some(now) = &self.custom {
            let verb = if self.new_custom().is_some() { Verb::Replace } else { Verb::Keep };
            let said = |custom: &Custom| custom.get(FINGERPRINT).cloned();
            let mut step = Step::new(verb, format!("{} custom_metadata", kv.metadata_subject()));
            step.before = said(now).map(|text| format!("{FINGERPRINT}={}", text.escape_debug()));
            step.after = said(&self.saying).map(|text| format!("{FINGERPRINT}={text}"));
            steps.push(step);
        }
        Plan::new(<VaultModule as certlib_core::module::DistributionModule>::KIND, target.name, self.base(), steps)
    }
}

const FINGERPRINT: &str = "certlib_fingerprint";

pub(super) fn named(fingerprint: Fingerprint) -> String {
    format!("sha256:{fingerprint}")
}

/// What certlib says about a secret.
fn saying(target: &str, bundle: &CertificateBundle) -> Result<Custom> {
    let end = (0..=target.len().min(CUSTOM_LONGEST)).rev().find(|at| target.is_char_boundary(*at)).unwrap_or(0);
    let pairs = [
        ("certlib_target", target[..end].to_owned()),
        (FINGERPRINT, bundle.fingerprint().to_string()),
        ("certlib_not_after", not_after(bundle)?),
    ];
    Ok(pairs.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name.to_owned(), text)).collect())
}

//! Revocation, by the serial number.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Error, Result};
use certlib_net::Answer;
use serde_json::{Value, json};

use super::Sectigo;
use super::client::{self, Listed, OPERATION, Order, refused};
use crate::{keys, triage};

#[async_trait]
impl Revoker for Sectigo {
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        let body = body(reason);
        let mut answers = Vec::new();
        // It may know the number in another spelling, and say "only issued ones" of what is revoked.
        for serial in keys::serials(bundle) {
            let answer = self.client.post(cx, &["ssl", "v1", "revoke", "serial", &serial], &body).await?;
            if is_done(&answer) {
                return Ok(());
            }
            if !client::is_unknown(&answer) && client::code(&answer) != Some(-102) {
                return Err(refused(&answer));
            }
            answers.push(answer);
        }
        let Some(id) = self.by_serial(cx, bundle).await? else {
            let why = "the account has no certificate with this serial number";
            let unknown = || Error::validation(OPERATION, "certificate_unknown", why);
            return Err(answers.last().map_or_else(unknown, refused));
        };
        if self.is_revoked(cx, &id).await? {
            return Ok(());
        }
        let answer = self.client.post(cx, &["ssl", "v1", "revoke", &id], &body).await?;
        if is_done(&answer) { Ok(()) } else { Err(refused(&answer)) }
    }
}

impl Sectigo {
    /// The id of the order whose certificate this is.
    async fn by_serial(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Option<String>> {
        let plain = digits(&keys::serial(bundle));
        let is_same = |listed: &&Listed| listed.serial_number.as_deref().is_some_and(|serial| digits(serial) == plain);
        // As it is shown, and as it is.
        for serial in keys::serials(bundle).into_iter().flat_map(|serial| [with_colons(&serial), serial]) {
            let listed = self.client.list(cx, &[("serialNumber", &serial)]).await?;
            if let Some(order) = listed.iter().find(is_same) {
                return Ok(Some(order.ssl_id.to_string()));
            }
        }
        Ok(None)
    }

    async fn is_revoked(&self, cx: &Context, id: &str) -> Result<bool> {
        let answer = self.client.get(cx, &["ssl", "v1", id], &[]).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let order: Order = triage::read(&answer)?;
        order
            .status
            .map(|status| status.eq_ignore_ascii_case("revoked"))
            .ok_or_else(|| triage::unreadable(Error::transient(OPERATION, "answer_invalid", "the order has no status")))
    }
}

/// Revoked now, or revoked already.
fn is_done(answer: &Answer) -> bool {
    answer.is_success() || client::code(answer) == Some(-159)
}

/// Sectigo takes the reasons 0, 1, 3, 4 and 5, and wants words as well.
fn body(reason: RevocationReason) -> Value {
    let (code, words) = match reason {
        RevocationReason::Unspecified => ("0", "no reason given"),
        RevocationReason::KeyCompromise => ("1", "the key is known to somebody else"),
        RevocationReason::AffiliationChanged => ("3", "the affiliation changed"),
        RevocationReason::Superseded => ("4", "superseded"),
        RevocationReason::CessationOfOperation => ("5", "no longer in operation"),
        RevocationReason::PrivilegeWithdrawn => ("5", "the right to the name was withdrawn"),
    };
    json!({ "reasonCode": code, "reason": words })
}

/// A serial number without colons and leading zeros.
fn digits(serial: &str) -> String {
    serial.replace([':', ' '], "").trim_start_matches('0').to_ascii_uppercase()
}

fn with_colons(serial: &str) -> String {
    let pairs = serial.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_ascii_uppercase());
    pairs.collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_have_several_spellings() {
        assert_eq!(with_colons("0a1bff"), "0A:1B:FF");
        assert_eq!(digits("0A:1B:FF"), digits("a1bff"));
    }
}

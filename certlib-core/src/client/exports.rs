//! Exports: a version as a file, at once or for whoever has a token, once.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Client;
use crate::error::{Error, Result};
use crate::export::{Export, ExportFormat, ExportOptions};
use crate::model::{Download, Event};
use crate::secret::{Secret, SecretString};
use crate::store::{Condition, Record, StoreExt as _, WriteBatch};

/// The shortest time that a download can be promised for.
const TTL_MIN: Duration = Duration::from_secs(1);

/// The longest.
const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How many random bytes make a token.
const TOKEN_BYTES: usize = 32;

/// A promised download.
#[derive(Debug)]
#[non_exhaustive]
pub struct DownloadToken {
    /// What opens it, once: 43 characters that can stand in a URL. It is shown here and never again.
    pub token: SecretString,
    /// The version it gives.
    pub version: u32,
    /// What it gives.
    pub format: ExportFormat,
    /// Until when.
    pub expires_at: OffsetDateTime,
}

impl Client {
    /// A version as a file. `password` protects a PKCS#12 file. A key that leaves is an event.
    ///
    /// # Errors
    /// As [`ExportOptions::render`] and [`Client::material`].
    pub async fn export(
        &self,
        project: &str,
        id: &str,
        what: &ExportOptions,
        password: Option<&SecretString>,
    ) -> Result<Export> {
        what.check()?;
        let material = self.open_material(project, id, what.version, what.with_key).await?;
        let bytes = what.render(&material.bundle, password)?;
        let version = material.version.version;
        if what.with_key {
            self.engine.store.insert(self.key_exported(project, id, version)).await?;
        }
        Ok(Export { bytes, file_name: what.file_name(&material.bundle), format: what.format, version })
    }

    /// Promises a download to whoever has the token, once, for `ttl`: 1 second to 7 days. The version is settled now,
    /// the project's policy is asked now and again when the token is used. Tells `certificate.download_created`.
    ///
    /// # Errors
    /// As [`ExportOptions::check`]; `Validation` `ttl_invalid`; `not_found` when there is no such version;
    /// `export_forbidden` when the project's policy keeps its keys; `key_missing` when certlib has none.
    pub async fn create_download(
        &self,
        project: &str,
        id: &str,
        what: ExportOptions,
        ttl: Duration,
    ) -> Result<DownloadToken> {
        const OPERATION: &str = "download.create";
        what.check()?;
        if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
            return Err(Error::validation(OPERATION, "ttl_invalid", "a download is promised for 1 second to 7 days")
                .with("seconds", ttl.as_secs()));
        }
        let version = self.exportable(project, id, what.version, what.with_key).await?.version;
        let mut random = Zeroizing::new([0; TOKEN_BYTES]);
        rand::fill(&mut *random)
            .map_err(|_| Error::permanent(OPERATION, "random_failed", "the system gives no randomness"))?;
        let token = Secret::new(URL_SAFE_NO_PAD.encode(*random));
        let now = self.engine.clock.now();
        let download = Download {
            id: hash(&token),
            project: project.to_owned(),
            certificate_id: id.to_owned(),
            export: ExportOptions { version: Some(version), ..what },
            expires_at: now + ttl,
            created_at: now,
        };
        let event = told("certificate.download_created", &download, now);
        self.engine.store.commit(WriteBatch::new().insert(&download)?.insert(&event)?).await?;
        let Download { export, expires_at, .. } = download;
        Ok(DownloadToken { token, version, format: export.format, expires_at })
    }

    /// Gives what `token` promises, once: whoever comes second, too late, or with a token that never was, gets the same
    /// answer. `password` protects a PKCS#12 file; without one the token stays as it is. Tells `certificate.downloaded`
    /// and, with a key, `certificate.key_exported`.
    ///
    /// The file is made before the token is used up and given away after: a failure in between costs the token, and never
    /// gives the file twice.
    ///
    /// # Errors
    /// `not_found`; `password_missing`, `pfx_failed`; `export_forbidden` when the policy has changed meanwhile; as
    /// [`SecretEnvelope`](crate::secret::SecretEnvelope). Not cancel-safe: dropped, it may have used up the token.
    pub async fn redeem_download(&self, token: &SecretString, password: Option<&SecretString>) -> Result<Export> {
        let unknown = || Error::not_found("download.redeem", "a download for this token");
        if URL_SAFE_NO_PAD.decode(token.expose()).map(Zeroizing::new).map_or(0, |bytes| bytes.len()) != TOKEN_BYTES {
            return Err(unknown());
        }
        let download = self.engine.store.find::<Download>(&hash(token)).await?.ok_or_else(unknown)?;
        let now = self.engine.clock.now();
        if download.expires_at <= now {
            return Err(unknown());
        }
        let Download { project, certificate_id, export, .. } = &download.record;
        let material = self.open_material(project, certificate_id, export.version, export.with_key).await?;
        let bytes = export.render(&material.bundle, password)?;
        let version = material.version.version;
        // Its revision is what makes it single-use: of all who have read it, one deletes it.
        let as_read =
            Condition::Record { kind: Download::KIND, id: download.id.clone(), revision: Some(download.revision) };
        let mut batch = WriteBatch::new().require(as_read).delete::<Download>(&download.id).insert(&told(
            "certificate.downloaded",
            &download,
            now,
        ))?;
        if export.with_key {
            batch = batch.insert(&self.key_exported(project, certificate_id, version))?;
        }
        match self.engine.store.commit(batch).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => return Err(unknown()),
            Err(error) => return Err(error),
        }
        Ok(Export { bytes, file_name: export.file_name(&material.bundle), format: export.format, version })
    }
}

/// The id under which the download that `token` opens is kept. A token is random throughout, so one round is enough.
fn hash(token: &SecretString) -> String {
    digest(&SHA256, token.expose().as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn told(kind: &str, download: &Download, now: OffsetDateTime) -> Event {
    let ExportOptions { version, format, with_key, .. } = &download.export;
    let data = json!({
        "download": download.short_id(),
        "version": version,
        "format": format,
        "with_key": with_key,
        "expires_at": download.expires_at.unix_timestamp(),
    });
    Event::new(&download.project, kind, &download.certificate_id, data, now)
}

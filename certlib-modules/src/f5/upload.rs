//! Files on their way to the unit: uploaded, used, removed.

use certlib_core::error::{Effect, Error, ErrorClass, Result};
use reqwest::Method;
use serde_json::json;

use super::OPERATION;
use super::session::{Call, Session, accepted};

/// Where uploads lie.
const DOWNLOADS: &str = "/var/config/rest/downloads/";
/// The largest chunk that the unit takes.
const CHUNK: usize = 1024 * 1024;
/// How often an upload begins anew.
const TRIES: u32 = 3;

/// What an object is made from.
pub(super) fn source_path(name: &str) -> String {
    format!("file:{DOWNLOADS}{name}")
}

impl Session<'_> {
    /// Uploads a file in chunks; from the beginning again if one of them is lost.
    ///
    /// # Errors
    /// As [`Session::send`] and [`accepted`]. Not cancel-safe: a part may lie there.
    pub(super) async fn upload(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut tried = 1;
        loop {
            match self.upload_once(name, content).await {
                Err(error) if error.class().is_retryable() && tried < TRIES => {
                    self.pause(tried).await;
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn upload_once(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = ["shared", "file-transfer", "uploads", name];
        let mut first = 0;
        for chunk in content.chunks(CHUNK) {
            // Without the unit `bytes` that HTTP has there.
            let range = format!("{first}-{}/{}", first + chunk.len() - 1, content.len());
            let call = Call::new(Method::POST, &path).header("content-range", &range).bytes(chunk);
            let answer = self.send(&call).await?;
            first += chunk.len();
            let left = accepted(&answer)?["remainingByteCount"].as_u64();
            if left.is_some_and(|left| left != (content.len() - first) as u64) {
                let why = "the unit did not take the whole upload; is somebody else uploading under the same name?";
                return Err(answer.error(ErrorClass::IoTransient, "upload_incomplete", why));
            }
        }
        Ok(())
    }

    /// Removes uploads, whether they are there or not. Where the user may not remove files, they are overwritten: a key
    /// must not lie there.
    ///
    /// # Errors
    /// `IoPermanent` `uploads_left`, with [`Effect::Possible`].
    pub(super) async fn remove_uploads(&self, names: impl Iterator<Item = String>) -> Result<()> {
        let mut left = Vec::new();
        for name in names {
            let body = json!({ "command": "run", "utilCmdArgs": format!("{DOWNLOADS}{name}") });
            let call = Call::new(Method::POST, &["tm", "util", "unix-rm"]).json(&body).harmless();
            let Err(error) = self.send(&call).await.and_then(|answer| accepted(&answer)) else { continue };
            if error.class() != ErrorClass::Auth || self.upload(&name, b"\n").await.is_err() {
                left.push(name);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let why = "uploaded files, the private key among them, may still lie on the unit; remove them";
        let error = Error::permanent(OPERATION, "uploads_left", why).with("folder", DOWNLOADS);
        Err(error.with("names", left.join(" ")).with_effect(Effect::Possible))
    }
}

//! What the CA was told already: telling it twice makes some CAs look twice, and the second look may come when the
//! proof is gone.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certlib_core::model::AcmeChallenge;
use certlib_core::store::{SharedStore, StoreExt as _, WriteBatch};
use certlib_core::{Context, Result};

/// A CA that has not looked for so long has forgotten, and is told again.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Remembers, for all nodes, which challenges the CA was told to look at.
///
/// Notes are kept among the challenges, so that those which are left behind are forgotten like these. Their ids are no
/// tokens: no responder answers them.
#[derive(Debug)]
pub(crate) struct Told {
    store: SharedStore,
}

impl Told {
    pub(crate) fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Whether the CA was told about the challenge at `url`, and may still be looking.
    pub(crate) async fn was(&self, cx: &Context, url: &str) -> Result<bool> {
        let note = self.store.find::<AcmeChallenge>(&id(url)).await?;
        Ok(note.is_some_and(|note| note.expires_at > cx.clock.now()))
    }

    /// Notes that the CA was told to look at `name`.
    pub(crate) async fn note(&self, cx: &Context, url: &str, name: &str) -> Result<()> {
        let note = AcmeChallenge {
            id: id(url),
            key_authorization: String::new(),
            name: name.to_owned(),
            expires_at: cx.clock.now() + PATIENCE,
        };
        self.store.commit(WriteBatch::new().put(&note)?).await.map(drop)
    }

    /// Forgets what was noted about these challenges.
    pub(crate) async fn forget(&self, urls: &[String]) -> Result<()> {
        let batch = urls.iter().fold(WriteBatch::new(), |batch, url| batch.delete::<AcmeChallenge>(&id(url)));
        self.store.commit(batch).await.map(drop)
    }
}

fn id(url: &str) -> String {
    format!("told:{}", URL_SAFE_NO_PAD.encode(digest(&SHA256, url.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use certlib_core::clock::ManualClock;
    use certlib_core::memory::MemoryStore;
    use time::OffsetDateTime;
    use tokio_util::sync::CancellationToken;

    use super::super::Http01Responder;
    use super::*;

    #[tokio::test]
    async fn notes_end_and_are_no_answers() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let store: SharedStore = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        let cx = Context::with(Arc::new(clock.clone()), CancellationToken::new(), "test");
        let told = Told::new(store.clone());
        let url = "https://ca.example/chall/1";
        assert!(!told.was(&cx, url).await.unwrap());
        told.note(&cx, url, "a.example").await.unwrap();
        assert!(told.was(&cx, url).await.unwrap());
        assert!(!told.was(&cx, "https://ca.example/chall/2").await.unwrap());
        let path = format!("/.well-known/acme-challenge/{}", id(url));
        assert_eq!(Http01Responder::new(store).answer(&path).await, None);

        clock.advance(PATIENCE);
        assert!(!told.was(&cx, url).await.unwrap(), "a CA that does not look is told again");
        told.note(&cx, url, "a.example").await.unwrap();
        told.forget(&[url.to_owned()]).await.unwrap();
        assert!(!told.was(&cx, url).await.unwrap());
    }
}

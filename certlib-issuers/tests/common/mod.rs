//! What the tests of this crate share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub, missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::bundle::{KeyType, PrivateKey};
use certlib_core::clock::{Clock, SystemClock};
use certlib_core::error::codes;
use certlib_core::issuer::{AsyncIssuer, IssueRequest, IssuerSpec, IssuerState, OrderHandle, OrderState};
use certlib_core::memory::MemoryStore;
use certlib_core::secret::SecretBytes;
use certlib_core::store::SharedStore;
use certlib_core::{CertificateBundle, Context, Error, Result};
use serde_json::Value;

/// An [`IssuerState`] in memory, with the revision check of the real one.
#[derive(Debug, Default)]
pub struct MemoryState {
    kept: Mutex<(Vec<SecretBytes>, Option<Hook>)>,
}

type HookFn = Box<dyn FnOnce(&MemoryState) + Send>;

struct Hook(HookFn);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl MemoryState {
    /// Every value that was ever kept, oldest first.
    pub fn history(&self) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap().0.iter().map(|value| value.expose().clone()).collect()
    }

    /// Keeps `value` whatever is there, as another node would.
    pub fn overwrite(&self, value: &[u8]) {
        self.kept.lock().unwrap().0.push(SecretBytes::new(value.to_vec()));
    }

    /// Runs `hook` once, just before the next save.
    pub fn before_save(&self, hook: impl FnOnce(&MemoryState) + Send + 'static) {
        self.kept.lock().unwrap().1 = Some(Hook(Box::new(hook)));
    }
}

#[async_trait]
impl IssuerState for MemoryState {
    async fn load(&self) -> Result<Option<(SecretBytes, u64)>> {
        let kept = self.kept.lock().unwrap();
        Ok(kept.0.last().map(|value| (value.duplicate(), kept.0.len() as u64)))
    }

    async fn save(&self, value: &SecretBytes, revision: Option<u64>) -> Result<u64> {
        let hook = self.kept.lock().unwrap().1.take();
        if let Some(hook) = hook {
            hook.0(self);
        }
        let mut kept = self.kept.lock().unwrap();
        if kept.0.len() as u64 != revision.unwrap_or(0) {
            return Err(Error::validation("test.state", codes::CONFLICT, "somebody was faster"));
        }
        kept.0.push(value.duplicate());
        Ok(kept.0.len() as u64)
    }
}

/// A store in memory.
pub fn store() -> SharedStore {
    Arc::new(MemoryStore::new(SystemClock::shared()))
}

/// A specification with the system's clock and a store of its own.
pub fn spec(config: Value, state: &Arc<MemoryState>) -> IssuerSpec {
    spec_at(config, state, SystemClock::shared(), store())
}

/// A specification with everything chosen.
pub fn spec_at(config: Value, state: &Arc<MemoryState>, clock: Arc<dyn Clock>, store: SharedStore) -> IssuerSpec {
    IssuerSpec::new("issuer-1", config, state.clone(), store, clock)
}

/// A request for `names` and the key it was made with.
pub fn request(names: &[&str]) -> (IssueRequest, PrivateKey) {
    request_with(names, KeyType::EcdsaP256)
}

/// A request for `names` and the key of type `kind` it was made with.
pub fn request_with(names: &[&str], kind: KeyType) -> (IssueRequest, PrivateKey) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = PrivateKey::generate(kind).unwrap();
    let csr = key.certificate_request(&names).unwrap();
    (IssueRequest::new(names, csr), key)
}

/// Polls until the certificate is there.
pub async fn finish(issuer: &dyn AsyncIssuer, cx: &Context, handle: &OrderHandle) -> CertificateBundle {
    match settle(issuer, cx, handle).await {
        OrderState::Issued { chain_pem } => CertificateBundle::from_pem(chain_pem.as_bytes()).unwrap(),
        other => panic!("not issued: {other:?}"),
    }
}

/// Polls until the order is rejected, and gives the reason.
pub async fn rejection(issuer: &dyn AsyncIssuer, cx: &Context, handle: &OrderHandle) -> Error {
    match settle(issuer, cx, handle).await {
        OrderState::Rejected { reason } => reason,
        other => panic!("not rejected: {other:?}"),
    }
}

async fn settle(issuer: &dyn AsyncIssuer, cx: &Context, handle: &OrderHandle) -> OrderState {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match issuer.poll(cx, handle).await.unwrap() {
            OrderState::Pending { retry_after } if Instant::now() < deadline => {
                let pause = retry_after.unwrap_or_default().min(Duration::from_secs(1));
                tokio::time::sleep(pause.max(Duration::from_millis(50))).await;
            }
            state => return state,
        }
    }
}

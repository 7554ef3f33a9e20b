//! What every [`DistributionModule`](crate::module::DistributionModule) must do, as tests.
//!
//! Implement [`ModuleHarness`] and [`ModuleFixture`], and call [`module_conformance!`](crate::module_conformance) in a
//! file of tests.

use std::sync::Arc;

use async_trait::async_trait;

use crate::bundle::CertificateBundle;
use crate::module::{ErasedModule, TargetSpec};

/// How the suite gets at the module under test, and at targets for it.
#[async_trait]
pub trait ModuleHarness: Send + Sync {
    /// The module under test.
    fn module(&self) -> Arc<dyn ErasedModule>;

    /// A target that shares nothing with any other and holds bundle 0, put there without the module's help. `None` when
    /// what it needs was left out on purpose.
    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>>;

    /// What the module is tested against here, with its version, such as `"OpenSSH 9.2"`.
    fn tested_against(&self) -> &str;

    /// Cases that this module cannot pass, by name, each with the reason.
    fn unsupported(&self) -> &[(&str, &str)] {
        &[]
    }
}

/// One target, and a way to look at it without the module.
#[async_trait]
pub trait ModuleFixture: Send + Sync {
    /// The target, as the engine would hand it to the module.
    fn target(&self) -> TargetSpec;

    /// The same target with a login that it refuses; `None` when it needs none.
    fn refused(&self) -> Option<TargetSpec>;

    /// The secrets in the credentials of [`target`](Self::target) and [`refused`](Self::refused): they must be seen
    /// nowhere.
    fn secrets(&self) -> Vec<String>;

    /// A bundle for this target, with key: 0 is what it holds at first. The same number gives the same bundle.
    fn bundle(&self, number: usize) -> CertificateBundle;

    /// All that the module may change, as text: two looks are equal if, and only if, nothing that matters changed between
    /// them. Must not hold key material in a form that is unsafe to print when an assertion fails in a shared log.
    async fn state(&self) -> String;

    /// Somebody else puts something of their own where the module delivers.
    async fn meddle(&self);
}

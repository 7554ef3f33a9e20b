//! The modules a runtime knows: a value, never a global.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DistributionModule;
use super::erased::ErasedModule;
use crate::error::{Error, Result};

/// Modules by kind.
#[derive(Debug, Clone, Default)]
pub struct ModuleRegistry {
    modules: BTreeMap<&'static str, Arc<dyn ErasedModule>>,
}

impl ModuleRegistry {
    /// No modules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a module.
    ///
    /// # Errors
    /// `Validation` `module_duplicate` when its kind is taken.
    pub fn register<M: DistributionModule>(mut self, module: M) -> Result<Self> {
        if self.modules.insert(M::KIND, Arc::new(module)).is_some() {
            return Err(Error::validation("module.register", "module_duplicate", "two modules have the same kind")
                .with("kind", M::KIND));
        }
        Ok(self)
    }

    /// The module of this kind.
    ///
    /// # Errors
    /// `Validation` `module_unknown`, naming the kinds there are.
    pub fn module(&self, kind: &str) -> Result<Arc<dyn ErasedModule>> {
        self.modules.get(kind).cloned().ok_or_else(|| {
            Error::validation("module.lookup", "module_unknown", "there is no such module")
                .with("kind", kind.escape_debug())
                .with("known", self.kinds().collect::<Vec<_>>().join(" "))
        })
    }

    /// The kinds there are, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.modules.keys().copied()
    }
}

//! PKCS#11 libraries, each once in a process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use certlib_core::{Error, Result};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Cryptoki, RvError};

use super::failure::Failure;

/// A library, with the one state that it has in a process.
pub(super) struct Module {
    pub(super) library: Pkcs11,
    /// How often it has begun here. Sessions from before the last time are gone, and their handles may be those of other
    /// sessions.
    beginnings: RwLock<u64>,
}

impl Module {
    /// The library at `path`. It is never unloaded: vendors' libraries have threads of their own.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, Failure> {
        static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(path) {
            return Ok(module.clone());
        }
        let library = Pkcs11::new(path).map_err(|error| {
            let why = "this is no PKCS#11 library that can be loaded";
            Error::permanent("pkcs11.open", "module_unusable", why).with("module", path.display()).with_source(error)
        })?;
        initialize(&library)?;
        let module = Arc::new(Self { library, beginnings: RwLock::new(1) });
        modules.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    /// Which beginning this is. There is no other one while the answer is held.
    pub(super) fn beginning(&self) -> RwLockReadGuard<'_, u64> {
        self.beginnings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins again after the end of the beginning `ended`, unless that has been done. Waits until nobody uses the
    /// library.
    pub(super) fn begin_again(&self, ended: u64) -> Result<(), Failure> {
        let mut beginnings = self.beginnings.write().unwrap_or_else(PoisonError::into_inner);
        if *beginnings == ended {
            initialize(&self.library)?;
            *beginnings += 1;
        }
        Ok(())
    }
}

/// Another part of the process may have done it.
fn initialize(library: &Pkcs11) -> Result<(), Failure> {
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Cryptoki::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

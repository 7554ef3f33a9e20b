//! Key providers: key-encryption keys that never leave an HSM or a service.
//!
//! Each provider is a Cargo feature of its name; all are on by default. A
//! [`Keyring`](certlib_core::secret::Keyring) may hold keys of several providers, so moving from one to another is a
//! rotation like any other.

#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "vault-transit")]
pub mod vault_transit;

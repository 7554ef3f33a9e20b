//! The certificate stores of the machine.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, LocalKeyId, Pkcs12Archive, PrivateKey, PrivateKeyChain};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use super::error::{Trips, WindowsError, WindowsResult};
use crate::tls::fingerprint;

/// Who may use a new private key: SYSTEM and administrators.
const KEY_ACCESS: &str = "D:PAI(A;;GAGR;;;SY)(A;;GAGR;;;BA)";

/// PBES2: what Windows before build 17763 cannot read in a PFX.
const PBES2: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];

/// The first build that reads PFX files with AES.
const READS_AES: u32 = 17_763;

/// A certificate in a store. `Debug` does not show the key.
#[derive(Clone)]
#[non_exhaustive]
pub struct StoredCertificate {
    /// SHA-1 of the certificate, 40 upper-case hexadecimal digits.
    pub thumbprint: String,
    /// SHA-256 of the certificate, 64 lower-case hexadecimal digits.
    pub fingerprint: String,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// What an administrator sees in the list.
    pub friendly_name: String,
    /// The subject, as text.
    pub subject: String,
    /// The issuer, as text.
    pub issuer: String,
    /// The first moment of validity.
    pub not_before: OffsetDateTime,
    /// The last moment of validity.
    pub not_after: OffsetDateTime,
    /// The DNS names in it.
    pub dns_names: Vec<String>,
    /// Whether the private key may leave the store.
    pub exportable: bool,
    /// Whether the private key is in the machine's key set for good, which http.sys needs.
    pub persisted: bool,
    /// Who may use the private key, SDDL.
    pub key_sddl: String,
    key: Option<Vec<u8>>,
}

impl StoredCertificate {
    /// Whether the private key is there.
    pub fn has_private_key(&self) -> bool {
        self.key.is_some()
    }

    /// The private key, PKCS#8.
    pub(in super::super) fn key(&self) -> Option<PrivateKeyDer<'static>> {
        self.key.clone().map(|key| PrivatePkcs8KeyDer::from(key).into())
    }

    fn read(der: &[u8]) -> WindowsResult<Self> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| WindowsError::bad_encoding())?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let dns_names = names.map(|names| {
            let names = names.value.general_names.iter();
            names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None })
        });
        Ok(Self {
            thumbprint: thumbprint(der),
            fingerprint: fingerprint(der),
            der: der.to_vec(),
            friendly_name: String::new(),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            dns_names: dns_names.map(Iterator::collect).unwrap_or_default(),
            exportable: false,
            persisted: true,
            key_sddl: KEY_ACCESS.to_owned(),
            key: None,
        })
    }
}

impl fmt::Debug for StoredCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCertificate")
            .field("thumbprint", &self.thumbprint)
            .field("subject", &self.subject)
            .field("friendly_name", &self.friendly_name)
            .field("has_private_key", &self.has_private_key())
            .finish_non_exhaustive()
    }
}

/// How a PFX is imported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Whether the key may be exported again.
    pub exportable: bool,
    /// Whether the key goes into the machine's key set for good (`MachineKeySet,PersistKeySet`, and what
    /// `Import-PfxCertificate` does). Without it http.sys refuses the certificate later.
    pub persisted: bool,
    /// The friendly name; `None` takes the one of the PFX.
    pub friendly_name: Option<String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { exportable: false, persisted: true, friendly_name: None }
    }
}

/// The stores of `Cert:\LocalMachine`, by name; case does not matter.
#[derive(Clone, Debug)]
pub struct CertificateStores {
    stores: BTreeMap<String, BTreeMap<String, StoredCertificate>>,
    pub(super) build: u32,
    trips: Trips,
}

impl CertificateStores {
    pub(super) fn new(build: u32) -> Self {
        let stores = ["my", "webhosting", "ca", "root"].map(|name| (name.to_owned(), BTreeMap::new()));
        Self { stores: stores.into(), build, trips: Trips::default() }
    }

    /// Makes changes of a store (any, if the name is empty) fail: the first `skip` pass, then `times` fail.
    pub fn fail(&mut self, store: &str, skip: u32, times: u32, error: WindowsError) {
        self.trips.set(store, skip, times, error);
    }

    /// Forgets what [`CertificateStores::fail`] was told.
    pub fn clear_failures(&mut self) {
        self.trips.clear();
    }

    /// Imports a PFX as `Import-PfxCertificate` does: the certificate with the key goes into `store`, issuers go into
    /// `CA`, and self-signed ones into `Root`. Gives the thumbprint of the one with the key. What is there already is
    /// imported again: the key becomes a new one, and the friendly name stays unless the import gives one.
    ///
    /// # Errors
    /// `0x80070056` for a wrong password, and on builds before 17763 for a PFX with AES; `0x80092002` for what is no
    /// PFX or has no key that fits a certificate.
    pub fn import_pfx(
        &mut self,
        store: &str,
        pfx: &[u8],
        password: &str,
        options: &ImportOptions,
    ) -> WindowsResult<String> {
        self.change(store)?;
        if self.build < READS_AES && pfx.windows(PBES2.len()).any(|window| window == PBES2) {
            return Err(WindowsError::wrong_password());
        }
        let archive = Pkcs12Archive::from_pkcs12(pfx, password).map_err(|error| match error {
            p12_keystore::error::Error::MacError(_) => WindowsError::wrong_password(),
            _ => WindowsError::bad_encoding(),
        })?;
        let chain = KeyStore::from_pkcs12(pfx, password, p12_keystore::Pkcs12ImportPolicy::Strict);
        let chain = chain.map_err(|_| WindowsError::bad_encoding())?;
        let (name, chain) = chain.private_key_chain().ok_or_else(WindowsError::bad_encoding)?;
        let leaf = chain.certs().first().ok_or_else(WindowsError::bad_encoding)?;
        let mut stored = StoredCertificate::read(leaf.as_der())?;
        stored.key = Some(chain.key().as_der().to_vec());
        stored.exportable = options.exportable;
        stored.persisted = options.persisted;
        let former = self.get(store, &stored.thumbprint).map(|former| former.friendly_name.clone());
        let named = archive.keys.iter().find_map(|key| key.friendly_name.clone()).or_else(|| Some(name.to_owned()));
        stored.friendly_name = options.friendly_name.clone().or(former.ok()).or(named).unwrap_or_default();
        let thumbprint = stored.thumbprint.clone();
        for bag in &archive.certs {
            let other = StoredCertificate::read(bag.cert.as_der())?;
            if other.thumbprint != thumbprint {
                let store = if other.subject == other.issuer { "root" } else { "ca" };
                self.store_mut(store)?.entry(other.thumbprint.clone()).or_insert(other);
            }
        }
        self.store_mut(store)?.insert(thumbprint.clone(), stored);
        Ok(thumbprint)
    }

    /// Adds a certificate without a key. Fine when it is there.
    ///
    /// # Errors
    /// `0x80092002` for what is no certificate, `0x80070490` for an unknown store.
    pub fn add(&mut self, store: &str, der: &[u8]) -> WindowsResult<String> {
        self.change(store)?;
        let stored = StoredCertificate::read(der)?;
        let thumbprint = stored.thumbprint.clone();
        self.store_mut(store)?.entry(thumbprint.clone()).or_insert(stored);
        Ok(thumbprint)
    }

    /// Removes a certificate, and its key with it.
    ///
    /// # Errors
    /// `0x80070490` when it is not there.
    pub fn remove(&mut self, store: &str, thumbprint: &str) -> WindowsResult<StoredCertificate> {
        self.change(store)?;
        let removed = self.store_mut(store)?.remove(&normalized(thumbprint));
        removed.ok_or_else(|| missing(store, thumbprint))
    }

    /// A certificate, by its thumbprint in any spelling.
    ///
    /// # Errors
    /// `0x80070490` when it is not there.
    pub fn get(&self, store: &str, thumbprint: &str) -> WindowsResult<&StoredCertificate> {
        let found = self.stores.get(&store.to_lowercase()).and_then(|store| store.get(&normalized(thumbprint)));
        found.ok_or_else(|| missing(store, thumbprint))
    }

    /// All certificates of a store, by thumbprint; none for an unknown store.
    pub fn list(&self, store: &str) -> Vec<&StoredCertificate> {
        self.stores.get(&store.to_lowercase()).into_iter().flat_map(BTreeMap::values).collect()
    }

    /// Changes the friendly name.
    ///
    /// # Errors
    /// `0x80070490` when the certificate is not there.
    pub fn set_friendly_name(&mut self, store: &str, thumbprint: &str, name: &str) -> WindowsResult<()> {
        self.edit(store, thumbprint, |certificate| name.clone_into(&mut certificate.friendly_name))
    }

    /// Says who may use the private key, SDDL.
    ///
    /// # Errors
    /// `0x80070490` when the certificate is not there.
    pub fn set_key_sddl(&mut self, store: &str, thumbprint: &str, sddl: &str) -> WindowsResult<()> {
        self.edit(store, thumbprint, |certificate| sddl.clone_into(&mut certificate.key_sddl))
    }

    /// Loses the private key, as deleting its file does.
    ///
    /// # Errors
    /// `0x80070490` when the certificate is not there.
    pub fn drop_key(&mut self, store: &str, thumbprint: &str) -> WindowsResult<()> {
        self.edit(store, thumbprint, |certificate| certificate.key = None)
    }

    /// Exports a certificate with its key as a PFX (AES-256).
    ///
    /// # Errors
    /// `0x8009000B` when the key is not exportable or not there, `0x80070490` when the certificate is not there.
    pub fn export_pfx(&self, store: &str, thumbprint: &str, password: &str) -> WindowsResult<Vec<u8>> {
        let stored = self.get(store, thumbprint)?;
        let key = stored.key.as_ref().filter(|_| stored.exportable).ok_or_else(WindowsError::not_exportable)?;
        let bad = |_| WindowsError::bad_encoding();
        let key = PrivateKey::from_der(key).map_err(bad)?;
        let leaf = Certificate::from_der(&stored.der).map_err(bad)?;
        let mut keystore = KeyStore::new();
        let chain = PrivateKeyChain::new(LocalKeyId(vec![1, 0, 0, 0]), key, [leaf]);
        keystore.add_entry(&stored.friendly_name, KeyStoreEntry::PrivateKeyChain(chain));
        keystore.writer(password).write().map_err(bad)
    }

    /// What a TLS server needs to serve a certificate, with the issuers that the stores know.
    pub(in super::super) fn servable(
        &self,
        store: &str,
        thumbprint: &str,
    ) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let leaf = self.get(store, thumbprint).ok()?;
        let key = leaf.key()?;
        let mut chain = vec![CertificateDer::from(leaf.der.clone())];
        let mut issuer = &leaf.issuer;
        while let Some(next) = self.list("ca").into_iter().find(|candidate| candidate.subject == *issuer) {
            if chain.iter().any(|der| der.as_ref() == next.der) {
                break;
            }
            chain.push(CertificateDer::from(next.der.clone()));
            issuer = &next.issuer;
        }
        Some((chain, key))
    }

    fn edit(
        &mut self,
        store: &str,
        thumbprint: &str,
        change: impl FnOnce(&mut StoredCertificate),
    ) -> WindowsResult<()> {
        self.change(store)?;
        let entry = self.store_mut(store)?.get_mut(&normalized(thumbprint));
        entry.map(change).ok_or_else(|| missing(store, thumbprint))
    }

    fn change(&mut self, store: &str) -> WindowsResult<()> {
        self.trips.check(store)
    }

    fn store_mut(&mut self, store: &str) -> WindowsResult<&mut BTreeMap<String, StoredCertificate>> {
        let found = self.stores.get_mut(&store.to_lowercase());
        found.ok_or_else(|| WindowsError::not_found(format_args!("the store Cert:\\LocalMachine\\{store}")))
    }
}

/// What a TLS server needs to serve a PFX; `None` when it cannot be read.
pub(super) fn servable_pfx(
    pfx: &[u8],
    password: &str,
) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let keystore = KeyStore::from_pkcs12(pfx, password, p12_keystore::Pkcs12ImportPolicy::Strict).ok()?;
    let (_, chain) = keystore.private_key_chain()?;
    let key = PrivatePkcs8KeyDer::from(chain.key().as_der().to_vec()).into();
    Some((chain.certs().iter().map(|der| CertificateDer::from(der.as_der().to_vec())).collect(), key))
}

/// SHA-1 of a certificate in DER, as Windows writes it: 40 upper-case hexadecimal digits.
pub fn thumbprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A thumbprint without the spaces, colons and invisible characters that people paste along.
pub(super) fn normalized(thumbprint: &str) -> String {
    thumbprint.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_uppercase()).collect()
}

fn missing(store: &str, thumbprint: &str) -> WindowsError {
    WindowsError::not_found(format_args!("the certificate Cert:\\LocalMachine\\{store}\\{thumbprint}"))
}

#[cfg(test)]
mod tests {
    use super::{super::pfx_of, *};
    use crate::pki::TestCa;

    #[test]
    fn a_pfx_is_imported_with_its_chain_and_leaves_only_if_it_may() {
        let root = TestCa::new("root").unwrap();
        let between = root.intermediate("between").unwrap();
        let issued = between.issue(&["www.example.test"]).unwrap();
        let pfx = pfx_of(&issued, "pw").unwrap();
        let mut stores = CertificateStores::new(20_348);
        let wrong = stores.import_pfx("My", &pfx, "no", &ImportOptions::default()).unwrap_err();
        assert_eq!(wrong.code, 0x8007_0056);
        assert_eq!(stores.import_pfx("My", b"no", "", &ImportOptions::default()).unwrap_err().code, 0x8009_2002);
        assert_eq!(stores.import_pfx("No", &pfx, "pw", &ImportOptions::default()).unwrap_err().code, 0x8007_0490);
        let thumb = stores.import_pfx("My", &pfx, "pw", &ImportOptions::default()).unwrap();
        let stored = stores.get("MY", &thumb.to_lowercase()).unwrap();
        assert!(stored.has_private_key() && stored.fingerprint == issued.fingerprint);
        assert_eq!(stored.dns_names, ["www.example.test"]);
        assert_eq!(stores.list("CA").len(), 1);
        assert_eq!(stores.export_pfx("My", &thumb, "x").unwrap_err().code, 0x8009_000B);
        let options = ImportOptions { exportable: true, friendly_name: Some("new".into()), ..Default::default() };
        stores.import_pfx("WebHosting", &pfx, "pw", &options).unwrap();
        let again = stores.export_pfx("WebHosting", &thumb, "x").unwrap();
        assert_eq!(stores.import_pfx("My", &again, "x", &ImportOptions::default()).unwrap(), thumb);
        stores.remove("My", &thumb).unwrap();
        assert!(stores.get("My", &thumb).is_err() && stores.get("WebHosting", &thumb).is_ok());
    }

    #[test]
    fn old_builds_do_not_read_aes() {
        let issued = TestCa::new("root").unwrap().issue(&["a.test"]).unwrap();
        let pfx = pfx_of(&issued, "pw").unwrap();
        let mut stores = CertificateStores::new(14_393);
        assert_eq!(stores.import_pfx("My", &pfx, "pw", &ImportOptions::default()).unwrap_err().code, 0x8007_0056);
    }
}

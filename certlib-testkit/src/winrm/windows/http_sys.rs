//! What http.sys serves TLS with: the table that `netsh http show sslcert` prints.

use std::{collections::BTreeMap, fmt};

use super::error::{Trips, WindowsError, WindowsResult};

/// The application id of IIS.
pub const IIS_APP_ID: &str = "{4dc3e181-e14b-4a21-b022-59fc669b0914}";

/// What an entry of the table is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SslKey {
    /// `ipport=0.0.0.0:443`: every name on an address and port.
    IpPort(String, u16),
    /// `hostnameport=www.example.com:443`: one name (SNI), lower case.
    HostPort(String, u16),
    /// `ccs=443`: the central certificate store.
    Ccs(u16),
}

impl SslKey {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::IpPort(_, port) | Self::HostPort(_, port) | Self::Ccs(port) => *port,
        }
    }
}

impl fmt::Display for SslKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpPort(address, port) => write!(f, "ipport={address}:{port}"),
            Self::HostPort(host, port) => write!(f, "hostnameport={host}:{port}"),
            Self::Ccs(port) => write!(f, "ccs={port}"),
        }
    }
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SslEntry {
    /// The thumbprint, upper case; empty for the central certificate store.
    pub certificate_hash: String,
    /// The store the certificate is in.
    pub store: String,
    /// Who owns the entry, in braces.
    pub app_id: String,
}

impl SslEntry {
    /// An entry for a certificate.
    pub fn new(certificate_hash: &str, store: &str, app_id: &str) -> Self {
        let certificate_hash = super::certificates::normalized(certificate_hash);
        Self { certificate_hash, store: store.to_owned(), app_id: app_id.to_owned() }
    }
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct HttpSys {
    entries: BTreeMap<SslKey, SslEntry>,
    trips: Trips,
}

impl HttpSys {
    /// Makes changes of entries whose key (such as `hostnameport=a.test:443`) begins like this fail: the first `skip`
    /// pass, then `times` fail.
    pub fn fail(&mut self, key: &str, skip: u32, times: u32, error: WindowsError) {
        self.trips.set(key, skip, times, error);
    }

    /// Forgets what [`HttpSys::fail`] was told.
    pub fn clear_failures(&mut self) {
        self.trips.clear();
    }

    /// An entry.
    pub fn get(&self, key: &SslKey) -> Option<&SslEntry> {
        self.entries.get(key)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = (&SslKey, &SslEntry)> {
        self.entries.iter()
    }

    /// Adds an entry. Whether the certificate exists is not looked at, as `Windows` does that.
    ///
    /// # Errors
    /// `0x800700B7` when there is one.
    pub fn add(&mut self, key: SslKey, entry: SslEntry) -> WindowsResult<()> {
        self.trips.check(&key.to_string())?;
        if self.entries.contains_key(&key) {
            return Err(WindowsError::already_exists(&key.to_string()));
        }
        self.entries.insert(key, entry);
        Ok(())
    }

    /// Changes an entry in one step.
    ///
    /// # Errors
    /// `0x80070002` when there is none.
    pub fn update(&mut self, key: &SslKey, entry: SslEntry) -> WindowsResult<()> {
        self.trips.check(&key.to_string())?;
        match self.entries.get_mut(key) {
            Some(present) => *present = entry,
            None => return Err(WindowsError::file_not_found(&key.to_string())),
        }
        Ok(())
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// `0x80070002` when there is none.
    pub fn remove(&mut self, key: &SslKey) -> WindowsResult<SslEntry> {
        self.trips.check(&key.to_string())?;
        self.entries.remove(key).ok_or_else(|| WindowsError::file_not_found(&key.to_string()))
    }

    /// The entry that a handshake on `port` meets, most special first: the name, a wildcard of its domain, an address
    /// and port, every address, the central store.
    pub fn select(&self, port: u16, server_name: Option<&str>) -> Option<(&SslKey, &SslEntry)> {
        let name = server_name.map(str::to_lowercase);
        let wildcard = name.as_deref().and_then(|name| name.split_once('.')).map(|(_, rest)| format!("*.{rest}"));
        let names = [name, wildcard].into_iter().flatten().map(|name| SslKey::HostPort(name, port));
        let addresses = ["127.0.0.1", "0.0.0.0"].map(|address| SslKey::IpPort(address.to_owned(), port));
        let keys = names.chain(addresses).chain([SslKey::Ccs(port)]);
        keys.into_iter().find_map(|key| self.entries.get_key_value(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_entry_is_met() {
        let mut table = HttpSys::default();
        let entry = |hash: &str| SslEntry::new(hash, "My", IIS_APP_ID);
        for (key, hash) in [
            (SslKey::HostPort("a.example.test".into(), 443), "aa"),
            (SslKey::HostPort("*.example.test".into(), 443), "bb"),
            (SslKey::IpPort("0.0.0.0".into(), 443), "cc"),
        ] {
            table.add(key, entry(hash)).unwrap();
        }
        let met = |name| table.select(443, name).map(|(_, entry)| entry.certificate_hash.clone()).unwrap();
        assert_eq!(met(Some("A.example.test")), "AA");
        assert_eq!(met(Some("b.example.test")), "BB");
        assert_eq!(met(Some("other.test")), "CC");
        assert_eq!(met(None), "CC");
        assert!(table.select(8443, None).is_none());
        let key = SslKey::IpPort("0.0.0.0".into(), 443);
        assert_eq!(table.add(key.clone(), entry("dd")).unwrap_err().code, 0x8007_00B7);
        table.update(&key, entry("dd")).unwrap();
        table.remove(&key).unwrap();
        assert_eq!(table.update(&key, entry("dd")).unwrap_err().code, 0x8007_0002);
    }
}

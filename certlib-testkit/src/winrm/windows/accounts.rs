//! Names of accounts and their SIDs.

use std::collections::BTreeMap;

use aws_lc_rs::digest;

/// Accounts that every Windows has: name, SID, and how SDDL abbreviates it.
const WELL_KNOWN: &[(&str, &str, &str)] = &[
    ("Everyone", "S-1-1-0", "WD"),
    (r"NT AUTHORITY\Authenticated Users", "S-1-5-11", "AU"),
    (r"NT AUTHORITY\SYSTEM", "S-1-5-18", "SY"),
    (r"NT AUTHORITY\LOCAL SERVICE", "S-1-5-19", "LS"),
    (r"NT AUTHORITY\NETWORK SERVICE", "S-1-5-20", "NS"),
    (r"BUILTIN\Administrators", "S-1-5-32-544", "BA"),
    (r"BUILTIN\Users", "S-1-5-32-545", "BU"),
    // It has no abbreviation.
    (r"BUILTIN\IIS_IUSRS", "S-1-5-32-568", ""),
];

/// Accounts of one host beside those that every Windows has.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts {
    /// By name in lower case.
    sids: BTreeMap<String, String>,
}

impl Accounts {
    pub(super) fn add(&mut self, name: &str, sid: &str) {
        self.sids.insert(name.to_lowercase(), sid.to_owned());
    }

    /// By the whole name or, for those that every Windows has, without what goes before the last backslash.
    pub(super) fn sid(&self, name: &str) -> Option<String> {
        let own = self.sids.get(&name.to_lowercase()).cloned();
        own.or_else(|| {
            let known = WELL_KNOWN.iter().find(|(known, ..)| {
                let short = known.rsplit('\\').next().unwrap_or(known);
                name.eq_ignore_ascii_case(known) || name.eq_ignore_ascii_case(short)
            });
            known.map(|(_, sid, _)| (*sid).to_owned())
        })
    }
}

/// What SDDL writes instead of a SID.
pub(super) fn abbreviation(sid: &str) -> Option<&'static str> {
    WELL_KNOWN.iter().find(|(_, known, short)| *known == sid && !short.is_empty()).map(|(.., short)| *short)
}

/// The SID of a service's own account, `NT SERVICE\NAME`.
pub(super) fn service_sid(name: &str) -> String {
    hashed("S-1-5-80", &name.to_uppercase())
}

/// The SID of an application pool's own account, `IIS APPPOOL\NAME`.
pub(super) fn pool_sid(name: &str) -> String {
    hashed("S-1-5-82", &name.to_lowercase())
}

/// Windows makes these SIDs of the SHA-1 of the name in UTF-16.
fn hashed(prefix: &str, name: &str) -> String {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &name);
    digest.as_ref().chunks_exact(4).fold(prefix.to_owned(), |sid, chunk| {
        let number = chunk.iter().rev().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        format!("{sid}-{number}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sids_are_those_that_windows_gives() {
        let installer = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
        assert_eq!(service_sid("TrustedInstaller"), installer);
        let pool = "S-1-5-82-3006700770-424185619-1745488364-794895919-4004696415";
        assert_eq!(pool_sid("DefaultAppPool"), pool);
        let mut accounts = Accounts::default();
        accounts.add(r"SHOP\web", "S-1-5-21-1-2-3-1001");
        assert_eq!(accounts.sid(r"shop\Web").unwrap(), "S-1-5-21-1-2-3-1001");
        for name in ["Network Service", r"NT AUTHORITY\NETWORK SERVICE"] {
            assert_eq!(accounts.sid(name).unwrap(), "S-1-5-20");
        }
        assert_eq!(accounts.sid("web"), None);
        assert_eq!((abbreviation("S-1-5-20"), abbreviation("S-1-5-32-568")), (Some("NS"), None));
    }
}

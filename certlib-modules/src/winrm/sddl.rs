//! Access lists in SDDL: what is accepted, and when two say the same.
//!
//! Windows answers another text than it was given: it sorts entries, writes `0x1200a9` for `FRFX`, and puts short names
//! for accounts. So lists are compared by what they mean, as far as it can be told from here.

use std::collections::BTreeSet;

use certlib_core::{Error, Result};

/// The longest list, in bytes.
const MAX_LENGTH: usize = 4_096;

/// Accounts that have a short name.
const ACCOUNTS: [(&str, &str); 20] = [
    ("BA", "S-1-5-32-544"),
    ("BU", "S-1-5-32-545"),
    ("BG", "S-1-5-32-546"),
    ("PU", "S-1-5-32-547"),
    ("SO", "S-1-5-32-549"),
    ("BO", "S-1-5-32-551"),
    ("IS", "S-1-5-32-568"),
    ("SY", "S-1-5-18"),
    ("LS", "S-1-5-19"),
    ("NS", "S-1-5-20"),
    ("AU", "S-1-5-11"),
    ("AN", "S-1-5-7"),
    ("IU", "S-1-5-4"),
    ("NU", "S-1-5-2"),
    ("SU", "S-1-5-6"),
    ("WD", "S-1-1-0"),
    ("CO", "S-1-3-0"),
    ("CG", "S-1-3-1"),
    ("OW", "S-1-3-4"),
    ("AC", "S-1-15-2-1"),
];

/// Rights by their short names; the generic ones as files understand them.
const RIGHTS: [(&str, u32); 21] = [
    ("FA", 0x001f_01ff),
    ("FR", 0x0012_0089),
    ("FW", 0x0012_0116),
    ("FX", 0x0012_00a0),
    ("GA", 0x001f_01ff),
    ("GR", 0x0012_0089),
    ("GW", 0x0012_0116),
    ("GX", 0x0012_00a0),
    ("RC", 0x0002_0000),
    ("SD", 0x0001_0000),
    ("WD", 0x0004_0000),
    ("WO", 0x0008_0000),
    ("CC", 0x1),
    ("DC", 0x2),
    ("LC", 0x4),
    ("SW", 0x8),
    ("RP", 0x10),
    ("WP", 0x20),
    ("DT", 0x40),
    ("LO", 0x80),
    ("CR", 0x100),
];

/// What a list says: whether it shuts out what the directory would add, and its own entries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dacl {
    protected: bool,
    entries: BTreeSet<String>,
}

impl Dacl {
    /// Reads the list in a security descriptor. `None` when there is none, or it is not SDDL.
    pub(crate) fn parse(sddl: &str) -> Option<Self> {
        let mut rest = sddl.trim();
        for part in ["O:", "G:"] {
            if let Some(sid) = rest.strip_prefix(part) {
                rest = &sid[account_length(sid)..];
            }
        }
        let rest = rest.strip_prefix("D:")?;
        let (flags, mut rest) = rest.split_at(rest.find('(').unwrap_or(rest.len()));
        let flags = flags.split("S:").next().unwrap_or_default();
        let protected = match flags.replace("AI", "").replace("AR", "").as_str() {
            "" => false,
            "P" => true,
            _ => return None,
        };
        let mut entries = BTreeSet::new();
        while let Some(entry) = rest.strip_prefix('(') {
            let (entry, after) = entry.split_once(')')?;
            let fields: Vec<&str> = entry.split(';').collect();
            let [kind, flags, rights, object, inherited, account] = fields[..] else { return None };
            // Inherited entries are the directory's, not the file's.
            if !pairs(flags).contains(&"ID") {
                let mut flags = pairs(flags);
                flags.sort_unstable();
                let (rights, account) = (mask(rights)?, full(account));
                entries.insert(format!("{kind};{};{rights:#x};{object};{inherited};{account}", flags.concat()));
            }
            rest = after;
        }
        (rest.is_empty() || rest.starts_with("S:")).then_some(Self { protected, entries })
    }

    /// Whether the list stands for itself: it takes nothing from the directory.
    pub(crate) fn is_protected(sddl: &str) -> bool {
        Self::parse(sddl).is_some_and(|list| list.protected)
    }

    /// The same text without what is not the list: owner, group, audit.
    pub(crate) fn text(sddl: &str) -> Option<&str> {
        Self::parse(sddl)?;
        let mut rest = sddl.trim();
        for part in ["O:", "G:"] {
            if let Some(sid) = rest.strip_prefix(part) {
                rest = &sid[account_length(sid)..];
            }
        }
        let end = rest.rfind(')').map_or_else(|| rest.find("S:").unwrap_or(rest.len()), |end| end + 1);
        rest.get(..end)
    }
}

/// Whether two descriptors let the same accounts do the same.
pub(crate) fn same(one: &str, other: &str) -> bool {
    match (Dacl::parse(one), Dacl::parse(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// A list for a private key: the system and administrators may do everything, `readers` (SIDs) may read.
pub(crate) fn for_readers(readers: &[String]) -> String {
    let entries: String = readers.iter().map(|sid| format!("(A;;FR;;;{sid})")).collect();
    format!("D:P(A;;FA;;;SY)(A;;FA;;;BA){entries}")
}

/// Accepts a list that allows or denies rights on files to accounts, and leaves the system and administrators in.
///
/// # Errors
/// `Validation` `acl_invalid`.
pub(crate) fn check(sddl: &str) -> Result<()> {
    let invalid = |why| Err(Error::validation("winrm.check", "acl_invalid", why));
    if sddl.len() > MAX_LENGTH || !sddl.is_ascii() || !sddl.starts_with("D:") {
        return invalid("an access list is SDDL that starts with `D:`");
    }
    let Some(list) = Dacl::parse(sddl).filter(|list| !list.entries.is_empty()) else {
        return invalid("the access list is not SDDL that can be read, or has no entry");
    };
    if sddl.contains("S:") || sddl.rsplit(')').next() != Some("") {
        return invalid("owner, group and audit cannot be set, only the access list");
    }
    if list.entries.iter().any(|entry| !entry.starts_with("A;") && !entry.starts_with("D;")) {
        return invalid("entries are of the types A and D");
    }
    let full_access = |sid: &str| {
        let wanted = format!("{:#x};;;{sid}", 0x001f_01ff);
        list.entries.iter().any(|entry| entry.starts_with("A;") && entry.ends_with(&wanted))
    };
    if list.protected && !full_access("S-1-5-18") && !full_access("S-1-5-32-544") {
        return invalid(
            "neither the system (SY) nor administrators (BA) would have full access (FA), so nobody could undo it",
        );
    }
    Ok(())
}

/// Whether `text` is a SID in its long form.
pub(crate) fn is_sid(text: &str) -> bool {
    text.len() <= 190
        && text.strip_prefix("S-1-").is_some_and(|rest| {
            rest.split('-').all(|part| !part.is_empty() && part.len() <= 20 && part.bytes().all(|b| b.is_ascii_digit()))
        })
}

fn account_length(text: &str) -> usize {
    if !text.starts_with("S-1-") {
        return text.len().min(2);
    }
    2 + text[2..].bytes().take_while(|b| b.is_ascii_digit() || *b == b'-').count()
}

fn full(account: &str) -> String {
    let account = account.to_ascii_uppercase();
    ACCOUNTS.iter().find(|(short, _)| *short == account).map_or(account, |(_, sid)| (*sid).to_owned())
}

fn mask(rights: &str) -> Option<u32> {
    if let Some(digits) = rights.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).ok();
    }
    if !rights.is_empty() && rights.bytes().all(|b| b.is_ascii_digit()) {
        return rights.parse().ok();
    }
    let mut mask = 0;
    for pair in pairs(rights) {
        mask |= RIGHTS.iter().find(|(name, _)| *name == pair)?.1;
    }
    Some(mask)
}

fn pairs(text: &str) -> Vec<&str> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (pair, after) = rest.split_at_checked(2).unwrap_or((rest, ""));
        pairs.push(pair);
        rest = after;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_compared_by_meaning() {
        let wanted = "D:P(A;;FA;;;BA)(A;;FA;;;SY)(A;;FRFX;;;S-1-5-20)";
        for same_as in [
            "O:BAG:SYD:PAI(A;;0x1200a9;;;NS)(A;;FA;;;SY)(A;;0x1f01ff;;;S-1-5-32-544)",
            "O:S-1-5-21-1-2-3-500G:S-1-5-21-1-2-3-513D:P(A;;FA;;;SY)(A;;GA;;;BA)(A;;GRGX;;;NS)(A;ID;FA;;;WD)",
            "G:DUD:ARPAI(A;;FA;;;SY)(A;;FA;;;BA)(A;;1179817;;;NS)S:(AU;SA;FA;;;WD)",
        ] {
            assert!(same(wanted, same_as), "{same_as}");
        }
        for other in [
            "D:(A;;FA;;;BA)(A;;FA;;;SY)(A;;FRFX;;;NS)",
            "D:P(A;;FA;;;BA)(A;;FA;;;SY)(A;;FR;;;NS)",
            "D:P(A;;FA;;;BA)(A;;FA;;;SY)",
            "D:P(A;;FA;;;BA)(A;;FA;;;SY)(D;;FRFX;;;NS)",
            "",
            "D:P(A;;FA;;;BA",
        ] {
            assert!(!same(wanted, other), "{other}");
        }
    }

    #[test]
    fn the_list_is_cut_out() {
        assert_eq!(Dacl::text("O:BAG:SYD:PAI(A;;FA;;;SY)S:AI"), Some("D:PAI(A;;FA;;;SY)"));
        assert_eq!(Dacl::text("D:AI"), Some("D:AI"));
        assert_eq!(Dacl::text("O:BAG:SY"), None);
    }

    #[test]
    fn what_is_accepted() {
        check("D:P(A;;FA;;;SY)(A;;FR;;;NS)").unwrap();
        check("D:(A;;FR;;;NS)").unwrap();
        check(&for_readers(&["S-1-5-20".to_owned()])).unwrap();
        for bad in [
            "",
            "FA",
            "D:",
            "D:P",
            "D:P()",
            "D:P(A;;FA;;;NS)",
            "D:P(A;;XX;;;SY)",
            "D:P(A;;FA;;SY)",
            "O:BAD:P(A;;FA;;;SY)",
            "D:P(A;;FA;;;SY)S:(AU;SA;FA;;;WD)",
            "D:P(XA;;FA;;;SY;(a == b))(A;;FA;;;SY)",
            "D:P(OA;;FA;;;SY)(A;;FA;;;SY)",
            "D:P(A;;FA;;;SY) ",
        ] {
            assert_eq!(check(bad).unwrap_err().code(), "acl_invalid", "{bad}");
        }
        assert!(is_sid("S-1-5-20") && is_sid("S-1-5-21-1-2-3-500"));
        assert!(!is_sid("S-1-") && !is_sid("NS") && !is_sid("S-1-5-x") && !is_sid("S-1-5-20)(A"));
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[OGDSAIPBU:;()0-9xF-]{0,60}", any in "\\PC{0,40}") {
            let _ = (Dacl::parse(&text), Dacl::text(&text), check(&text), same(&any, &text), check(&any));
        }
    }
}

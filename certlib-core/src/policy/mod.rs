//! What may be issued, when to renew, and when to speak of a certificate's end: pure functions.

mod expiry;
mod issuance;
mod renewal;
mod rollout;
mod window;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use self::expiry::{EXPIRY_THRESHOLDS, ExpiryCheck, check_expiry, expiry_severity};
pub(crate) use self::expiry::{goes_live, watch};
pub use self::issuance::{POLICY_VIOLATED, Violation, Wish, admit, check_policy, violations};
pub use self::renewal::{
    Advice, HINT_MAX, HINT_MIN, bound_retry, follow_window, hint_interval, last_call, look_again, release_delay,
    renew_at, renewal_bounds,
};
pub use self::rollout::{Pace, pace};
pub use self::window::{check_window, opens_in};
use crate::error::{Error, Result};

/// The most names one certificate may have.
pub const NAMES_MAX: usize = 100;

/// Names as they are kept: lower case, without doubles or a trailing dot, in the order given.
///
/// # Errors
/// `Validation` `names_invalid`, naming each bad one: a name is a DNS name of letters, digits, `-` and `_`, with `*.` in
/// front at most, or an IP address.
pub fn normalize_names(names: &[String]) -> Result<Vec<String>> {
    let invalid = |why: String| Error::validation("certificate.names", "names_invalid", why);
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(invalid(format!("a certificate has 1 to {NAMES_MAX} names")).with("actual", names.len()));
    }
    let mut seen = BTreeSet::new();
    let mut kept = Vec::new();
    let mut bad = Vec::new();
    for name in names {
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        if !is_dns_name(&lower) && lower.parse::<IpAddr>().is_err() {
            bad.push(name.chars().take(64).collect::<String>().escape_debug().to_string());
        } else if seen.insert(lower.clone()) {
            kept.push(lower);
        }
    }
    if bad.is_empty() { Ok(kept) } else { Err(invalid(format!("not a DNS name or address: {}", bad.join(", ")))) }
}

fn is_dns_name(name: &str) -> bool {
    let base = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // The last label of a DNS name is never all digits; that is an address, or an attempt at one.
    let all_digits = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && base.split('.').all(label) && !base.rsplit('.').next().is_some_and(all_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Result<Vec<String>> {
        normalize_names(&list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_normalized() {
        assert_eq!(
            names(&["WWW.Example.", "www.example", "*.example", "192.0.2.1", "2001:db8::1"]).unwrap(),
            ["www.example", "*.example", "192.0.2.1", "2001:db8::1"]
        );
    }

    #[test]
    fn bad_names_are_all_named() {
        let error = names(&["a b", "ok.example", "*.*.example", "-x.example", "1.2.3", "a..b", "x\ny"]).unwrap_err();
        for bad in ["a b", "*.*.example", "-x.example", "1.2.3", "a..b", "x\\ny"] {
            assert!(error.message().contains(bad), "{bad}: {error}");
        }
        assert!(names(&[]).is_err());
    }
}

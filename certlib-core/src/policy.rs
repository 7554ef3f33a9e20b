//! What may be issued, and when to renew: pure functions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;
use time::OffsetDateTime;

use crate::bundle::LeafInfo;
use crate::error::{Error, Result};
use crate::issuer::RenewalWindow;
use crate::model::{RenewalHint, RenewalPolicy};

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

/// When to renew a certificate by its lifetime alone.
pub fn renew_at(leaf: &LeafInfo, policy: &RenewalPolicy) -> Option<OffsetDateTime> {
    let fraction = if policy.at_fraction.is_finite() { policy.at_fraction.clamp(0.1, 0.95) } else { 2.0 / 3.0 };
    policy.automatic.then(|| leaf.not_before + (leaf.not_after - leaf.not_before) * fraction)
}

/// The hint to keep for `window`: the instant is drawn once and stays until the window changes (RFC 9773 section 4.2).
pub fn choose_instant(
    window: &RenewalWindow,
    former: Option<&RenewalHint>,
    rng: &mut (impl RngExt + ?Sized),
) -> RenewalHint {
    let chosen = match former {
        Some(hint) if hint.start == window.start && hint.end == window.end => hint.chosen,
        _ => window.start + (window.end - window.start) * rng.random_range(0.0..1.0),
    };
    RenewalHint { start: window.start, end: window.end, chosen, explanation_url: window.explanation_url.clone() }
}

/// Within which a CA's suggestion for `leaf`, issued at `issued`, is followed; `former` is when the version before it was
/// issued.
///
/// Never so late that a tenth of the lifetime is not left. As early as the CA likes, once: a CA that asks for one
/// renewal after the other gets one per tenth of the lifetime.
pub fn renewal_bounds(
    leaf: &LeafInfo,
    issued: OffsetDateTime,
    former: Option<OffsetDateTime>,
) -> (OffsetDateTime, OffsetDateTime) {
    let tenth = (leaf.not_after - leaf.not_before) / 10;
    let latest = leaf.not_after - tenth;
    let again = former.is_some_and(|former| issued - former < tenth);
    let earliest = if again { issued + tenth } else { OffsetDateTime::UNIX_EPOCH };
    (earliest.min(latest), latest)
}

/// When to ask a CA again for its window: what it says, within 1 minute to 1 day; 6 hours if it does not say.
pub fn hint_interval(retry_after: Option<Duration>) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);
    retry_after.map_or(Duration::from_secs(6 * 3600), |after| after.clamp(MINUTE, DAY))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::bundle::Fingerprint;

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

    fn leaf(days: i64) -> LeafInfo {
        let not_before = datetime!(2027-01-01 00:00 UTC);
        LeafInfo {
            names: Vec::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            not_before,
            not_after: not_before + time::Duration::days(days),
            fingerprint: Fingerprint::of(b""),
        }
    }

    #[test]
    fn renewal_follows_the_lifetime() {
        for days in [6, 47, 398] {
            let at = renew_at(&leaf(days), &RenewalPolicy::default()).unwrap();
            let share = (at - datetime!(2027-01-01 00:00 UTC)) / time::Duration::days(days);
            assert!((share - 2.0 / 3.0).abs() < 1e-9);
        }
        assert_eq!(renew_at(&leaf(6), &RenewalPolicy { automatic: false, ..RenewalPolicy::default() }), None);
    }

    #[test]
    fn a_suggestion_is_followed_within_bounds() {
        let leaf = leaf(10);
        let day = time::Duration::DAY;
        let (earliest, latest) = renewal_bounds(&leaf, leaf.not_before, None);
        assert!(earliest < leaf.not_before, "renew now, it says: so we do");
        assert_eq!(latest, leaf.not_before + day * 9);
        let (earliest, _) = renewal_bounds(&leaf, leaf.not_before, Some(leaf.not_before - time::Duration::MINUTE));
        assert_eq!(earliest, leaf.not_before + day, "but not again and again");
        let (earliest, _) = renewal_bounds(&leaf, leaf.not_before, Some(leaf.not_before - day * 5));
        assert!(earliest < leaf.not_before);
    }

    proptest! {
        #[test]
        fn the_instant_lies_in_the_window_and_is_drawn_once(length in 1_i64..1_000_000) {
            let start = datetime!(2027-01-01 00:00 UTC);
            let window = RenewalWindow::new(start, start + time::Duration::seconds(length)).unwrap();
            let hint = choose_instant(&window, None, &mut rand::rng());
            prop_assert!(hint.chosen >= window.start && hint.chosen <= window.end);
            let again = choose_instant(&window, Some(&hint), &mut rand::rng());
            prop_assert_eq!(again.chosen, hint.chosen);
        }
    }
}

//! When to speak of a certificate's end, and how loudly.

use time::{Duration, OffsetDateTime};

use crate::bundle::LeafInfo;
use crate::model::{Certificate, ExpiryWatch, Severity};

/// How many days before a certificate's end it is spoken of, unless the settings say otherwise.
pub const EXPIRY_THRESHOLDS: [u32; 5] = [30, 14, 7, 3, 1];

/// What there is to say about a certificate's end, and when to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiryCheck {
    /// The threshold, in days, that was crossed and not spoken of; 0: the certificate has ended.
    pub notice: Option<u32>,
    /// When the next threshold is crossed; `None` when the certificate has ended.
    pub next: Option<OffsetDateTime>,
}

/// What there is to say at `now` about a certificate of this validity, when `told` is the nearest threshold that was
/// spoken of.
///
/// Only the nearest of several crossed thresholds is spoken of: a certificate that is first seen with five days left
/// has one notice, that of seven days. A threshold of more than half of the lifetime does not count, so that a 6-day
/// certificate does not spend its life under alarm.
pub fn check_expiry(
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    thresholds: &[u32],
    told: Option<u32>,
    now: OffsetDateTime,
) -> ExpiryCheck {
    let half = (not_after - not_before) / 2;
    let counts = |days: &u32| *days > 0 && Duration::days(i64::from(*days)) <= half;
    let crossing = |days: u32| not_after.saturating_sub(Duration::days(i64::from(days)));
    let thresholds = || thresholds.iter().copied().filter(counts).chain([0]);
    let crossed = thresholds().filter(|days| crossing(*days) <= now).min();
    ExpiryCheck {
        notice: crossed.filter(|days| told.is_none_or(|told| *days < told)),
        next: thresholds().map(crossing).filter(|at| *at > now).min(),
    }
}

/// How urgent it is that a certificate of this lifetime has so much left: `critical` within a day, `error` within three,
/// `warning` within fourteen, but never more than `info` while a third of its life is left.
pub fn expiry_severity(left: Duration, lifetime: Duration) -> Severity {
    if left * 3 > lifetime && left.is_positive() {
        return Severity::Info;
    }
    match left.whole_seconds() {
        ..=86_400 => Severity::Critical,
        86_401..=259_200 => Severity::Error,
        259_201..=1_209_600 => Severity::Warning,
        _ => Severity::Info,
    }
}

/// A watch over the end of `version`.
pub(crate) fn watch(version: u32, leaf: &LeafInfo, thresholds: &[u32]) -> ExpiryWatch {
    let (not_before, not_after) = (leaf.not_before, leaf.not_after);
    let check = check_expiry(not_before, not_after, thresholds, None, not_before);
    // The first threshold, which may have passed already: then the next sweep looks.
    ExpiryWatch { version, not_before, not_after, told: None, check_at: check.next }
}

/// Makes `version` the live one, and its end the one that is watched.
pub(crate) fn goes_live(certificate: &mut Certificate, version: u32, leaf: &LeafInfo, thresholds: &[u32]) {
    certificate.active_version = Some(version);
    if certificate.expiry.as_ref().is_none_or(|watch| watch.version != version) {
        certificate.expiry = Some(watch(version, leaf, thresholds));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);

    /// Every notice of a certificate that lives so many days and is looked at whenever it asks to be.
    fn notices(days: i64, mut now: OffsetDateTime) -> Vec<u32> {
        let end = START + Duration::days(days);
        let (mut told, mut all) = (None, Vec::new());
        loop {
            let check = check_expiry(START, end, &EXPIRY_THRESHOLDS, told, now);
            if let Some(notice) = check.notice {
                all.push(notice);
                told = Some(notice);
            }
            match check.next {
                Some(next) => now = next,
                None => return all,
            }
        }
    }

    #[test]
    fn each_threshold_once() {
        assert_eq!(notices(90, START), [30, 14, 7, 3, 1, 0]);
        assert_eq!(notices(47, START), [14, 7, 3, 1, 0]);
        assert_eq!(notices(6, START), [3, 1, 0]);
        assert_eq!(notices(1, START), [0]);
    }

    #[test]
    fn a_late_look_speaks_of_the_nearest_alone() {
        assert_eq!(notices(90, START + Duration::days(85)), [7, 3, 1, 0]);
        assert_eq!(notices(90, START + Duration::days(100)), [0]);
    }

    #[test]
    fn severity_grows() {
        let of = |days: i64, life: i64| expiry_severity(Duration::days(days), Duration::days(life));
        let grown: Vec<_> = [30, 14, 7, 3, 1, 0].map(|days| of(days, 90)).to_vec();
        use Severity::{Critical, Error, Info, Warning};
        assert_eq!(grown, [Info, Warning, Warning, Error, Critical, Critical]);
        assert_eq!(of(3, 6), Info, "half of a short life is left");
        assert_eq!(of(1, 6), Critical);
    }

    proptest! {
        #[test]
        fn no_threshold_twice_and_none_out_of_order(
            seconds in 1_i64..40_000_000,
            thresholds in proptest::collection::vec(0_u32..400, 0..8),
            mut looks in proptest::collection::vec(0_i64..41_000_000, 1..60),
        ) {
            looks.sort_unstable();
            let end = START + Duration::seconds(seconds);
            let (mut told, mut count) = (None, 0);
            for look in looks {
                let now = START + Duration::seconds(look);
                let check = check_expiry(START, end, &thresholds, told, now);
                prop_assert!(check.next.is_none_or(|next| next > now && next <= end));
                prop_assert_eq!(check.next.is_none(), now >= end);
                if let Some(notice) = check.notice {
                    prop_assert!(told.is_none_or(|told| notice < told));
                    prop_assert!(now >= end - Duration::days(i64::from(notice)));
                    prop_assert!(notice == 0 || thresholds.contains(&notice));
                    told = Some(notice);
                    count += 1;
                }
                // Whoever looks twice at the same moment learns nothing new.
                prop_assert_eq!(check_expiry(START, end, &thresholds, told, now).notice, None);
            }
            prop_assert!(count <= thresholds.len() + 1);
        }

        #[test]
        fn severity_never_falls(life in 1_i64..40_000_000, one in -1_000_000_i64..40_000_000, other in -1_000_000_i64..40_000_000) {
            let of = |left: i64| expiry_severity(Duration::seconds(left), Duration::seconds(life));
            prop_assert!(of(one.min(other)) >= of(one.max(other)));
        }
    }
}

//! When to renew, and how long to wait before trying again.

use std::time::Duration;

use rand::RngExt;
use time::OffsetDateTime;

use crate::backoff::Jitter;
use crate::bundle::LeafInfo;
use crate::issuer::RenewalWindow;
use crate::model::{RenewalHint, RenewalPolicy};

/// No CA is asked for its window more often than this, whatever it wishes.
pub const HINT_MIN: Duration = Duration::from_secs(60);
/// Nor less often.
pub const HINT_MAX: Duration = DAY;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// When to renew a certificate by its lifetime alone.
///
/// From the share of the lifetime that the policy names, plus up to a tenth of what is then left: `draw`, from 0 to 1,
/// says how much of that tenth. It is drawn once for each version and kept with it, so that certificates issued in the
/// same hour are not renewed in the same minute, whatever restarts meanwhile.
pub fn renew_at(leaf: &LeafInfo, policy: &RenewalPolicy, draw: f64) -> Option<OffsetDateTime> {
    let fraction = if policy.at_fraction.is_finite() { policy.at_fraction.clamp(0.1, 0.95) } else { 2.0 / 3.0 };
    let from = leaf.not_before + (leaf.not_after - leaf.not_before) * fraction;
    policy.automatic.then(|| from + (leaf.not_after - from) * (share(draw) / 10.0))
}

/// How long after the sweep found it a renewal is released, so that what waited during an outage does not all go at
/// once.
///
/// What has piled up over `backlog` (how long the oldest of it has been due) is spread over four times that long, so
/// that it adds a quarter to what becomes due meanwhile; but at most over an hour, and at most over a tenth of what is
/// `left` of the certificate's life. `draw` is from 0 to 1. Without an outage the backlog is the interval between two
/// sweeps.
pub fn release_delay(backlog: Duration, left: Option<Duration>, draw: f64) -> Duration {
    let span = backlog.saturating_mul(4).min(HOUR);
    left.map_or(span, |left| span.min(left / 10)).mul_f64(share(draw))
}

/// What becomes of the window that a CA suggests.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Advice {
    /// Renew at the instant chosen in it.
    Follow(RenewalHint),
    /// It cannot be meant, for this reason: renew when the lifetime says so.
    Ignore(&'static str),
}

/// Chooses an instant in a CA's window for `leaf`, within `bounds` (see [`renewal_bounds`]).
///
/// The instant is drawn once and stays until the window changes (RFC 9773 section 4.2); when it has passed already, it
/// is now. A window that ends before it starts, is longer than the certificate lives, or begins when it is too late, is
/// ignored.
pub fn follow_window(
    window: &RenewalWindow,
    former: Option<&RenewalHint>,
    leaf: &LeafInfo,
    bounds: (OffsetDateTime, OffsetDateTime),
    now: OffsetDateTime,
    rng: &mut (impl RngExt + ?Sized),
) -> Advice {
    let (earliest, latest) = bounds;
    if window.end <= window.start {
        return Advice::Ignore("it ends before it starts");
    }
    if window.end - window.start > leaf.not_after - leaf.not_before {
        return Advice::Ignore("it is longer than the certificate lives");
    }
    if window.start > latest {
        return Advice::Ignore("it begins when it is too late");
    }
    let chosen = match former {
        Some(hint) if hint.start == window.start && hint.end == window.end => hint.chosen.clamp(earliest, latest),
        _ => {
            // Drawn from what the bounds leave: clamping afterwards would gather many certificates at the bound.
            let (start, end) = (window.start.clamp(earliest, latest), window.end.clamp(earliest, latest));
            let share: f64 = rng.random_range(0.0..1.0);
            (start + (end - start) * share).max(now.min(latest))
        }
    };
    let explanation_url = window.explanation_url.clone();
    Advice::Follow(RenewalHint { start: window.start, end: window.end, chosen, explanation_url })
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

/// When to ask a CA again for its window: what it says, within 1 minute to 1 day; 6 hours if it does not say; ±10 %, so
/// that certificates issued together do not ask together for ever.
pub fn hint_interval(retry_after: Option<Duration>, jitter: Jitter) -> Duration {
    let wait = retry_after.map_or(6 * HOUR, |after| after.clamp(HINT_MIN, HINT_MAX));
    jitter.apply(wait, 0.1)
}

/// When a failing renewal becomes an emergency: 24 hours before the end, or a quarter of the lifetime if that is less.
pub fn last_call(not_before: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    let lifetime: time::Duration = not_after - not_before;
    let quarter = (lifetime / 4_i32).max(time::Duration::ZERO);
    not_after.saturating_sub(quarter.min(time::Duration::DAY))
}

/// The wait before the next try of a renewal whose ladder says `wait`: no step passes the [last call](last_call), and
/// from then on a try is made every hour; but never before what the CA asked for has passed.
pub fn bound_retry(
    wait: Duration,
    retry_after: Option<Duration>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    now: OffsetDateTime,
) -> Duration {
    let until = Duration::try_from(last_call(not_before, not_after) - now).unwrap_or_default();
    let bound = if until.is_zero() { HOUR } else { until };
    wait.min(bound).max(retry_after.unwrap_or_default())
}

/// When to look again at a certificate whose renewal was enqueued, a net under a job that was given up: after a day,
/// or sooner where less than four days are left, at least an hour.
pub fn look_again(now: OffsetDateTime, not_after: Option<OffsetDateTime>) -> OffsetDateTime {
    let left = not_after.map(|not_after| Duration::try_from(not_after - now).unwrap_or_default());
    now + left.map_or(DAY, |left| (left / 4).clamp(HOUR, DAY))
}

fn share(draw: f64) -> f64 {
    if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use time::macros::datetime;

    use super::*;
    use crate::bundle::Fingerprint;

    const START: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);
    const DAYS: time::Duration = time::Duration::DAY;

    fn leaf(days: i64) -> LeafInfo {
        LeafInfo {
            names: Vec::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            not_before: START,
            not_after: START + DAYS * i32::try_from(days).unwrap(),
            fingerprint: Fingerprint::of(b""),
        }
    }

    fn advise(window: &RenewalWindow, former: Option<&RenewalHint>, now: OffsetDateTime) -> Advice {
        let leaf = leaf(90);
        let bounds = renewal_bounds(&leaf, START, None);
        follow_window(window, former, &leaf, bounds, now, &mut rand::rng())
    }

    fn window(start: i32, end: i32) -> RenewalWindow {
        let mut window = RenewalWindow::new(START, START + DAYS).unwrap();
        (window.start, window.end) = (START + DAYS * start, START + DAYS * end);
        window
    }

    #[test]
    fn renewal_follows_the_lifetime() {
        for days in [6, 47, 398] {
            let at = renew_at(&leaf(days), &RenewalPolicy::default(), 0.0).unwrap();
            let share = (at - START) / time::Duration::days(days);
            assert!((share - 2.0 / 3.0).abs() < 1e-9);
        }
        assert_eq!(renew_at(&leaf(6), &RenewalPolicy { automatic: false, ..RenewalPolicy::default() }, 0.5), None);
    }

    #[test]
    fn what_was_issued_together_is_not_renewed_together() {
        let mut rng = StdRng::seed_from_u64(19);
        let leaf = leaf(6);
        let mut minutes = BTreeMap::new();
        for _ in 0..10_000 {
            let at = renew_at(&leaf, &RenewalPolicy::default(), rng.random_range(0.0..1.0)).unwrap();
            *minutes.entry((at - START).whole_minutes()).or_insert(0) += 1;
        }
        let (first, last) = (*minutes.keys().next().unwrap(), *minutes.keys().last().unwrap());
        assert_eq!(first, 4 * 24 * 60);
        assert!(last - first <= 2 * 24 * 6 && last - first > 280, "a tenth of two days: {}", last - first);
        let mean = 10_000.0 / f64::from(i32::try_from(last - first + 1).unwrap());
        let peak = *minutes.values().max().unwrap();
        assert!(f64::from(peak) <= 2.0 * mean, "peak {peak}, mean {mean}");
    }

    #[test]
    fn a_suggestion_is_followed_within_bounds() {
        let leaf = leaf(10);
        let (earliest, latest) = renewal_bounds(&leaf, leaf.not_before, None);
        assert!(earliest < leaf.not_before, "renew now, it says: so we do");
        assert_eq!(latest, leaf.not_before + DAYS * 9);
        let (earliest, _) = renewal_bounds(&leaf, leaf.not_before, Some(leaf.not_before - time::Duration::MINUTE));
        assert_eq!(earliest, leaf.not_before + DAYS, "but not again and again");
        let (earliest, _) = renewal_bounds(&leaf, leaf.not_before, Some(leaf.not_before - DAYS * 5));
        assert!(earliest < leaf.not_before);
    }

    #[test]
    fn windows_that_cannot_be_meant_are_ignored() {
        assert!(matches!(advise(&window(20, 10), None, START), Advice::Ignore(_)), "inverted");
        assert!(matches!(advise(&window(10, 10), None, START), Advice::Ignore(_)), "empty");
        assert!(matches!(advise(&window(-18_250, 18_250), None, START), Advice::Ignore(_)), "a hundred years long");
        assert!(matches!(advise(&window(85, 100), None, START), Advice::Ignore(_)), "when it is too late");
    }

    #[test]
    fn a_window_that_has_passed_means_now() {
        let now = START + DAYS * 30;
        let Advice::Follow(hint) = advise(&window(10, 12), None, now) else { panic!("ignored") };
        assert_eq!(hint.chosen, now);
        let Advice::Follow(again) = advise(&window(10, 12), Some(&hint), now + DAYS) else { panic!("ignored") };
        assert_eq!(again.chosen, now, "and stays so");
    }

    #[test]
    fn retry_after_has_bounds() {
        let ask = |seconds| hint_interval(Some(Duration::from_secs(seconds)), Jitter::NONE);
        assert_eq!(ask(0), Duration::from_secs(60));
        assert_eq!(ask(1_000_000_000_000), DAY);
        assert_eq!(ask(7200), 2 * HOUR);
        assert_eq!(hint_interval(None, Jitter::NONE), 6 * HOUR);
    }

    #[test]
    fn the_ladder_never_steps_over_the_last_call() {
        let end = START + DAYS * 90;
        let bound = |wait, now| bound_retry(wait, None, START, end, now);
        assert_eq!(bound(DAY, START + DAYS * 60), DAY);
        assert_eq!(bound(DAY, end - DAYS - time::Duration::HOUR), HOUR, "a try at the last call");
        assert_eq!(bound(DAY, end - DAYS), HOUR, "and every hour from then on");
        assert_eq!(bound(Duration::from_secs(60), end - DAYS), Duration::from_secs(60));
        assert_eq!(bound(DAY, end + DAYS), HOUR);
        let asked = Some(3 * HOUR);
        assert_eq!(bound_retry(DAY, asked, START, end, end - DAYS), 3 * HOUR, "never before the CA allows it");
        assert_eq!(last_call(START, START + DAYS), START + time::Duration::hours(18));
    }

    #[test]
    fn the_net_is_closer_near_the_end() {
        assert_eq!(look_again(START, None), START + DAY);
        assert_eq!(look_again(START, Some(START + DAYS * 30)), START + DAY);
        assert_eq!(look_again(START, Some(START + DAYS)), START + 6 * HOUR);
        assert_eq!(look_again(START, Some(START - DAYS)), START + HOUR);
    }

    proptest! {
        #[test]
        fn the_instant_lies_in_the_window_and_is_drawn_once(start in 1_i32..60, length in 1_i32..20) {
            let window = window(start, start + length);
            let Advice::Follow(hint) = advise(&window, None, START) else { panic!("ignored") };
            prop_assert!(hint.chosen >= window.start && hint.chosen <= window.end);
            let Advice::Follow(again) = advise(&window, Some(&hint), START + DAYS * 70) else { panic!("ignored") };
            prop_assert_eq!(again.chosen, hint.chosen);
        }

        #[test]
        fn the_jitter_stays_in_its_tenth(days in 1_i64..4000, fraction in -1.0_f64..2.0, draw in -1.0_f64..2.0) {
            let leaf = leaf(days);
            let policy = RenewalPolicy { at_fraction: fraction, ..RenewalPolicy::default() };
            let from = renew_at(&leaf, &policy, 0.0).unwrap();
            let at = renew_at(&leaf, &policy, draw).unwrap();
            prop_assert!(from >= leaf.not_before && at >= from && at < leaf.not_after);
            prop_assert!(at - from <= (leaf.not_after - from) / 10 + time::Duration::SECOND);
        }

        #[test]
        fn a_backlog_is_spread_within_bounds(backlog in 0_u64..10_000_000, left in 0_u64..10_000_000, draw in 0.0_f64..1.0) {
            let (backlog, left) = (Duration::from_secs(backlog), Duration::from_secs(left));
            let delay = release_delay(backlog, Some(left), draw);
            prop_assert!(delay <= 4 * backlog && delay <= HOUR && delay <= left / 10);
        }

        #[test]
        fn a_retry_is_never_later_than_both_the_ladder_and_the_last_call(
            wait in 0_u64..700_000, lead in -100_000_i64..3_000_000, life in 3_600_i64..40_000_000,
        ) {
            let end = START + time::Duration::seconds(life);
            let now = end - time::Duration::seconds(lead.min(life));
            let wait = Duration::from_secs(wait);
            let bounded = bound_retry(wait, None, START, end, now);
            prop_assert!(bounded <= wait);
            let call = last_call(START, end);
            prop_assert!(now + bounded <= call || now >= call && bounded <= HOUR);
        }
    }
}

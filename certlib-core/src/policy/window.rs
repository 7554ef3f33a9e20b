//! When a target may be touched.

use time::{Duration, OffsetDateTime, UtcOffset, Weekday};

use crate::error::{Error, Result};
use crate::model::MaintenanceWindow;

const DAY: u16 = 24 * 60;

/// Fails unless `window` opens now and then, and its times exist.
///
/// # Errors
/// `Validation` `window_invalid`.
pub fn check_window(window: &MaintenanceWindow) -> Result<()> {
    let fine = window.from_minute < DAY
        && (1..=DAY).contains(&window.minutes)
        && window.utc_offset_minutes.unsigned_abs() < DAY
        && (1..=7).contains(&window.days.len())
        && window.days.iter().all(|day| day_of(*day).is_some());
    if fine {
        return Ok(());
    }
    let rule =
        "a window has days from 1 (Monday) to 7, begins at minute 0 to 1439 of the day, and lasts 1 to 1440 minutes";
    Err(Error::validation("target.window", "window_invalid", rule))
}

/// How long until `window` is open: nothing while it is.
pub fn opens_in(window: &MaintenanceWindow, now: OffsetDateTime) -> Duration {
    let offset = UtcOffset::from_whole_seconds(i32::from(window.utc_offset_minutes) * 60).unwrap_or(UtcOffset::UTC);
    let local = now.to_offset(offset);
    let midnight = local.replace_time(time::Time::MIDNIGHT);
    // One that began yesterday may still be open; the next one begins within a week.
    (-1..=7)
        .filter_map(|day| {
            let begins = midnight + Duration::days(day) + Duration::minutes(window.from_minute.into());
            let wanted = window.days.iter().any(|number| day_of(*number) == Some(begins.weekday()));
            let ends = begins + Duration::minutes(window.minutes.into());
            (wanted && ends > local).then(|| (begins - local).max(Duration::ZERO))
        })
        .min()
        .unwrap_or(Duration::ZERO)
}

fn day_of(number: u8) -> Option<Weekday> {
    (1..=7).contains(&number).then(|| Weekday::Monday.nth_next(number - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn window(days: &[u8], from_minute: u16, minutes: u16, utc_offset_minutes: i16) -> MaintenanceWindow {
        MaintenanceWindow { days: days.to_vec(), from_minute, minutes, utc_offset_minutes }
    }

    #[test]
    fn nights_over_midnight_and_other_zones() {
        // Saturday 22:00 to Sunday 04:00, in a zone two hours ahead.
        let night = window(&[6], 22 * 60, 6 * 60, 120);
        check_window(&night).unwrap();
        let table = [
            (datetime!(2027-01-02 19:59 UTC), Duration::MINUTE),
            (datetime!(2027-01-02 20:00 UTC), Duration::ZERO),
            (datetime!(2027-01-03 01:59:59 UTC), Duration::ZERO),
            (datetime!(2027-01-03 02:00 UTC), Duration::WEEK - Duration::hours(6)),
        ];
        for (now, wait) in table {
            assert_eq!(opens_in(&night, now), wait, "{now}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            window(&[], 0, 60, 0),
            window(&[0], 0, 60, 0),
            window(&[8], 0, 60, 0),
            window(&[1], DAY, 60, 0),
            window(&[1], 0, 0, 0),
            window(&[1], 0, DAY + 1, 0),
            window(&[1], 0, 60, 1440),
        ] {
            assert_eq!(check_window(&bad).unwrap_err().code(), "window_invalid", "{bad:?}");
        }
    }

    proptest! {
        /// Minute by minute, without the arithmetic.
        #[test]
        fn it_opens_when_a_clock_on_the_wall_says_so(
            days in proptest::collection::btree_set(1_u8..=7, 1..4),
            from in 0_u16..DAY,
            minutes in 1_u16..=DAY,
            offset in -720_i16..=720,
            start in 0_i64..2_000_000,
        ) {
            let window = window(&days.into_iter().collect::<Vec<_>>(), from, minutes, offset);
            let now = datetime!(2027-01-01 00:00 UTC) + Duration::minutes(start);
            let open = |at: OffsetDateTime| {
                (0..i64::from(window.minutes)).any(|ago| {
                    let began = at + Duration::minutes(offset.into()) - Duration::minutes(ago);
                    u16::from(began.hour()) * 60 + u16::from(began.minute()) == from
                        && window.days.contains(&began.weekday().number_from_monday())
                })
            };
            let wait = opens_in(&window, now);
            prop_assert!(open(now + wait), "{wait}");
            prop_assert!(wait.is_zero() || !open(now + wait - Duration::MINUTE));
            prop_assert_eq!(wait.is_zero(), open(now));
        }
    }
}

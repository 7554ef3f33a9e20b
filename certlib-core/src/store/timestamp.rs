//! For stores: times as databases keep them, in whole Unix milliseconds.

use std::time::Duration;

use time::OffsetDateTime;

use crate::error::{Error, Result};

/// The last millisecond of the calendar.
pub const LAST: i64 = 253_402_300_799_999;

/// `at`, rounded down to the millisecond.
pub fn floor(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_millisecond(at.millisecond()).unwrap_or(at)
}

/// `at` in Unix milliseconds, rounded up: nothing is due before its time.
pub fn to_millis(at: OffsetDateTime) -> i64 {
    let nanos = at.unix_timestamp_nanos();
    let millis = nanos.div_euclid(1_000_000) + i128::from(nanos.rem_euclid(1_000_000) != 0);
    i64::try_from(millis).map_or(LAST, |millis| millis.min(LAST))
}

/// The time at `millis` Unix milliseconds.
///
/// # Errors
/// `IoPermanent` `row_unreadable` when the calendar has no such time.
pub fn from_millis(millis: i64) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).map_err(|error| {
        Error::permanent("store.decode", "row_unreadable", "what the database holds cannot be read by this version")
            .with("value", "time")
            .with_source(error)
    })
}

/// What is left from `now` until `until`, both in Unix milliseconds.
pub fn remaining(now: i64, until: i64) -> Duration {
    Duration::from_millis(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn due_times_round_up_and_now_rounds_down() {
        let at = datetime!(2027-01-01 00:00:00.0015 UTC);
        assert_eq!(floor(at), datetime!(2027-01-01 00:00:00.001 UTC));
        assert_eq!(from_millis(to_millis(at)).unwrap(), datetime!(2027-01-01 00:00:00.002 UTC));
        assert_eq!(to_millis(datetime!(1969-12-31 23:59:59.9995 UTC)), 0);
    }

    #[test]
    fn the_ends_of_the_calendar_survive() {
        for at in [datetime!(-9999-01-01 00:00 UTC), datetime!(9999-12-31 23:59:59.999 UTC)] {
            assert_eq!(from_millis(to_millis(at)).unwrap(), at);
        }
        let last = OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::MAX);
        assert_eq!(to_millis(last), LAST);
        assert_eq!(from_millis(LAST).unwrap(), floor(last));
        assert!(from_millis(i64::MAX).is_err());
    }
}

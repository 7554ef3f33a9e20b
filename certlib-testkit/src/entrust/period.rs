//! Lifetimes, as ISO 8601 writes them.

use time::{Date, Duration, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// A duration such as `P90D`, `P1Y` or `PT129600M`. A year has 365 days and a month 30.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('P')?;
    let (days, clock) = text.split_once('T').unwrap_or((text, ""));
    let total = sum(days, |unit| match unit {
        'Y' => Some(365 * 86_400),
        'M' => Some(30 * 86_400),
        'W' => Some(7 * 86_400),
        'D' => Some(86_400),
        _ => None,
    })?
    .checked_add(sum(clock, |unit| match unit {
        'H' => Some(3_600),
        'M' => Some(60),
        'S' => Some(1),
        _ => None,
    })?)?;
    (total > 0).then(|| Duration::seconds(total))
}

fn sum(text: &str, seconds: impl Fn(char) -> Option<i64>) -> Option<i64> {
    let (mut total, mut number) = (0_i64, String::new());
    for character in text.chars() {
        if character.is_ascii_digit() {
            number.push(character);
        } else {
            let many: i64 = number.parse().ok()?;
            total = total.checked_add(many.checked_mul(seconds(character)?)?)?;
            number.clear();
        }
    }
    number.is_empty().then_some(total)
}

/// A moment such as `2026-06-01` (its end) or `2026-06-01T12:00:00Z`.
pub(super) fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
        Some(date.midnight().assume_utc() + Duration::seconds(86_399))
    })
}

/// A moment in whole seconds, such as `2026-06-01T12:00:00Z`.
pub(super) fn shown(moment: OffsetDateTime) -> String {
    moment.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn durations() {
        let day = Duration::days(1);
        for (text, expected) in [
            ("P90D", Some(90 * day)),
            ("P1Y", Some(365 * day)),
            ("PT129600M", Some(90 * day)),
            ("P1M2DT3H", Some(32 * day + Duration::hours(3))),
            ("P", None),
            ("90D", None),
            ("P90", None),
            ("P90X", None),
            ("P99999999999999999999D", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("2026-06-01"), Some(datetime!(2026-06-01 23:59:59 UTC)));
        assert_eq!(moment("2026-06-01T12:00:00.00Z"), Some(datetime!(2026-06-01 12:00 UTC)));
        assert_eq!(moment("soon"), None);
        assert_eq!(shown(datetime!(2026-06-01 12:00:00.5 UTC)), "2026-06-01T12:00:00Z");
    }
}

//! Numbers, durations and dates for people.

use std::time::{SystemTime, UNIX_EPOCH};

/// A number with at most this many significant digits: `0.0312`, `2e-5`, `12.5k`.
pub(crate) fn compact(value: f64, digits: usize) -> String {
    let size = value.abs();
    if size > 0.0 && size < 1e-2 {
        let text = format!("{value:.*e}", digits.saturating_sub(1));
        return match text.split_once('e') {
            Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa)),
            None => text,
        };
    }
    let (scaled, suffix) = match size {
        size if size >= 1e12 => (value / 1e12, "T"),
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let whole = if scaled == 0.0 { 1 } else { scaled.abs().log10().floor() as i64 + 1 };
    let decimals = usize::try_from(digits as i64 - whole).unwrap_or(0);
    format!("{}{suffix}", trimmed(&format!("{scaled:.decimals$}")))
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// A count for people: `12,345`, or `1.234M` from a million up.
pub(super) fn count(value: u64) -> String {
    if value >= 1_000_000 {
        return compact(value as f64, 4);
    }
    let (thousands, rest) = (value / 1000, value % 1000);
    if thousands > 0 { format!("{thousands},{rest:03}") } else { rest.to_string() }
}

/// `340 ms`, `12.3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 60.0 => format!("{} s", compact(seconds, 3)),
        0..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// `2026-01-31 14:05 UTC`.
pub(super) fn date(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

pub(super) fn date_of(time: SystemTime) -> String {
    date(time.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()))
}

/// The Gregorian date of a day since 1970. Years are counted from March, so that leap days end them.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.min(1 << 40) + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (civil_month, civil_day) = (if month < 10 { month + 3 } else { month - 9 }, day - (153 * month + 2) / 5 + 1);
    (era * 400 + year + u64::from(civil_month <= 2), civil_month, civil_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases = [(0.0, "0"), (0.03128, "0.0313"), (2e-5, "2e-5"), (-1.5, "-1.5"), (12_500.0, "12.5k"), (3e6, "3M")];
        cases.iter().for_each(|(value, text)| assert_eq!(compact(*value, 3), *text));
        assert_eq!([count(7), count(12_045), count(1_234_567)], ["7", "12,045", "1.235M"]);
        let times = [0.34, 12.34, 250.0, 7500.0, 273_600.0].map(duration);
        assert_eq!(times, ["340 ms", "12.3 s", "4 min 10 s", "2 h 5 min", "3 d 4 h"]);
    }

    #[test]
    fn dates() {
        assert_eq!(date(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400.0), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_735_689_599.0), "2024-12-31 23:59 UTC");
    }
}

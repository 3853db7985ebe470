//! Human durations and sizes: `"30s"`, `"1h30m"`, `"64MB"`.
//!
//! Knows nothing of keys or files. Invariants: no input panics or overflows, and what is read is at
//! most [`LONGEST`], so adding it to a clock cannot overflow.

use std::time::Duration;

/// The longest duration a setting may have: ten years.
pub const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// What a duration may look like, for error messages.
pub(crate) const DURATION_FORM: &str =
    "a duration such as \"30s\", \"200ms\" or \"1h30m\" (a plain number is seconds), at most 3650d";

/// What a size may look like, for error messages.
pub(crate) const SIZE_FORM: &str =
    "a size such as \"64MB\" (kB, MB, GB, TB; 1 kB = 1024 bytes; a plain number is bytes)";

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Reads a duration: numbers, each with a unit (`us`, `ms`, `s`, `m`/`min`, `h`, `d`), added up; or
/// one number without a unit, which is seconds as in PgBouncer. Numbers may have a fraction.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut nanos = 0_u128;
    let mut first = true;
    while first || !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = match unit {
            "" if first && after.is_empty() => NANOS_PER_SECOND,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" => NANOS_PER_SECOND,
            "m" | "min" => 60 * NANOS_PER_SECOND,
            "h" => 3_600 * NANOS_PER_SECOND,
            "d" => 86_400 * NANOS_PER_SECOND,
            _ => return None,
        };
        nanos = nanos.checked_add(number.scaled(scale)?)?;
        rest = after.trim_start();
        first = false;
    }
    let duration = Duration::from_nanos(u64::try_from(nanos).ok()?);
    (duration <= LONGEST).then_some(duration)
}

/// Reads a size in bytes: a number with `B`, `kB`, `MB`, `GB`, `TB` (or `KiB` …), in any case.
/// Multiples are of 1024, as in PostgreSQL.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1_u128 << 40,
        _ => return None,
    };
    u64::try_from(number.scaled(scale)?).ok()
}

/// A duration as PgBouncer shows it: a plain number of seconds, with a fraction only if it has one.
pub fn seconds(duration: Duration) -> String {
    let fraction = duration.subsec_nanos();
    if fraction == 0 {
        return duration.as_secs().to_string();
    }
    let digits = format!("{fraction:09}");
    format!("{}.{}", duration.as_secs(), digits.trim_end_matches('0'))
}

/// A decimal number: `digits` × 10^-`places`.
struct Decimal {
    digits: u64,
    places: u32,
}

impl Decimal {
    /// The number × `scale`, cut to a whole number.
    fn scaled(&self, scale: u128) -> Option<u128> {
        Some(u128::from(self.digits).checked_mul(scale)? / 10_u128.checked_pow(self.places)?)
    }
}

fn split_number(text: &str) -> Option<(Decimal, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (fraction.is_empty() && number.contains('.')) {
        return None;
    }
    let decimal = Decimal {
        digits: format!("{whole}{fraction}").parse().ok()?,
        places: u32::try_from(fraction.len()).ok()?,
    };
    Some((decimal, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let cases = [
            ("30s", 30_000_000),
            ("200ms", 200_000),
            ("1h30m", 5_400_000_000),
            ("1h 30min", 5_400_000_000),
            ("1.5s", 1_500_000),
            ("0.25", 250_000),
            ("15", 15_000_000),
            ("2d", 172_800_000_000),
            ("750us", 750),
            ("0", 0),
        ];
        for (text, micros) in cases {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_micros(micros)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let wrong = [
            "",
            "s",
            "1x",
            "1h30",
            "-1s",
            "1..5s",
            "1.s",
            ".5s",
            "1e9",
            "soon",
            "99999999999999999999",
            "3651d",
            "18446744073709551615d",
            "1S",
        ];
        for text in wrong {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("64MB"), Some(64 << 20));
        assert_eq!(parse_size("8 kB"), Some(8192));
        assert_eq!(parse_size("1.5GiB"), Some(3 << 29));
        assert_eq!(parse_size("512"), Some(512));
        for text in [
            "",
            "MB",
            "1XB",
            "-1",
            "99999999999TB",
            "18446744073709551615TB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn seconds_are_shown_as_pgbouncer_does() {
        assert_eq!(seconds(Duration::from_secs(120)), "120");
        assert_eq!(seconds(Duration::from_millis(200)), "0.2");
        assert_eq!(seconds(Duration::ZERO), "0");
    }
}

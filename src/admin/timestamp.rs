//! Times as the console shows them: `2026-07-31 09:30:00 UTC`.
//!
//! PgBouncer shows local time with the zone's abbreviation. Ours is UTC: it cannot be misread, it does
//! not repeat an hour in autumn, and collectors that cut at the second space read the same.

const SECONDS_OF_DAY: u64 = 86_400;

/// A moment in seconds since 1970.
pub(super) fn show(unix: u64) -> String {
    let (year, month, day) = date(unix / SECONDS_OF_DAY);
    let seconds = unix % SECONDS_OF_DAY;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The Gregorian date of a day since 1970-01-01. Years are taken to begin in March, so that the leap
/// day is the last of its year, in cycles of 400 years (146,097 days).
fn date(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / CYCLE, days % CYCLE);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524
        - day_of_cycle / (CYCLE - 1))
        / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // March to January have 153 days in each five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = match month_from_march {
        0..10 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    (cycle * 400 + year_of_cycle + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::show;

    #[test]
    fn dates_across_leap_years_and_centuries() {
        // Checked against `date -u -d @N`.
        for (unix, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00:00 UTC"),
            (1_785_490_245, "2026-07-31 09:30:45 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(show(unix), shown);
        }
    }
}

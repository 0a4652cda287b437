//! Moments and spans of time as Kafka's tools take them, and as this command does elsewhere.

use std::time::{Duration, UNIX_EPOCH};

/// `YYYY-MM-DDThh:mm:ss[.sss]`, with `Z`, `±hh:mm`, `±hhmm` or nothing (UTC) behind it; in milliseconds since the epoch.
pub fn moment(text: &str) -> Result<i64, String> {
    const EXPECTED: &str =
        "expected YYYY-MM-DDThh:mm:ss, such as 2026-01-31T08:00:00 or 2026-01-31T08:00:00+01:00";
    let (local, offset_ms) = match text.char_indices().skip(11).find(|(_, sign)| "+-".contains(*sign)) {
        None => (text, 0),
        Some((at, sign)) => {
            let digits: String = text[at + 1..].chars().filter(|digit| *digit != ':').collect();
            let number = |range| digits.get(range).and_then(|part: &str| part.parse::<i64>().ok());
            let (hours, minutes) = number(0..2).zip(number(2..4)).ok_or(EXPECTED)?;
            if digits.len() != 4 || hours > 18 || minutes > 59 {
                return Err(EXPECTED.to_owned());
            }
            let offset_ms = (hours * 60 + minutes) * 60_000;
            (&text[..at], if sign == '+' { offset_ms } else { -offset_ms })
        }
    };
    let utc = humantime::parse_rfc3339_weak(local).map_err(|error| format!("{error}; {EXPECTED}"))?;
    let since = utc.duration_since(UNIX_EPOCH).map_err(|_| "it is before 1970".to_owned())?;
    Ok(since.as_millis() as i64 - offset_ms)
}

/// `90m` or `7d`, or in ISO 8601 `PT90M` or `P7D`.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a span of time; expected one such as 90m, 7d or PT1H30M");
    let Some(iso) = text.strip_prefix('P') else {
        return humantime::parse_duration(text)
            .map_err(|error| format!("{error}; such as 90m, 7d or PT1H30M"));
    };
    let (days, times) = iso.split_once('T').map_or((iso, None), |(days, times)| (days, Some(times)));
    if iso.is_empty() || times == Some("") {
        return Err(wrong());
    }
    let days = units(days, &[('D', 86_400)]).ok_or_else(wrong)?;
    let times = units(times.unwrap_or(""), &[('H', 3_600), ('M', 60), ('S', 1)]).ok_or_else(wrong)?;
    Ok(Duration::from_secs(days.checked_add(times).ok_or_else(wrong)?))
}

/// Numbers with their units, each at most once and in this order; in seconds.
fn units(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut total = 0u64;
    for (unit, seconds) in units {
        if let Some((number, rest)) = text.split_once(*unit) {
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*seconds)?)?;
            text = rest;
        }
    }
    text.is_empty().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let day = 20_484 * 86_400_000;
        for (text, millis) in [
            ("2026-01-31T00:00:00", day),
            ("2026-01-31T00:00:01.250", day + 1_250),
            ("2026-01-31T00:00:00Z", day),
            ("2026-01-31T01:00:00+01:00", day),
            ("2026-01-30T22:30:00.000-0130", day),
        ] {
            assert_eq!(moment(text), Ok(millis), "{text}");
        }
        for wrong in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31T00:00:00+1",
            "2026-01-31T00:00:00+99:00",
            "1950-01-01T00:00:00",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans() {
        for (text, seconds) in [
            ("90m", 5_400),
            ("7d", 604_800),
            ("PT1H30M", 5_400),
            ("P7D", 604_800),
            ("P1DT1S", 86_401),
            ("PT0S", 0),
        ] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "P", "PT", "P1", "PT1D", "P1H", "PT1M1H", "PT-1H", "soon", "P99999999999999999999D"]
        {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}

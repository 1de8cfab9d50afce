//! Sizes and durations as people write them: `2GiB`, `1m30s`.
//!
//! Reading a clock is not done here.

use std::time::Duration;

/// Reads a size such as `4GiB`, `512 MiB`, `4G` or `1024`; units are powers of 1024, a bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        other => return Err(format!("`{other}` is not a unit of size (known: B, KiB, MiB, GiB, TiB)")),
    };
    let bad = || format!("`{text}` is not a size; write it like `2GiB`");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"));
    }
    let value: f64 = number.parse().map_err(|_| bad())?;
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a unit needs no exact bytes")]
    let bytes = value * factor as f64;
    if !bytes.is_finite() || bytes >= 1e18 {
        return Err(format!("`{text}` is too large"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range above")]
    Ok(bytes as u64)
}

/// Writes bytes with the largest unit that leaves a short number: `2GiB`, `1.5GiB`, `800MiB`.
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor {
            let (whole, rest) = (bytes / factor, bytes % factor);
            let tenth = rest * 10 / factor;
            return if tenth == 0 { format!("{whole}{unit}") } else { format!("{whole}.{tenth}{unit}") };
        }
    }
    format!("{bytes}B")
}

/// Reads a duration such as `90s`, `1m30s`, `5m` or `500ms`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is not a duration; write it like `90s` or `1m30s`"))
}

/// Writes a duration for people: `0.4s`, `12.3s`, `2m05s`, `1h02m`.
pub fn show_duration(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0..=59_949 => format!("{}.{}s", (ms + 50) / 1000, (ms + 50) % 1000 / 100),
        _ if time.as_secs() < 3600 => format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60),
        _ => format!("{}h{:02}m", time.as_secs() / 3600, time.as_secs() % 3600 / 60),
    }
}

/// Returns how many artifacts there are and how large they are: `2 artifacts, 6B`.
pub fn show_artifacts(files: u64, bytes: u64) -> String {
    let files = show_count(usize::try_from(files).unwrap_or(usize::MAX), "artifact");
    format!("{files}, {}", show_size(bytes))
}

/// Returns a number with its noun in the right form: `1 case`, `2 cases`.
pub fn show_count(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("4g", 4 << 30), ("1.5KiB", 1536), ("7", 7), ("1T", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "2 parsecs", "99999999999999TiB", "1.x"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!([2 << 30, 1536, 9, 1 << 20].map(show_size), ["2GiB", "1.5KiB", "9B", "1MiB"]);
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert!(parse_duration("soon").is_err());
        let shown = [40, 400, 59_940, 59_960, 125_000, 3_725_000].map(|ms| show_duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["0.0s", "0.4s", "59.9s", "0m59s", "2m05s", "1h02m"]);
    }
}

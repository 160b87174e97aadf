//! Durations, sizes and rates as people write them, to and from whole numbers, without floats.

use crate::diagnostic::Mistake;
use hale_core::time::Span;

/// The longest duration that can be written: no wait of a supervisor is meant to outlast a year, and a
/// thousandfold of it still fits into the core's microseconds.
pub(crate) const DURATION_MAX: Span = Span::from_secs(365 * 86_400);

/// Microseconds, longest first.
const TIMES: [(&str, u128); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Bytes. `KiB` is 1,024 (IEC 80000-13), `kB` is 1,000 (SI).
const SIZES: [(&str, u128); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// `500ms`, `1.5s`, `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Span, Mistake> {
    let help = "write a number and a unit of d, h, m, s, ms, us: \"500ms\", \"2s\", \"1m 30s\", \"7d\"";
    let parts = quantities(text, &TIMES).map_err(|why| Mistake::new(format!("is not a duration: {why}"), help))?;
    if !parts.is_sorted_by(|a, b| a.unit > b.unit) {
        return Err(Mistake::new("is not a duration: larger units come first, each once", help));
    }
    let total = parts.iter().try_fold(0_u128, |sum, part| sum.checked_add(part.amount));
    match total.and_then(|us| u64::try_from(us).ok()).map(Span::from_us) {
        Some(span) if span <= DURATION_MAX => Ok(span),
        Some(_) | None => Err(Mistake::plain("is too long: at most 365d")),
    }
}

/// `64MiB`, `10MB`, `4096B`: bytes.
pub(crate) fn size(text: &str) -> Result<u64, Mistake> {
    let help = "write a number and a unit of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB: \"64MiB\"";
    match quantities(text, &SIZES).as_deref() {
        Ok([one]) => u64::try_from(one.amount).map_err(|_| Mistake::plain("is too large")),
        Ok(_) => Err(Mistake::new("is not a size: it takes one number with one unit", help)),
        Err(why) => Err(Mistake::new(format!("is not a size: {why}"), help)),
    }
}

/// `16MiB/s`: bytes per second.
pub(crate) fn rate(text: &str) -> Result<u64, Mistake> {
    match text.trim().strip_suffix("/s") {
        Some(amount) => size(amount),
        None => Err(Mistake::new("is not a rate: it does not end in \"/s\"", "write a size per second: \"16MiB/s\"")),
    }
}

/// The shortest text that [`duration`] reads as `span`.
pub(crate) fn duration_text(span: Span) -> String {
    let mut rest = u128::from(span.as_us());
    let mut text = String::new();
    for (unit, us) in TIMES {
        if rest >= us {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&format!("{}{unit}", rest / us));
            rest %= us;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The text of a whole number of the largest binary unit that [`size`] reads as `bytes`.
pub(crate) fn size_text(bytes: u64) -> String {
    let bytes = u128::from(bytes);
    let unit = SIZES[..4].iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    let (name, unit) = unit.copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / unit)
}

/// One number with its unit.
struct Quantity {
    /// In the smallest unit.
    amount: u128,
    unit: u128,
}

/// Reads one or more numbers with units.
fn quantities(text: &str, units: &[(&str, u128)]) -> Result<Vec<Quantity>, String> {
    let mut rest = text.trim();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (name, after) = split(after.trim_start(), |c| c.is_alphabetic() || c == 'µ');
        if number.is_empty() {
            return Err(format!("{rest:?} does not start with a number"));
        }
        if name.is_empty() {
            return Err(format!("{number:?} has no unit"));
        }
        let unit = units.iter().find(|(known, _)| *known == name).ok_or(format!("{name:?} is not a unit"))?.1;
        all.push(Quantity { amount: exact(number, unit)?, unit });
        rest = after.trim_start();
    }
    if all.is_empty() { Err("it is empty".to_owned()) } else { Ok(all) }
}

/// `number` times `unit`, exactly.
fn exact(number: &str, unit: u128) -> Result<u128, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(format!("{number:?} is not a number"));
    }
    let too_large = || format!("{number} is too large");
    let digits = fraction.trim_end_matches('0');
    let scale =
        u32::try_from(digits.len()).ok().and_then(|places| 10_u128.checked_pow(places)).ok_or_else(too_large)?;
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let product = |digits: &str| parse(digits).and_then(|number| number.checked_mul(unit)).ok_or_else(too_large);
    let small = product(digits)?;
    if !small.is_multiple_of(scale) {
        return Err(format!("{number} is finer than the smallest unit"));
    }
    product(whole)?.checked_add(small / scale).ok_or_else(too_large)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact() {
        let cases = [
            ("0s", 0),
            ("500ms", 500_000),
            ("1.5s", 1_500_000),
            ("0.1s", 100_000),
            ("1m 30s", 90_000_000),
            ("1m30s", 90_000_000),
            (" 2 s ", 2_000_000),
            ("0.000001s", 1),
            ("365d", DURATION_MAX.as_us()),
        ];
        for (text, us) in cases {
            assert_eq!(duration(text), Ok(Span::from_us(us)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        let cases = [
            "",
            "5",
            "s",
            "-1s",
            "1x",
            "1sec",
            "1..5s",
            ".5s",
            "5.s",
            "30s 1m",
            "1s 1s",
            "0.0000001s",
            "366d",
            "99999999999999999999999999999999999999d",
            "0.00000000000000000000000000000000000000001d",
            "1e3s",
            "1s,",
        ];
        for text in cases {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_rates_are_bytes() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert_eq!(size("4096B"), Ok(4_096));
        assert_eq!(rate("16MiB/s"), Ok(16 << 20));
        for text in ["64", "64M", "0.5B", "1GiB 1MiB", "99999999TiB", ""] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(rate("16MiB").is_err());
    }

    #[test]
    fn written_values_read_back() {
        for us in [0, 1, 999, 1_000, 90_000_000, 604_800_000_000, 86_399_999_999] {
            assert_eq!(duration(&duration_text(Span::from_us(us))), Ok(Span::from_us(us)));
        }
        for bytes in [0, 1, 1_023, 1_024, 1_536, 64 << 20, u64::MAX >> 20 << 20] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
    }
}

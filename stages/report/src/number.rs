//! Numbers as text, the same on every machine. Owns their form only; what is not a number is shown as a dash.

/// Shown for a value that is not known or not finite.
pub const NONE: &str = "–";

/// A count with thousands separated by commas: `12,345`.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `n` things: `1 image`, `2 images`, `3 boxes`.
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A value with a fixed number of decimals; never `-0.0`.
pub fn fixed(x: f64, decimals: usize) -> String {
    if !x.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| b == b'0' || b == b'.') => rest.to_owned(),
        _ => text,
    }
}

/// A fixed value, or a dash when there is none.
pub fn maybe(x: Option<f64>, decimals: usize) -> String {
    x.map_or_else(|| NONE.to_owned(), |x| fixed(x, decimals))
}

/// A fraction 0..=1 as percent with one decimal: `62.5 %`.
pub fn percent(x: f64) -> String {
    if x.is_finite() { format!("{} %", fixed(x * 100.0, 1)) } else { NONE.to_owned() }
}

/// Four significant digits without trailing zeros, with `k` and `M` from ten thousand on: `0.25`, `1500`, `12.5k`.
pub fn short(x: f64) -> String {
    if !x.is_finite() {
        return NONE.to_owned();
    }
    let (x, unit) = match x.abs() {
        a if a >= 1e9 => (x / 1e9, "G"),
        a if a >= 1e6 => (x / 1e6, "M"),
        a if a >= 1e4 => (x / 1e3, "k"),
        _ => (x, ""),
    };
    let magnitude = if x == 0.0 { 0 } else { x.abs().log10().floor() as i32 };
    if magnitude < -5 {
        return format!("{x:.1e}");
    }
    let text = fixed(x, (3 - magnitude).max(0) as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A duration: `0.42 s`, `12.3 s`, `4 min 5 s`, `2 h 3 min`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => NONE.to_owned(),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 99.95 => format!("{s:.1} s"),
        s => {
            let whole = s.round() as u64;
            if whole < 3600 {
                format!("{} min {} s", whole / 60, whole % 60)
            } else {
                format!("{} h {} min", whole / 3600, whole % 3600 / 60)
            }
        }
    }
}

/// A size: `512 B`, `1.4 MB` (powers of ten).
pub fn bytes(n: u64) -> String {
    match n as f64 {
        x if x >= 1e9 => format!("{:.1} GB", x / 1e9),
        x if x >= 1e6 => format!("{:.1} MB", x / 1e6),
        x if x >= 1e3 => format!("{:.1} kB", x / 1e3),
        _ => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 12, 999, 1000, 1234567].map(count), ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "box", "boxes"), "1 box");
        assert_eq!(counted(1200, "box", "boxes"), "1,200 boxes");
    }

    #[test]
    fn no_negative_zero_and_no_nan() {
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(fixed(-1.5, 1), "-1.5");
        assert_eq!(fixed(f64::NAN, 2), NONE);
        assert_eq!(percent(f64::NAN), NONE);
        assert_eq!(short(f64::INFINITY), NONE);
    }

    #[test]
    fn short_numbers() {
        assert_eq!(
            [0.0, 0.25, 1.0, 1500.0, 12_500.0, 2.5e6, -3.0].map(short),
            ["0", "0.25", "1", "1500", "12.5k", "2.5M", "-3"]
        );
        assert_eq!(short(1e-9), "1.0e-9");
    }

    #[test]
    fn durations() {
        assert_eq!([0.42, 12.34, 245.0, 7380.0].map(duration), ["0.42 s", "12.3 s", "4 min 5 s", "2 h 3 min"]);
    }
}

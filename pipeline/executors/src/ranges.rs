//! Ascending numbers as people and engines write them: `1-3,7`.

/// Ascending numbers as `1-3,7`.
pub(crate) fn write(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(a, b): (u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    runs.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// The numbers of `1-3,7`; parts that are no numbers are passed over.
pub(crate) fn read(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.split(',').flat_map(|part| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        match (a.parse::<u32>(), b.parse::<u32>()) {
            (Ok(a), Ok(b)) => a..b.saturating_add(1),
            _ => 0..0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        assert_eq!(write([0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(write([]), "");
        assert_eq!(read("0-2,5,7-8").collect::<Vec<_>>(), [0, 1, 2, 5, 7, 8]);
        assert_eq!(read("17").collect::<Vec<_>>(), [17]);
        assert_eq!(read("N/A").count() + read("").count(), 0);
    }
}

//! Fields of comma-separated tables (RFC 4180). Owns their quoting only; tables are written where their columns are known.

/// A field as it stands in a table: in quotes where a comma, a quote or the end of a line would be misread.
pub fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_misread_is_quoted() {
        assert_eq!(field("ball valve"), "ball valve");
        assert_eq!(field("valve, \"ball\""), "\"valve, \"\"ball\"\"\"");
        assert_eq!(field("a\nb"), "\"a\nb\"");
    }
}

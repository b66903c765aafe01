//! `pipeline licenses`: what is in this program, and under which licence.

use miette::{IntoDiagnostic, Result};
use serde_json::json;

use crate::{
    args::Global,
    exit::Exit,
    terminal::{data, table},
};

/// One crate a line: name, version, licence, repository, and the cargo feature that brings it, with tabs between. Made by
/// `examples/licenses.rs`.
const CRATES: &str = include_str!("../../templates/licenses.tsv");
/// Features that this program was built with; crates without one are always in it.
const BUILT: [(&str, bool); 5] = [
    ("", true),
    ("kubernetes", cfg!(feature = "kubernetes")),
    ("tch", cfg!(feature = "tch")),
    ("burn", cfg!(feature = "burn")),
    ("burn-cuda", cfg!(feature = "burn-cuda")),
];
const OWN: &str = "This program, its symbols, its fonts and its sample drawings were made for this project and are MIT OR Apache-2.0; \
no font, model or picture of others is in it.";

/// All crates: name, version, licence, repository, feature.
fn listed() -> impl Iterator<Item = [&'static str; 5]> {
    CRATES.lines().filter_map(|line| line.split('\t').collect::<Vec<_>>().try_into().ok())
}

/// Those in this program.
fn crates() -> impl Iterator<Item = [&'static str; 4]> {
    let built = |feature| BUILT.contains(&(feature, true));
    listed().filter_map(move |[name, version, license, repository, feature]| {
        built(feature).then_some([name, version, license, repository])
    })
}

/// Lists everything.
pub fn licenses(global: &Global) -> Result<Exit> {
    if global.json {
        let crates: Vec<_> = crates()
            .map(|[name, version, license, repository]| {
                json!({ "name": name, "version": version, "license": license, "repository": repository })
            })
            .collect();
        let doc = json!({ "own": OWN, "crates": crates });
        data(serde_json::to_string_pretty(&doc).into_diagnostic()?);
        return Ok(Exit::Done);
    }
    data(format_args!("{OWN}\n\nCrates of others:\n"));
    let head = vec!["crate".to_owned(), "version".into(), "licence".into(), "source".into()];
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(crates().map(|c| c.iter().map(|&s| s.to_owned()).collect())).collect();
    data(table(&rows));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_covers_the_lock_file() {
        let listed: BTreeSet<String> = listed().map(|[name, version, ..]| format!("{name} {version}")).collect();
        let lock = include_str!("../../../../Cargo.lock");
        let field = |block: &str, key: &str| {
            let line = block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        let foreign = lock.split("[[package]]").filter(|b| b.contains("source = "));
        let missing: Vec<String> = foreign
            .filter_map(|b| Some(format!("{} {}", field(b, "name")?, field(b, "version")?)))
            .filter(|c| !listed.contains(c))
            .collect();
        assert!(missing.is_empty(), "run `cargo run -p pipeline --example licenses`; missing: {missing:?}");
    }

    #[test]
    fn back_ends_that_are_not_compiled_in_are_not_listed() {
        for (name, feature) in [("tch", cfg!(feature = "tch")), ("burn-tensor", cfg!(feature = "burn"))] {
            assert_eq!(crates().any(|c| c[0] == name), feature, "{name}");
        }
        assert!(crates().count() > 200 && listed().count() > crates().count());
    }

    #[test]
    fn nothing_is_copyleft_or_without_licence() {
        for [name, _, license, ..] in listed() {
            let free = license.split([' ', '/', '(', ')']).any(|l| {
                [
                    "MIT",
                    "MIT-0",
                    "Apache-2.0",
                    "BSD-2-Clause",
                    "BSD-3-Clause",
                    "ISC",
                    "Zlib",
                    "Unlicense",
                    "CC0-1.0",
                    "0BSD",
                    "BSL-1.0",
                    "Unicode-3.0",
                    "CDLA-Permissive-2.0",
                ]
                .contains(&l)
            });
            assert!(free, "{name}: {license}");
        }
    }
}

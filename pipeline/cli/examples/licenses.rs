//! Writes `templates/licenses.tsv`, the list behind `pipeline licenses`, from what cargo knows.

use std::{collections::BTreeMap, error::Error, fs, process::Command};

use serde_json::Value;

/// The features of this program, each after those that it includes.
const FEATURES: [&str; 5] = ["", "kubernetes", "tch", "burn", "burn-cuda"];

fn packages(dir: &str, feature: &str) -> Result<Value, Box<dyn Error>> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(dir);
    if !feature.is_empty() {
        command.args(["--features", &format!("pipeline/{feature}")]);
    }
    let out = command.output()?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice::<Value>(&out.stdout)?["packages"].take())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env!("CARGO_MANIFEST_DIR");
    let text = |p: &Value, key: &str| p[key].as_str().unwrap_or_default().trim().to_owned();
    let mut rows = BTreeMap::new();
    for feature in FEATURES {
        let packages = packages(dir, feature)?;
        for p in
            packages.as_array().ok_or("cargo metadata lists no packages")?.iter().filter(|p| !p["source"].is_null())
        {
            let [license, repository] = ["license", "repository"].map(|key| text(p, key));
            let row = || format!("{license}\t{repository}\t{feature}");
            rows.entry((text(p, "name"), text(p, "version"))).or_insert_with(row);
        }
    }
    let lines: String = rows.into_iter().map(|((name, version), row)| format!("{name}\t{version}\t{row}\n")).collect();
    fs::write(format!("{dir}/templates/licenses.tsv"), lines)?;
    Ok(())
}

//! Writes `templates/licenses.tsv`, the list behind `pipeline licenses`, from what cargo knows.

use std::{collections::BTreeSet, error::Error, fs, process::Command};

use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env!("CARGO_MANIFEST_DIR");
    let out =
        Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).current_dir(dir).output()?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
    }
    let metadata: Value = serde_json::from_slice(&out.stdout)?;
    let text = |p: &Value, key: &str| p[key].as_str().unwrap_or_default().trim().to_owned();
    let lines: BTreeSet<String> = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?
        .iter()
        .filter(|p| !p["source"].is_null())
        .map(|p| ["name", "version", "license", "repository"].map(|key| text(p, key)).join("\t") + "\n")
        .collect();
    fs::write(format!("{dir}/templates/licenses.tsv"), lines.into_iter().collect::<String>())?;
    Ok(())
}

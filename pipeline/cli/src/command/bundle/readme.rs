//! What a bundle says to people.

use std::{collections::BTreeMap, fmt::Write as _};

use engine::bundle::{NOTEBOOK, PROGRAM, Pin};

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+=:,/".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// What the words are about.
#[derive(Debug, Default)]
pub struct Words<'a> {
    /// Name of the bundle's file.
    pub file: &'a str,
    /// Version of the program.
    pub version: &'a str,
    /// Inputs with their numbers of files.
    pub inputs: BTreeMap<String, u64>,
    /// Stages whose results are in it.
    pub results: &'a [String],
    /// Stages that are to be run.
    pub to_run: &'a [String],
    /// Models that the work starts from.
    pub models: BTreeMap<String, Pin>,
    /// For which machines the program in it is, in words; none when it carries no program.
    pub built_for: Option<String>,
    /// What goes on with a project.
    pub next: &'a str,
}

impl Words<'_> {
    /// The stages to be run.
    pub fn stages(&self) -> String {
        self.to_run.join(", ")
    }

    /// For which machines the program is.
    pub fn program_for(&self) -> String {
        self.built_for.clone().unwrap_or_else(|| "no machine, since there is none".into())
    }

    /// What does the bundle's work on another machine.
    pub fn commands(&self) -> Vec<String> {
        let file = quoted(self.file);
        let program = if self.built_for.is_some() { format!("./{PROGRAM}") } else { "pipeline".into() };
        let unpack = self.built_for.iter().map(|_| format!("tar -xf {file} {PROGRAM}"));
        unpack.chain([format!("{program} stage exec --bundle {file}")]).collect()
    }

    /// What takes the results in.
    pub fn back(&self) -> Vec<String> {
        vec![format!("pipeline import {}", quoted(&format!("{}.done", self.file))), self.next.to_owned()]
    }

    /// `README.txt`.
    pub fn readme(&self) -> String {
        let lines = |commands: &[String]| format!("\n\n    {}\n\n", commands.join("\n    "));
        let (file, next) = (self.file, self.next);
        let mut text = format!("A bundle of `pipeline` {}.\n\n", self.version);
        let inputs: Vec<String> = self.inputs.iter().map(|(name, files)| format!("{name} ({files})")).collect();
        let results = if self.results.is_empty() { "no stage yet".into() } else { self.results.join(", ") };
        let _ = writeln!(
            text,
            "In it: the project file, the inputs with their files ({}), and the results of: {results}.",
            inputs.join(", ")
        );
        for (name, pin) in &self.models {
            let place = if pin.built_in { "part of the program" } else { "in this bundle" };
            let _ = writeln!(text, "Model {name}: BLAKE3 {}, {place}.", pin.digest);
        }
        text.push('\n');
        if !self.to_run.is_empty() {
            let _ = writeln!(
                text,
                "To run {} on another machine, type there:{}If it is cut off, type the last line again: finished images and \
                 epochs are kept in `{file}.work`, which can be removed afterwards.",
                self.stages(),
                lines(&self.commands())
            );
            let _ = match &self.built_for {
                Some(machine) => writeln!(text, "The program in the bundle is for {machine}.\n"),
                None => {
                    writeln!(text, "There is no program in the bundle; `pipeline` {} must be there.\n", self.version)
                }
            };
            let _ = write!(
                text,
                "In a hosted notebook: unpack the notebook, open it there, put the bundle beside it and run all cells.{}",
                lines(&[format!("tar -xf {} {NOTEBOOK}", quoted(file))])
            );
            let _ =
                write!(text, "Then bring `{file}.done` back and type in the project's folder:{}", lines(&self.back()));
        }
        let _ = write!(
            text,
            "To go on with the whole project on another machine, with `pipeline` installed there:{}",
            lines(&[format!("pipeline import {}", quoted(file)), next.to_owned()])
        );
        text.push_str("Every file in the bundle is checked by its BLAKE3 hash before anything is imported.\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_a_shell_reads_them() {
        assert_eq!(quoted("work-1.tar"), "work-1.tar");
        assert_eq!(quoted("it's here.tar"), r"'it'\''s here.tar'");
        assert_eq!(quoted(""), "''");
        let to_run = ["label".to_owned()];
        let mut words =
            Words { file: "a b.tar", version: "1", to_run: &to_run, next: "pipeline run", ..Words::default() };
        assert_eq!(words.commands(), ["pipeline stage exec --bundle 'a b.tar'"]);
        assert!(words.readme().contains("There is no program in the bundle"));
        words.built_for = Some("Linux on x86_64".into());
        assert_eq!(
            words.commands().join("\n"),
            "tar -xf 'a b.tar' bin/pipeline\n./bin/pipeline stage exec --bundle 'a b.tar'"
        );
        assert!(words.readme().contains("    pipeline import 'a b.tar.done'\n    pipeline run\n"));
        words.to_run = &[];
        assert!(!words.readme().contains("stage exec"), "results only go on with the project");
    }
}

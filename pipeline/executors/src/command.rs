//! Tasks as lines for a POSIX shell.
//!
//! Owns quoting, and what may stand in a batch at all. Refuses to own where a line is run.

use crate::cluster::{Batch, ClusterError};

/// Longest name of a batch, so that every system's own limit holds with a task's number behind it.
const NAME_MAX: usize = 40;

/// One word, such that the shell reads it back unchanged.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path as users write it: a leading `~/` is the home folder of whoever the shell runs as.
pub(crate) fn path(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("\"$HOME\"/{}", quote(rest)),
        None if path == "~" => "\"$HOME\"".to_owned(),
        None => quote(path),
    }
}

/// How a script knows which task it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// The number is known when the script is written.
    Task(u32),
    /// The script has it in its variable `task`.
    Variable,
}

/// Sets the environment, then becomes `prefix program arguments…`. `prefix` is taken as shell words.
pub(crate) fn script(batch: &Batch, which: Which, prefix: &str, program: &str) -> String {
    let mut script = String::new();
    for (name, value) in &batch.environment {
        script.extend(["export ", name, "=", &quote(value), "\n"]);
    }
    let prefix = prefix.trim();
    let space = if prefix.is_empty() { "" } else { " " };
    script.extend(["exec ", prefix, space, &path(program)]);
    for argument in &batch.arguments {
        script.push(' ');
        script += &match which {
            Which::Task(task) => quote(&argument.replace("{task}", &task.to_string())),
            Which::Variable => {
                argument.split("{task}").map(quote_part).collect::<Vec<_>>().join("\"$task\"") + empty(argument)
            }
        };
    }
    script.push('\n');
    script
}

/// Pieces beside a variable may be empty, whole words may not.
fn quote_part(part: &str) -> String {
    if part.is_empty() { String::new() } else { quote(part) }
}

fn empty(argument: &str) -> &'static str {
    if argument.is_empty() { "''" } else { "" }
}

/// Refuses what no shell, or no system's naming, can carry.
pub(crate) fn check(system: &str, batch: &Batch) -> Result<(), ClusterError> {
    let refuse = |message: String, help: &str| {
        Err(ClusterError::Refused { system: system.to_owned(), message, help: help.to_owned() })
    };
    let name = &batch.name;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) || name.starts_with('-') {
        return refuse(
            format!("`{name}` cannot be a batch's name"),
            "use at most 40 letters, digits and `-`, a letter or digit first",
        );
    }
    if !batch.tasks.is_sorted_by(|a, b| a < b) {
        return refuse(format!("the tasks of {name} are not in order"), "give each once, ascending");
    }
    for (variable, value) in &batch.environment {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let digit = variable.starts_with(|c: char| c.is_ascii_digit());
        if variable.is_empty() || digit || !variable.chars().all(fits) {
            return refuse(format!("`{variable}` cannot be a variable's name"), "use letters, digits and `_`");
        }
        if value.contains('\0') {
            return refuse(format!("the variable {variable} contains a zero byte"), "remove it");
        }
    }
    if batch.arguments.iter().any(|a| a.contains('\0')) {
        return refuse("an argument contains a zero byte".to_owned(), "remove it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::Resources;

    fn batch(arguments: Vec<String>, environment: &[(&str, &str)]) -> Batch {
        Batch {
            name: "b".into(),
            tasks: vec![7],
            arguments,
            environment: environment.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
            needs: Resources::default(),
        }
    }

    fn run(script: &str) -> String {
        let out = Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(words in prop::collection::vec("[ -~\n\\PC]{0,12}|\\{task\\}|a\\{task\\}'", 0..4)) {
            let words: Vec<String> = words.into_iter().filter(|w| !w.contains('\0')).collect();
            let mut arguments = vec![r"%s\001".to_owned()];
            arguments.extend(words);
            let batch = batch(arguments, &[]);
            let expected: String = match batch.arguments_of(7)[1..] {
                [] => "\u{1}".into(),
                ref given => given.join("\u{1}") + "\u{1}",
            };
            prop_assert_eq!(run(&script(&batch, Which::Task(7), "", "printf")), expected.clone());
            let with_variable = format!("task=7\n{}", script(&batch, Which::Variable, "", "printf"));
            prop_assert_eq!(run(&with_variable), expected);
        }
    }

    #[test]
    fn environment_prefix_and_home() {
        let batch = batch(vec!["-c".into(), "printf %s \"$A|$0\"".into(), "x".into()], &[("A", "it's $HOME\n\"")]);
        assert_eq!(run(&script(&batch, Which::Task(7), "env B=1", "sh")), "it's $HOME\n\"|x");
        assert_eq!(path("~/a b"), "\"$HOME\"/'a b'");
        assert_eq!(path("/a/b"), "/a/b");
    }

    #[test]
    fn names_that_no_system_takes() {
        let named = |name: &str| check("x", &Batch { name: name.into(), ..batch(vec![], &[]) }).is_ok();
        assert!(named("Label-3f"));
        for bad in ["", "a b", "a/b", "-a", &"a".repeat(41)] {
            assert!(!named(bad), "{bad}");
        }
        assert!(check("x", &batch(vec![], &[("A-B", "")])).is_err());
        assert!(check("x", &batch(vec!["\0".into()], &[])).is_err());
        assert!(check("x", &Batch { tasks: vec![2, 1], ..batch(vec![], &[]) }).is_err());
    }
}

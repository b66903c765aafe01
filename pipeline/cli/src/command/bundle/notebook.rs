//! The notebook in a bundle: does the bundle's work on a hosted machine.
//!
//! Owns the form of the file (nbformat 4.5). The cells are in `templates/notebook.py`, where `# %%` begins a cell.

use serde_json::{Value, json};

use super::readme::Words;

const CELLS: &str = include_str!("../../../templates/notebook.py");
const BEGIN: &str = "# %%";
const MARKDOWN: &str = " [markdown]";

/// The notebook of a bundle.
pub fn notebook(words: &Words<'_>) -> Vec<u8> {
    // A text in JSON is one in Python, too.
    let literal = json!(words.file).to_string();
    let back = json!(words.back().iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")).to_string();
    let fill = |text: &str| {
        // The name of the file comes last, since it may hold anything.
        text.replace("@STAGES@", &words.stages())
            .replace("@BUILT_FOR@", &words.program_for())
            .replace("@BACK@", &back)
            .replace("@FILE_LITERAL@", &literal)
            .replace("@FILE@", words.file)
    };
    let cells: Vec<Value> = (1..).zip(CELLS.split(BEGIN).skip(1)).map(|(n, text)| cell(n, text, fill)).collect();
    let book = json!({
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "accelerator": "GPU",
            "kernelspec": { "display_name": "Python 3", "language": "python", "name": "python3" },
            "language_info": { "name": "python" },
        },
        "cells": cells,
    });
    let mut bytes = serde_json::to_vec_pretty(&book).expect("plain data serialises");
    bytes.push(b'\n');
    bytes
}

fn cell(number: usize, text: &str, fill: impl Fn(&str) -> String) -> Value {
    let id = format!("cell-{number}");
    let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    match text.strip_prefix(MARKDOWN) {
        Some(text) => {
            let plain = |l: &str| l.strip_prefix("# ").or_else(|| l.strip_prefix('#')).unwrap_or(l).to_owned();
            let text = text.trim().lines().map(plain).collect::<Vec<_>>().join("\n");
            json!({ "cell_type": "markdown", "id": id, "metadata": {}, "source": lines(&fill(&text)) })
        }
        None => json!({
            "cell_type": "code", "id": id, "metadata": {}, "execution_count": null, "outputs": [],
            "source": lines(&fill(text.trim())),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_form_of_a_notebook() {
        let file = "a \"{b}\" 'ä'.tar";
        let words = Words { file, ..Words::default() };
        let book: Value = serde_json::from_slice(&notebook(&words)).unwrap();
        assert_eq!((&book["nbformat"], &book["nbformat_minor"]), (&json!(4), &json!(5)));
        let cells = book["cells"].as_array().unwrap();
        assert_eq!(cells.iter().filter(|c| c["cell_type"] == "markdown").count(), 1);
        assert_eq!(cells.iter().filter(|c| c["cell_type"] == "code").count(), 4);
        let ids: std::collections::BTreeSet<&str> = cells.iter().map(|c| c["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), cells.len(), "ids differ");
        let mut all = String::new();
        for cell in cells {
            assert!(cell["metadata"].is_object() && cell["id"].as_str().unwrap().len() <= 64);
            let is_code = cell["cell_type"] == "code";
            assert_eq!((cell["outputs"].is_array(), cell.get("execution_count").is_some()), (is_code, is_code));
            all.extend(cell["source"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()));
        }
        assert!(all.contains("FILE = \"a \\\"{b}\\\" 'ä'.tar\"\n"), "{all}");
        assert!(!all.contains('@'), "{all}");
    }
}

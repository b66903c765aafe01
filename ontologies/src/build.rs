//! From templates (and an ontology file) to an ontology.
//!
//! Owns placing every template in a class and refusing what cannot be right: all problems are told at once, each with
//! the files it is about. Refuses to guess.

use std::collections::BTreeMap;

use crate::ontology::{Class, Exemplar, Ontology};
use crate::palette;
use crate::picture::{self, PictureError};
use crate::rules::{self, PromptStyle, Role};
use crate::yaml::{self, Document, Entry, FileError, nearest};

/// A template file, of any origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Path below the templates folder, with `/` between parts.
    pub path: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Why there is no ontology.
#[derive(Debug, thiserror::Error)]
pub enum OntologyError {
    /// No templates and no classes in an ontology file.
    #[error(
        "no templates: put one picture a symbol into the templates folder, named like its class (`ball_valve.png`); \
         png, jpg, tiff, bmp and webp are read, in sub-folders too"
    )]
    NoTemplates,
    /// The ontology file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Templates that cannot be right.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Templates {
        /// Every problem, in the order of the files.
        problems: Vec<Problem>,
    },
}

/// One thing wrong with templates.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The picture itself.
    #[error("template `{file}`: {source}")]
    Picture {
        /// Path of the template.
        file: String,
        /// What is wrong with it.
        source: PictureError,
    },
    /// A name without letters.
    #[error("template `{file}` has a name without a class; rename it like its symbol, such as `ball_valve.png`")]
    NoName {
        /// Path of the template.
        file: String,
    },
    /// Two files that give one class.
    #[error(
        "templates `{first}` and `{second}` both give the class `{class}`; rename one, or end its name in `__2` when it \
         is another picture of the same symbol"
    )]
    SameClass {
        /// Class name.
        class: String,
        /// Path of the first template.
        first: String,
        /// Path of the second template.
        second: String,
    },
    /// Two classes whose names differ in case only.
    #[error("templates `{first}` and `{second}` give class names that differ in upper and lower case only; use one")]
    SameClassButCase {
        /// Path of the first template.
        first: String,
        /// Path of the second template.
        second: String,
    },
    /// One picture twice.
    #[error(
        "templates `{first}` (class `{first_class}`) and `{second}` (class `{second_class}`) are the same picture; delete one"
    )]
    SamePicture {
        /// Path of the first template.
        first: String,
        /// Its class.
        first_class: String,
        /// Path of the second template.
        second: String,
        /// Its class.
        second_class: String,
    },
    /// A negative of an unknown class.
    #[error("template `{file}` is a negative of `{class}`, and there is no such class{hint}")]
    NegativeOfNothing {
        /// Path of the template.
        file: String,
        /// The class its name gives.
        class: String,
        /// The nearest class, worded.
        hint: String,
    },
    /// Negatives and nothing else.
    #[error(
        "class `{class}` has no template; add one, or write `exemplars: []` in the ontology file to find it by its prompt alone"
    )]
    NoExemplar {
        /// Class name.
        class: String,
    },
}

/// A class while its files are gathered; file numbers index the templates.
struct Draft<'a> {
    name: String,
    entry: Option<&'a Entry>,
    /// `(claimed first, exemplar number, template)`.
    exemplars: Vec<(usize, u32, usize)>,
    negatives: Vec<usize>,
}

/// Builds the ontology from templates and, when given, an ontology file `(name, text)`. Classes of the file come first,
/// in its order; all others follow by name.
pub fn build(
    templates: &[Template],
    file: Option<(&str, &str)>,
    style: PromptStyle,
) -> Result<Ontology, OntologyError> {
    let (name, document) = match file {
        Some((name, text)) => (name, yaml::parse(name, text)?),
        None => ("", Document::default()),
    };
    if templates.is_empty() && document.classes.is_empty() {
        return Err(OntologyError::NoTemplates);
    }
    let mut order: Vec<usize> = (0..templates.len()).collect();
    order.sort_by(|&a, &b| templates[a].path.cmp(&templates[b].path));

    let mut problems = Vec::new();
    let (mut drafts, free) = claim(templates, &order, name, &document)?;
    place(templates, &free, &mut drafts, &mut problems);
    for draft in &mut drafts {
        draft.exemplars.sort_by(|a, b| (a.0, a.1, &templates[a.2].path).cmp(&(b.0, b.1, &templates[b.2].path)));
        if draft.exemplars.is_empty() && draft.entry.is_none_or(|e| e.exemplars.is_none()) {
            problems.push(Problem::NoExemplar { class: draft.name.clone() });
        }
    }
    check_pictures(templates, &drafts, &mut problems);
    if !problems.is_empty() {
        return Err(OntologyError::Templates { problems });
    }
    if drafts.is_empty() {
        return Err(OntologyError::NoTemplates);
    }
    Ok(finish(templates, drafts, name, style)?)
}

/// Drafts of the file's classes with the files they name, and the templates left for the rules.
fn claim<'a>(
    templates: &[Template],
    order: &[usize],
    file: &str,
    document: &'a Document,
) -> Result<(Vec<Draft<'a>>, Vec<usize>), FileError> {
    let by_path: BTreeMap<&str, usize> = order.iter().map(|&i| (templates[i].path.as_str(), i)).collect();
    let find = |path: &serde_saphyr::Spanned<String>| {
        by_path.get(path.value.as_str()).copied().ok_or_else(|| {
            let near = nearest(&path.value, by_path.keys().copied());
            let hint = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            yaml::at(file, path.referenced, format!("there is no template `{}`{hint}", path.value))
        })
    };
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    let mut owner: BTreeMap<usize, &str> = BTreeMap::new();
    let mut used = vec![false; templates.len()];
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    for entry in &document.classes {
        let name = entry.name.value.trim();
        let fail = |message| Err(yaml::at(file, entry.name.referenced, message));
        if name.is_empty() {
            return fail("a class needs a name".to_owned());
        }
        if let Some(before) = names.insert(name.to_lowercase(), name) {
            return fail(format!("class `{name}` is there already, as `{before}`"));
        }
        let mut draft =
            Draft { name: name.to_owned(), entry: Some(entry), exemplars: Vec::new(), negatives: Vec::new() };
        for (n, path) in entry.exemplars.iter().flatten().enumerate() {
            let i = find(path)?;
            if let Some(before) = owner.insert(i, name) {
                let message = format!("template `{}` is an exemplar of `{before}` already", path.value);
                return Err(yaml::at(file, path.referenced, message));
            }
            draft.exemplars.push((0, n as u32, i));
            used[i] = true;
        }
        for path in &entry.negatives {
            let i = find(path)?;
            draft.negatives.push(i);
            used[i] = true;
        }
        drafts.push(draft);
    }
    for entry in &document.classes {
        for alias in &entry.aliases {
            let other = names.insert(alias.value.to_lowercase(), entry.name.value.trim());
            if other.is_some_and(|o| o != entry.name.value.trim()) {
                let message =
                    format!("alias `{}` already means the class `{}`", alias.value, other.unwrap_or_default());
                return Err(yaml::at(file, alias.referenced, message));
            }
        }
    }
    for pattern in &document.ignore {
        let folder = format!("{}/", pattern.value.trim_end_matches('/'));
        let mut any = false;
        for &i in order {
            if templates[i].path == pattern.value || templates[i].path.starts_with(&folder) {
                any = true;
                used[i] = true;
            }
        }
        if !any {
            find(pattern)?;
        }
    }
    Ok((drafts, order.iter().copied().filter(|&i| !used[i]).collect()))
}

/// Places `free` templates by the rules; new classes are appended by name.
fn place(templates: &[Template], free: &[usize], drafts: &mut Vec<Draft<'_>>, problems: &mut Vec<Problem>) {
    let path = |i: usize| templates[i].path.clone();
    let mut found: Vec<Draft<'_>> = Vec::new();
    let mut negatives = Vec::new();
    for &i in free {
        let read = rules::read_path(&templates[i].path);
        if read.class.is_empty() {
            problems.push(Problem::NoName { file: path(i) });
            continue;
        }
        if read.role != Role::Exemplar {
            negatives.push((i, read));
            continue;
        }
        let same = |d: &&mut Draft<'_>| d.name.to_lowercase() == read.class.to_lowercase();
        let Some(draft) = drafts.iter_mut().find(same).or_else(|| found.iter_mut().find(same)) else {
            let exemplars = vec![(1, read.number, i)];
            found.push(Draft { name: read.class, entry: None, exemplars, negatives: Vec::new() });
            continue;
        };
        if let Some(&(_, _, first)) = draft.exemplars.iter().find(|e| (e.0, e.1) == (1, read.number)) {
            problems.push(Problem::SameClass { class: draft.name.clone(), first: path(first), second: path(i) });
        } else if draft.entry.is_none() && draft.name != read.class {
            let first = path(draft.exemplars[0].2);
            problems.push(Problem::SameClassButCase { first, second: path(i) });
        } else {
            draft.exemplars.push((1, read.number, i));
        }
    }
    found.sort_by(|a, b| (a.name.to_lowercase(), &a.name).cmp(&(b.name.to_lowercase(), &b.name)));
    drafts.append(&mut found);
    for (i, read) in negatives {
        let wanted = read.class.to_lowercase();
        if let Some(draft) = drafts.iter_mut().find(|d| d.name.to_lowercase() == wanted) {
            draft.negatives.push(i);
        } else if read.role == Role::Negative {
            for draft in drafts.iter_mut() {
                draft.negatives.push(i);
            }
        } else {
            let near = nearest(&read.class, drafts.iter().map(|d| d.name.as_str()));
            let hint = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            problems.push(Problem::NegativeOfNothing { file: path(i), class: read.class, hint });
        }
    }
}

/// Every used picture must show something, and no exemplar may be the picture of another exemplar or of a negative of
/// its own class.
fn check_pictures(templates: &[Template], drafts: &[Draft<'_>], problems: &mut Vec<Problem>) {
    let mut pixels: BTreeMap<usize, Option<blake3::Hash>> = BTreeMap::new();
    let uses = drafts.iter().flat_map(|d| d.exemplars.iter().map(|e| e.2).chain(d.negatives.iter().copied()));
    let mut used: Vec<usize> = uses.collect();
    used.sort_by(|&a, &b| templates[a].path.cmp(&templates[b].path));
    used.dedup();
    for i in used {
        let hash = match picture::decode_template(&templates[i].bytes) {
            Ok(p) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&p.width().to_le_bytes()).update(p.as_raw());
                Some(hasher.finalize())
            }
            Err(source) => {
                problems.push(Problem::Picture { file: templates[i].path.clone(), source });
                None
            }
        };
        pixels.insert(i, hash);
    }
    let mut seen: BTreeMap<[u8; 32], (usize, &str)> = BTreeMap::new();
    let mut check = |i: usize, class: &'_ str, seen: &BTreeMap<[u8; 32], (usize, &str)>| {
        let hash = *pixels.get(&i)?.as_ref()?.as_bytes();
        if let Some(&(first, first_class)) = seen.get(&hash) {
            problems.push(Problem::SamePicture {
                first: templates[first].path.clone(),
                first_class: first_class.to_owned(),
                second: templates[i].path.clone(),
                second_class: class.to_owned(),
            });
        }
        Some(hash)
    };
    for draft in drafts {
        for &(_, _, i) in &draft.exemplars {
            if let Some(hash) = check(i, &draft.name, &seen) {
                seen.entry(hash).or_insert((i, &draft.name));
            }
        }
    }
    for draft in drafts {
        let own: BTreeMap<_, _> = seen.iter().filter(|(_, v)| v.1 == draft.name).map(|(k, v)| (*k, *v)).collect();
        for &i in &draft.negatives {
            check(i, &draft.name, &own);
        }
    }
}

fn finish(
    templates: &[Template],
    drafts: Vec<Draft<'_>>,
    file: &str,
    style: PromptStyle,
) -> Result<Ontology, FileError> {
    let given = |d: &Draft<'_>| -> Result<Option<[u8; 3]>, FileError> {
        let Some(text) = d.entry.and_then(|e| e.color.as_ref()) else { return Ok(None) };
        let wrong = || format!("`{}` is not a colour; write it as \"#rrggbb\", in quotes", text.value);
        yaml::color(&text.value).map(Some).ok_or_else(|| yaml::at(file, text.referenced, wrong()))
    };
    let given = drafts.iter().map(given).collect::<Result<Vec<_>, _>>()?;
    let taken: Vec<[u8; 3]> = given.iter().flatten().copied().collect();
    let mut spread = palette::spread(drafts.len() - taken.len(), &taken).into_iter();
    let exemplar = |i: usize| Exemplar {
        file: templates[i].path.clone(),
        digest: blake3::hash(&templates[i].bytes).to_hex().to_string(),
    };
    let classes = drafts.into_iter().zip(given).map(|(d, color)| {
        let say = |pick: fn(&Entry) -> Option<&String>| d.entry.and_then(pick).cloned();
        Class {
            category: say(|e| e.category.as_ref()).unwrap_or_else(|| rules::category(&d.name).to_owned()),
            prompt: say(|e| e.prompt.as_ref()).unwrap_or_else(|| rules::prompt(&d.name, style)),
            synonyms: d.entry.map(|e| e.synonyms.clone()).unwrap_or_default(),
            aliases: d.entry.map(|e| e.aliases.iter().map(|a| a.value.clone()).collect()).unwrap_or_default(),
            color: color.or_else(|| spread.next()).expect("as many colours were spread as classes have none"),
            exemplars: d.exemplars.iter().map(|e| exemplar(e.2)).collect(),
            negatives: d.negatives.iter().map(|&i| exemplar(i)).collect(),
            name: d.name,
        }
    });
    Ok(Ontology { classes: classes.collect() })
}

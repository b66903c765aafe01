//! Starting weights: what a training takes over from a file, what it adapts to its classes, and what it leaves.
//!
//! Owns the choice, tensor by tensor, and its account. Refuses to read the formats (`vision::yolov8::weights`) and to
//! train.

use std::collections::{BTreeMap, BTreeSet};

use artifacts::Files;
use engine::{Context, Digest, Level, StageError};
use report::{Cell, Column, Html, Table, Tone, html::notice, html::p, number::counted};
use serde::Serialize;
use serde_json::json;
use vision::yolov8::{
    Size, State, Tensor,
    weights::{self, Weights},
};

use crate::config::Config;

/// Input port of the stage.
pub const PORT: &str = "weights";
/// `train.weights` for this program's own starting weights, made by `examples/symbols_n.rs`.
pub const SYMBOLS_N: &str = "symbols-n";
/// `train.weights` for random ones.
pub const SCRATCH: &str = "scratch";
/// [`SYMBOLS_N`], in 16 bits.
static SYMBOLS_N_FILE: &[u8] = include_bytes!("../weights/symbols-n.safetensors");
/// File names that a trained model has; of several files in a folder the first is taken.
const MODEL_FILE: &str = "best.safetensors";
/// Rows that are said one by one; all are in `weights.json`.
const SAID: usize = 8;

/// What became of tensors of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Taken {
    /// As in the file.
    Loaded,
    /// Some rows as in the file, the others new.
    Adapted,
    /// New: the file's do not fit.
    Skipped,
}

/// One line of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Part of the network, such as `model.4`, or one tensor.
    pub part: String,
    /// What became of it.
    pub taken: Taken,
    /// Tensors.
    pub tensors: usize,
    /// Why, where it was not simply loaded.
    pub why: String,
}

/// The start of a training.
#[derive(Clone, Debug)]
pub struct Start {
    /// Weights of the whole network.
    pub state: State,
    /// What was done, part by part.
    pub rows: Vec<Row>,
    /// Classes whose rows of the head were kept.
    pub kept: Vec<String>,
    /// Classes that start anew.
    pub new: Vec<String>,
    /// Classes of the file that are not wanted.
    pub left: Vec<String>,
    /// File, kind, network and release, in words.
    pub source: String,
    /// BLAKE3 of the file.
    pub digest: String,
    /// Licence of the weights, as far as the file tells.
    pub licence: Option<String>,
}

/// The same class, however it is spelled: `Ball_Valve` is `ball valve`.
fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace(['_', '-'], " ")
}

/// For each wanted class the row of the file's head, if it has one.
fn rows_of(weights: &Weights, classes: &[String]) -> Vec<Option<usize>> {
    let Some(names) = &weights.names else {
        // A file without names has its classes in the order of whoever made it.
        let same = weights.spec.classes == classes.len();
        return (0..classes.len()).map(|i| same.then_some(i)).collect();
    };
    let mut used = BTreeSet::new();
    let exact: Vec<Option<usize>> =
        classes.iter().map(|c| names.iter().position(|n| n == c).filter(|&i| used.insert(i))).collect();
    let similar = |(class, found): (&String, Option<usize>)| {
        found.or_else(|| {
            let at = (0..names.len()).find(|i| !used.contains(i) && plain(&names[*i]) == plain(class));
            at.filter(|&i| used.insert(i))
        })
    };
    classes.iter().zip(exact).map(similar).collect()
}

/// Whether a tensor has one row a class.
fn has_class_rows(key: &str) -> bool {
    key.starts_with("model.22.cv3.") && (key.ends_with(".2.weight") || key.ends_with(".2.bias"))
}

/// `model.4` of `model.4.m.0.cv1.conv.weight`; the branches of the head by level.
fn part_of(key: &str) -> String {
    let parts = if key.starts_with("model.22.") { 4 } else { 2 };
    key.split('.').take(parts).collect::<Vec<_>>().join(".")
}

/// BLAKE3 of this program's own starting weights.
pub fn symbols_n_digest() -> String {
    Digest::of(SYMBOLS_N_FILE).to_string()
}

/// Settles what `train.weights` left open: drawings start from this program's own weights where they fit the network.
pub fn settle(config: &mut Config, is_connected: bool) -> Result<Option<String>, StageError> {
    let fits = config.model.size() == Size::N;
    let wrong = |message: String| Err(StageError::Config { key: PORT.into(), message });
    match config.weights.as_deref() {
        None if is_connected => Ok(None),
        None if fits => {
            config.weights = Some(SYMBOLS_N.into());
            Ok(Some(format!(
                "weights: {SYMBOLS_N}, which know symbols on drawings; `{SCRATCH}` starts from random ones"
            )))
        }
        None => {
            config.weights = Some(SCRATCH.into());
            Ok(Some(format!("weights: {SCRATCH}, since there are none of this program for {}", config.model.name())))
        }
        Some(_) if is_connected => wrong("starting weights are given as an input as well; keep one of the two".into()),
        Some(SYMBOLS_N) if !fits => {
            wrong(format!("{SYMBOLS_N} are weights of yolov8n, and `model` is {}", config.model.name()))
        }
        Some(SYMBOLS_N | SCRATCH) => Ok(None),
        Some(_) => wrong(format!("connect the file to the input `{PORT}`; settings files do that by themselves")),
    }
}

/// Lays a file's weights over those of a new network (`fresh`) for these classes.
pub fn start(weights: &Weights, fresh: State, classes: &[String]) -> Start {
    let rows = rows_of(weights, classes);
    let mut state = fresh;
    let mut parts: BTreeMap<(String, Taken, String), usize> = BTreeMap::new();
    let same_order = rows.iter().enumerate().all(|(i, r)| *r == Some(i)) && rows.len() == weights.spec.classes;
    let mut head_kept = true;
    for (key, tensor) in state.tensors.iter_mut().filter(|(key, _)| !key.ends_with("dfl.conv.weight")) {
        let found = weights.state.tensors.get(key);
        let (taken, why) = match found {
            None => (Taken::Skipped, "the file has none".to_owned()),
            Some(found) if has_class_rows(key) && !same_order => adapt(tensor, found, &rows),
            Some(found) if found.shape == tensor.shape => {
                tensor.data.clone_from(&found.data);
                (Taken::Loaded, String::new())
            }
            Some(found) => (Taken::Skipped, format!("the file's is {:?}, needed is {:?}", found.shape, tensor.shape)),
        };
        head_kept &= !has_class_rows(key) || taken != Taken::Skipped;
        let part = if taken == Taken::Loaded { part_of(key) } else { key.clone() };
        *parts.entry((part, taken, why)).or_default() += 1;
    }
    let kept = |keep: bool| {
        let of = classes.iter().zip(&rows).filter(|(_, row)| (row.is_some() && head_kept) == keep);
        of.map(|(c, _)| c.clone()).collect::<Vec<_>>()
    };
    let used: BTreeSet<usize> = rows.iter().flatten().copied().collect();
    let left = weights.names.iter().flatten().enumerate().filter(|(i, _)| !used.contains(i)).map(|(_, n)| n.clone());
    let mut rows: Vec<Row> =
        parts.into_iter().map(|((part, taken, why), tensors)| Row { part, taken, tensors, why }).collect();
    rows.sort_by_key(|r| (r.taken, place(&r.part)));
    let text = |key: &str| weights.state.metadata.get(key).and_then(|t| serde_json::from_str::<String>(t).ok());
    let release = text("source").map_or_else(String::new, |s| format!(", {s}"));
    let bits = if weights.dequantised { ", from 8 bits" } else { "" };
    let size = format!("{:?}", weights.spec.size).to_lowercase();
    Start {
        rows,
        kept: kept(true),
        new: kept(false),
        left: left.collect(),
        source: format!(
            "{}, yolov8{size}, {}{release}{bits}",
            weights.kind.name(),
            counted(weights.spec.classes, "class", "classes")
        ),
        digest: String::new(),
        licence: weights.licence.clone(),
        state,
    }
}

/// Parts in the order of the network.
fn place(part: &str) -> (usize, String) {
    (part.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX), part.to_owned())
}

/// Rows of the head by class; the others stay as they are in the new network.
fn adapt(tensor: &mut Tensor, found: &Tensor, rows: &[Option<usize>]) -> (Taken, String) {
    if found.shape[1..] != tensor.shape[1..] {
        let widths = |t: &Tensor| t.shape.get(1).copied().unwrap_or(0);
        let (theirs, ours) = (widths(found), widths(tensor));
        return (Taken::Skipped, format!("the file's rows have {theirs} numbers, needed are {ours}"));
    }
    let len: usize = tensor.shape[1..].iter().product();
    for (i, row) in rows.iter().enumerate() {
        if let Some(row) = row {
            tensor.data[i * len..][..len].copy_from_slice(&found.data[row * len..][..len]);
        }
    }
    let kept = rows.iter().flatten().count();
    (Taken::Adapted, format!("{kept} of {} rows are the file's, by class name; the others are new", rows.len()))
}

impl Start {
    /// The start that the input port names, or none; says what was done.
    pub fn read(
        config: &Config,
        ctx: &Context,
        classes: &[String],
        fresh: impl FnOnce() -> State,
    ) -> Result<Option<Self>, StageError> {
        if config.weights.as_deref() == Some(SYMBOLS_N) {
            let weights = weights::read(SYMBOLS_N_FILE).map_err(|e| StageError::failed("reading symbols-n", e))?;
            let mut start = start(&weights, fresh(), classes);
            start.source = format!("{SYMBOLS_N} ({})", start.source);
            start.digest = symbols_n_digest();
            start.say(ctx);
            return Ok(Some(start));
        }
        if !ctx.has(PORT) {
            return Ok(None);
        }
        let manifest = ctx.manifest(PORT)?;
        let blob = match &manifest.blobs[..] {
            [only] => only,
            _ => manifest.blob(MODEL_FILE).ok_or_else(|| {
                let names: Vec<&str> = manifest.blobs.iter().map(|b| b.name.as_str()).collect();
                let message = format!("the starting weights are {} files: {}", names.len(), names.join(", "));
                StageError::input(message, "name one file in `train.weights`")
            })?,
        };
        let weights = weights::read(&ctx.bytes(blob)?)
            .map_err(|e| StageError::failed(format!("reading the starting weights `{}`", blob.name), e))?;
        if weights.spec.size != config.model.size() {
            let size = format!("{:?}", weights.spec.size).to_lowercase();
            return Err(StageError::input(
                format!("`{}` holds yolov8{size}, and `train.model` is {}", blob.name, config.model.name()),
                format!("set `train.model: yolov8{size}`, or give weights of {}", config.model.name()),
            ));
        }
        let mut start = start(&weights, fresh(), classes);
        start.source = format!("`{}` ({})", blob.name, start.source);
        start.digest = blob.digest.to_string();
        start.say(ctx);
        Ok(Some(start))
    }

    fn count(&self, taken: Taken) -> usize {
        self.rows.iter().filter(|r| r.taken == taken).map(|r| r.tensors).sum()
    }

    /// One line: source and counts.
    pub fn summary(&self) -> String {
        let [loaded, adapted, skipped] = [Taken::Loaded, Taken::Adapted, Taken::Skipped].map(|t| self.count(t));
        format!(
            "starts from {}: {loaded} tensors loaded, {adapted} adapted, {skipped} skipped; {} kept, {} new",
            self.source,
            counted(self.kept.len(), "class", "classes"),
            self.new.len()
        )
    }

    /// What the licence of the weights means for the model.
    pub fn warning(&self) -> Option<String> {
        let licence = self.licence.as_ref()?;
        Some(format!("the starting weights are under {licence}: the trained model is bound by that licence, too"))
    }

    fn say(&self, ctx: &Context) {
        if let Some(warning) = self.warning() {
            ctx.message(Level::Warn, warning);
        }
        ctx.message(Level::Info, self.summary());
        let changed: Vec<&Row> = self.rows.iter().filter(|r| r.taken != Taken::Loaded).collect();
        for row in changed.iter().take(SAID) {
            let taken = if row.taken == Taken::Adapted { "adapted" } else { "skipped" };
            ctx.message(Level::Info, format!("{} {taken}: {}", row.part, row.why));
        }
        if changed.len() > SAID {
            let more = changed.len() - SAID;
            ctx.message(Level::Info, format!("{more} more were adapted or skipped; all are in weights.json"));
        }
        let list = |names: &[String]| names.join(", ");
        if !self.new.is_empty() && !self.kept.is_empty() {
            ctx.message(Level::Info, format!("classes that start anew: {}", list(&self.new)));
        }
    }

    /// What a reader of the trained weights has to know.
    pub fn describe(&self, state: &mut State) {
        state.metadata.insert("start".into(), json!({ "from": self.source, "blake3": self.digest }).to_string());
        if let Some(licence) = &self.licence {
            state.metadata.insert("licence".into(), json!(licence).to_string());
        }
    }

    /// The account as a file of the model.
    pub fn file(&self, files: &mut Files) {
        let doc = json!({
            "from": self.source, "blake3": self.digest, "licence": self.licence, "parts": self.rows,
            "classes": { "kept": self.kept, "new": self.new, "left": self.left },
        });
        files.insert("weights.json".into(), serde_json::to_vec_pretty(&doc).expect("plain data serialises"));
    }

    /// The account for the report.
    pub fn section(&self) -> Vec<Html> {
        let mut parts = Vec::new();
        if let Some(warning) = self.warning() {
            parts.push(notice(Tone::Warn, "Licence", p(warning)));
        }
        parts.push(p(self.summary()));
        let columns = [Column::text("part"), Column::text("was"), Column::number("tensors"), Column::text("why")];
        let mut table = Table::new("Starting weights", columns);
        for row in &self.rows {
            let taken = format!("{:?}", row.taken).to_lowercase();
            table.row([Cell::of(&row.part), Cell::of(taken), Cell::of(row.tensors.to_string()), Cell::of(&row.why)]);
        }
        parts.push(table.into());
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vision::yolov8::{Backend, Native, Spec};

    fn weights(names: &[&str], seed: u64) -> Weights {
        let mut state = Native::new(Spec { size: Size::N, classes: names.len() }, seed).state();
        state.metadata.insert("classes".into(), json!(names).to_string());
        weights::read(&state.to_bytes().unwrap()).unwrap()
    }

    fn begun(from: &Weights, classes: &[&str]) -> (State, Start) {
        let fresh = Native::new(Spec { size: Size::N, classes: classes.len() }, 9).state();
        let classes: Vec<String> = classes.iter().map(|c| (*c).to_owned()).collect();
        (fresh.clone(), start(from, fresh, &classes))
    }

    const BIAS: &str = "model.22.cv3.1.2.bias";
    const KERNEL: &str = "model.22.cv3.1.2.weight";

    #[test]
    fn drawings_start_from_own_weights_where_they_fit() {
        let settled = |model, weights: Option<&str>, connected| {
            let mut config = Config { model, weights: weights.map(str::to_owned), ..Config::default() };
            settle(&mut config, connected).map(|note| (config.weights, note.is_some()))
        };
        use crate::config::Model;
        assert_eq!(settled(Model::Yolov8n, None, false).unwrap(), (Some(SYMBOLS_N.into()), true));
        assert_eq!(settled(Model::Yolov8s, None, false).unwrap(), (Some(SCRATCH.into()), true));
        assert_eq!(settled(Model::Yolov8n, None, true).unwrap(), (None, false));
        assert_eq!(settled(Model::Yolov8n, Some(SCRATCH), false).unwrap(), (Some(SCRATCH.into()), false));
        assert!(settled(Model::Yolov8s, Some(SYMBOLS_N), false).is_err());
        assert!(settled(Model::Yolov8n, Some("best.pt"), false).is_err());
        assert!(settled(Model::Yolov8n, Some(SYMBOLS_N), true).is_err());
    }

    #[test]
    fn own_weights_give_every_layer_but_the_classes() {
        assert!(SYMBOLS_N_FILE.len() <= 7_000_000, "{}", SYMBOLS_N_FILE.len());
        let own = weights::read(SYMBOLS_N_FILE).unwrap();
        assert_eq!(own.licence, None);
        for classes in [&["valve"][..], &["a", "b", "c"]] {
            let (fresh, s) = begun(&own, classes);
            let skipped: Vec<&str> =
                s.rows.iter().filter(|r| r.taken == Taken::Skipped).map(|r| r.part.as_str()).collect();
            assert!(skipped.is_empty(), "{skipped:?}");
            assert_eq!(s.kept, Vec::<String>::new());
            assert_eq!(s.state.tensors[BIAS], fresh.tensors[BIAS], "its classes are nobody's");
            assert_ne!(s.state.tensors["model.0.conv.weight"], fresh.tensors["model.0.conv.weight"]);
        }
    }

    #[test]
    fn weights_in_8_bits_are_said_to_be() {
        let mut from = weights(&["valve"], 5);
        assert!(!begun(&from, &["valve"]).1.source.contains("8 bits"));
        from.dequantised = true;
        assert!(begun(&from, &["valve"]).1.summary().contains("yolov8n, 1 class, from 8 bits"));
    }

    #[test]
    fn the_same_classes_take_everything() {
        let from = weights(&["a", "b"], 1);
        let (_, s) = begun(&from, &["a", "b"]);
        assert_eq!(s.state.tensors, from.state.tensors);
        assert!(s.rows.iter().all(|r| r.taken == Taken::Loaded) && s.new.is_empty() && s.left.is_empty());
        assert_eq!(s.rows.iter().map(|r| r.tensors).sum::<usize>(), 297);
    }

    #[test]
    fn classes_are_found_by_name_and_the_others_start_anew() {
        let from = weights(&["gate valve", "Pump", "tank"], 1);
        let (fresh, s) = begun(&from, &["pump", "sensor", "gate_valve"]);
        let row = |state: &State, i: usize| state.tensors[KERNEL].data[i * 64..][..64].to_vec();
        assert_eq!(row(&s.state, 0), row(&from.state, 1));
        assert_eq!(row(&s.state, 1), row(&fresh, 1));
        assert_eq!(row(&s.state, 2), row(&from.state, 0));
        assert_eq!(s.state.tensors[BIAS].data[1], fresh.tensors[BIAS].data[1]);
        assert_eq!(
            (s.kept, s.new, s.left),
            (vec!["pump".into(), "gate_valve".into()], vec!["sensor".to_owned()], vec!["tank".to_owned()])
        );
        assert_eq!(s.rows.iter().filter(|r| r.taken == Taken::Adapted).count(), 6);
        assert_eq!(s.state.tensors["model.9.cv1.conv.weight"], from.state.tensors["model.9.cv1.conv.weight"]);
    }

    #[test]
    fn a_head_of_another_width_starts_anew_with_the_reason() {
        // From 65 classes on the class branch of the smallest network gets wider.
        let names: Vec<String> = (0..80).map(|i| format!("c{i}")).collect();
        let from = weights(&names.iter().map(String::as_str).collect::<Vec<_>>(), 1);
        let (fresh, s) = begun(&from, &["c1", "c2"]);
        assert_eq!(s.state.tensors[KERNEL], fresh.tensors[KERNEL]);
        let why = &s.rows.iter().find(|r| r.part == KERNEL).unwrap().why;
        assert!(why.contains("80") && why.contains("64"), "{why}");
        assert_eq!((s.kept.len(), s.new.len()), (0, 2));
        assert_eq!(s.state.tensors["model.21.cv2.conv.weight"], from.state.tensors["model.21.cv2.conv.weight"]);
    }

    #[test]
    fn without_names_the_order_counts_when_there_are_as_many() {
        let mut from = weights(&["a", "b"], 1);
        from.names = None;
        assert_eq!(begun(&from, &["x", "y"]).1.new.len(), 0);
        assert_eq!(begun(&from, &["x", "y", "z"]).1.kept.len(), 0);
    }
}

//! Which images train and which judge.
//!
//! Owns the choice between the parts that the images' files tell and a split by content: the same pictures, fraction and
//! seed give the same parts whatever the file names, the order or the machine, and copies of one picture never lie on both
//! sides. Refuses to move files.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::annotation::{AnnotationSet, ImageAnnotations};

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Weights are fitted to it.
    Train,
    /// Epochs are compared on it.
    Val,
    /// Touched once, at the end. Never drawn by [`split`]; label files may name it.
    Test,
}

impl Split {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// `train`, `val` or `test`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// The part that a folder or key of this name means; `valid` and `validation` are `val`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How to split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitSettings {
    /// Share of the pictures that goes to validation, 0..=1.
    pub val: f64,
    /// Another seed gives another split.
    pub seed: u64,
    /// Keeps the parts that the images tell, when they tell some for training and some for validation.
    pub own: bool,
}

impl Default for SplitSettings {
    /// The images' own parts; else one picture in five.
    fn default() -> Self {
        Self { val: 0.2, seed: 0, own: true }
    }
}

/// A data set in its parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// The part of every image, by name.
    pub parts: BTreeMap<String, Split>,
    /// True when the images told it.
    pub own: bool,
    /// Validation images of which a copy is trained on, so that they judge too well. Only in a division that was told.
    pub copies: Vec<String>,
    /// Classes that occur, but not among the training images.
    pub not_in_train: Vec<String>,
    /// Classes that occur, but not among the validation images.
    pub not_in_val: Vec<String>,
}

impl Partition {
    /// The part of an image; `Train` for one that was not there.
    pub fn of(&self, image: &str) -> Split {
        self.parts.get(image).copied().unwrap_or(Split::Train)
    }

    /// Number of images in a part.
    pub fn count(&self, part: Split) -> usize {
        self.parts.values().filter(|p| **p == part).count()
    }

    /// Notes the classes that one part lacks.
    fn find_missing(&mut self, set: &AnnotationSet) {
        let in_part = |part| -> BTreeSet<&str> {
            let images = set.images.iter().filter(|i| self.of(&i.image) == part);
            images.flat_map(|i| &i.annotations).map(|a| a.class.as_str()).collect()
        };
        let [train, val] = [Split::Train, Split::Val].map(in_part);
        let lacking =
            |part: &BTreeSet<&str>, other: &BTreeSet<&str>| other.difference(part).map(|c| (*c).to_owned()).collect();
        (self.not_in_train, self.not_in_val) = (lacking(&train, &val), lacking(&val, &train));
    }
}

/// Pictures of one content.
struct Group<'a> {
    /// The content's place in the lottery, 0..1.
    draw: f64,
    images: Vec<&'a ImageAnnotations>,
    classes: BTreeSet<&'a str>,
    val: bool,
}

/// By how much of itself the validation share may miss the fraction by the luck of the draw.
const SLACK: f64 = 0.2;
/// By how much of itself (and at least one picture) it may grow so that rare classes are judged too.
const RARE_GROWTH: f64 = 0.5;

/// Splits as the images tell, or by content. By content, each picture is drawn by the hash of its digest and the seed, so
/// that adding pictures moves few of those already there. Both parts get at least one picture when there are two different
/// ones, and every class that occurs in two is put into both parts as far as the validation part does not grow over half
/// again its share. Images that are told to be for testing stay so in any case.
pub fn split(set: &AnnotationSet, settings: &SplitSettings) -> Partition {
    let told = |part| set.images.iter().any(|i| i.split == Some(part));
    if settings.own && told(Split::Train) && told(Split::Val) { as_told(set) } else { draw(set, settings) }
}

/// An image without a part is for training.
fn as_told(set: &AnnotationSet) -> Partition {
    let of = |i: &ImageAnnotations| i.split.unwrap_or(Split::Train);
    let trained: BTreeSet<&str> = set
        .images
        .iter()
        .filter(|i| of(i) == Split::Train)
        .map(|i| i.digest.as_str())
        .filter(|d| !d.is_empty())
        .collect();
    let is_copy = |i: &&ImageAnnotations| of(i) == Split::Val && trained.contains(i.digest.as_str());
    let mut partition = Partition {
        parts: set.images.iter().map(|i| (i.image.clone(), of(i))).collect(),
        own: true,
        copies: set.images.iter().filter(is_copy).map(|i| i.image.clone()).collect(),
        ..Partition::default()
    };
    partition.find_missing(set);
    partition
}

fn draw(set: &AnnotationSet, settings: &SplitSettings) -> Partition {
    let mut groups = groups(set, settings.seed);
    let n = groups.len();
    let fraction = if settings.val.is_finite() { settings.val.clamp(0.0, 1.0) } else { 0.0 };
    let share = fraction * n as f64;
    let drawn = groups.iter().filter(|g| g.draw < fraction).count();
    let mut val = drawn
        .clamp((share * (1.0 - SLACK)).ceil() as usize, (share * (1.0 + SLACK)).floor().max(share.ceil()) as usize);
    if n >= 2 && fraction > 0.0 && fraction < 1.0 {
        val = val.clamp(1, n - 1);
    } else if n == 1 && fraction < 1.0 {
        val = 0;
    }
    groups.iter_mut().take(val).for_each(|g| g.val = true);
    if fraction > 0.0 && fraction < 1.0 {
        let most = val.max(((share * (1.0 + RARE_GROWTH)).ceil() as usize).max(val + 1)).min(n.saturating_sub(1));
        place_rare_classes(&mut groups, most);
    }
    let mut partition = Partition::default();
    for g in &groups {
        let part = if g.val { Split::Val } else { Split::Train };
        partition.parts.extend(g.images.iter().map(|i| (i.image.clone(), part)));
    }
    let test = set.images.iter().filter(|i| i.split == Some(Split::Test));
    partition.parts.extend(test.map(|i| (i.image.clone(), Split::Test)));
    partition.find_missing(set);
    partition
}

/// The pictures by content, in order of their draw.
fn groups(set: &AnnotationSet, seed: u64) -> Vec<Group<'_>> {
    let mut by_content: BTreeMap<(bool, &str), Vec<&ImageAnnotations>> = BTreeMap::new();
    for image in set.images.iter().filter(|i| i.split != Some(Split::Test)) {
        // Labels without their picture have only a name.
        let known = !image.digest.is_empty();
        by_content.entry((known, if known { &image.digest } else { &image.image })).or_default().push(image);
    }
    let mut groups: Vec<(Group<'_>, &str)> = by_content
        .into_iter()
        .map(|((_, content), images)| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(content.as_bytes());
            let mut first = [0; 8];
            first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
            let draw = (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
            let classes = images.iter().flat_map(|i| &i.annotations).map(|a| a.class.as_str()).collect();
            (Group { draw, images, classes, val: false }, content)
        })
        .collect();
    groups.sort_by(|a, b| a.0.draw.total_cmp(&b.0.draw).then(a.1.cmp(b.1)));
    groups.into_iter().map(|(g, _)| g).collect()
}

/// Moves pictures so that classes of two pictures or more are in both parts: first into the training part (a class that
/// is never trained is lost), then into the validation part while that has fewer than `most` pictures.
fn place_rare_classes(groups: &mut [Group<'_>], most: usize) {
    // Classes of `g` that no other picture on its side has: they would be lost there.
    let alone = |groups: &[Group<'_>], at: usize| {
        groups[at].classes.iter().any(|c| {
            !groups.iter().enumerate().any(|(i, o)| i != at && o.val == groups[at].val && o.classes.contains(c))
        })
    };
    let lacks = |groups: &[Group<'_>], val: bool, class: &str| {
        !groups.iter().any(|g| g.val == val && g.classes.contains(class))
    };
    for to_val in [false, true] {
        loop {
            let from = groups.iter().filter(|g| g.val != to_val).count();
            let full = to_val && groups.iter().filter(|g| g.val).count() >= most;
            if full || from < 2 {
                break;
            }
            // The picture that brings most missing classes; among equals the one nearest to the border of the draw.
            let gain = |at: usize| groups[at].classes.iter().filter(|c| lacks(groups, to_val, c)).count();
            let mut best: Option<(usize, usize)> = None;
            let order: Vec<usize> =
                if to_val { (0..groups.len()).collect() } else { (0..groups.len()).rev().collect() };
            for at in order {
                if groups[at].val == to_val {
                    continue;
                }
                let g = gain(at);
                // Into training even what validation then lacks; into validation only what training keeps.
                if g > best.map_or(0, |b| b.1) && (!to_val || !alone(groups, at)) {
                    best = Some((at, g));
                }
            }
            let Some((at, _)) = best else { break };
            groups[at].val = to_val;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotation::Annotation;
    use crate::geometry::BBox;

    fn set(images: &[(&str, &str, &[&str])]) -> AnnotationSet {
        AnnotationSet {
            images: images
                .iter()
                .map(|(name, content, classes)| ImageAnnotations {
                    image: (*name).to_owned(),
                    digest: if content.is_empty() {
                        String::new()
                    } else {
                        blake3::hash(content.as_bytes()).to_hex().to_string()
                    },
                    width: 10,
                    height: 10,
                    split: None,
                    annotations: classes.iter().map(|c| Annotation::new(*c, BBox::new(0.0, 0.0, 1.0, 1.0))).collect(),
                })
                .collect(),
            ..AnnotationSet::default()
        }
    }

    fn many(n: usize) -> AnnotationSet {
        let names: Vec<String> = (0..n).map(|i| format!("{i}.png")).collect();
        set(&names.iter().map(|n| (n.as_str(), n.as_str(), &["a"][..])).collect::<Vec<_>>())
    }

    #[test]
    fn the_fraction_is_kept() {
        for n in [10, 50, 1000] {
            for val in [0.1, 0.2, 0.5] {
                let p = split(&many(n), &SplitSettings { val, seed: 3, ..SplitSettings::default() });
                let share = p.count(Split::Val) as f64 / n as f64;
                assert!((share - val).abs() <= val * SLACK + 1.0 / n as f64, "{n}: {share} instead of {val}");
            }
        }
    }

    #[test]
    fn what_the_images_tell_is_kept() {
        let told = [("a", Some(Split::Train)), ("b", Some(Split::Val)), ("c", Some(Split::Test)), ("d", None)];
        let mut divided = set(&told.map(|(name, _)| (name, name, &["x"][..])));
        for (image, (_, part)) in divided.images.iter_mut().zip(told) {
            image.split = part;
        }
        divided.images[1].annotations[0].class = "y".into();
        let p = split(&divided, &SplitSettings::default());
        assert_eq!(p.parts.into_values().collect::<Vec<_>>(), [Split::Train, Split::Val, Split::Test, Split::Train]);
        assert_eq!((p.own, p.not_in_train, p.not_in_val), (true, vec!["y".to_owned()], vec!["x".to_owned()]));
        assert!(p.copies.is_empty());
        divided.images[3].digest = divided.images[1].digest.clone();
        assert_eq!(split(&divided, &SplitSettings::default()).copies, ["b"]);
        // Drawn, the copies go together and what is for testing stays out.
        let p = split(&divided, &SplitSettings { own: false, val: 0.5, ..SplitSettings::default() });
        assert_eq!((p.own, p.of("c"), p.of("b") == p.of("d")), (false, Split::Test, true));
        // Without anything for validation there is nothing to keep.
        divided.images[1].split = None;
        assert!(!split(&divided, &SplitSettings::default()).own);
    }

    #[test]
    fn names_and_order_do_not_matter() {
        let a = split(&many(40), &SplitSettings::default());
        let mut renamed = many(40);
        renamed.images.reverse();
        for i in &mut renamed.images {
            i.image = format!("other/{}", i.image);
        }
        let b = split(&renamed, &SplitSettings::default());
        for (name, part) in &a.parts {
            assert_eq!(b.of(&format!("other/{name}")), *part);
        }
        assert_ne!(a, split(&many(40), &SplitSettings { seed: 1, ..SplitSettings::default() }));
    }

    #[test]
    fn copies_stay_together() {
        let images: Vec<(String, String)> = (0..60).map(|i| (format!("{i}"), format!("content {}", i % 20))).collect();
        let rows: Vec<_> = images.iter().map(|(n, c)| (n.as_str(), c.as_str(), &["a"][..])).collect();
        let p = split(&set(&rows), &SplitSettings { val: 0.4, ..SplitSettings::default() });
        for i in 0..20 {
            assert_eq!(p.of(&i.to_string()), p.of(&(i + 20).to_string()));
            assert_eq!(p.of(&i.to_string()), p.of(&(i + 40).to_string()));
        }
    }

    #[test]
    fn both_sides_get_one_where_possible() {
        for seed in 0..50 {
            for n in 2..6 {
                let p = split(&many(n), &SplitSettings { val: 0.05, seed, ..SplitSettings::default() });
                assert!(p.count(Split::Val) >= 1 && p.count(Split::Train) >= 1, "{n} images, seed {seed}");
                let p = split(&many(n), &SplitSettings { val: 0.95, seed, ..SplitSettings::default() });
                assert!(p.count(Split::Val) >= 1 && p.count(Split::Train) >= 1, "{n} images, seed {seed}");
            }
        }
        let one = split(&many(1), &SplitSettings::default());
        assert_eq!((one.count(Split::Train), one.not_in_val), (1, vec!["a".to_owned()]));
        assert_eq!(split(&many(5), &SplitSettings { val: 0.0, ..SplitSettings::default() }).count(Split::Val), 0);
        assert_eq!(split(&many(5), &SplitSettings { val: 1.0, ..SplitSettings::default() }).count(Split::Train), 0);
        assert!(split(&many(0), &SplitSettings::default()).parts.is_empty());
        // Two copies of one picture: nothing to judge by.
        let p = split(&set(&[("x", "same", &["a"]), ("y", "same", &["a"])]), &SplitSettings::default());
        assert_eq!(p.count(Split::Train), 2);
    }

    #[test]
    fn rare_classes_are_in_both_parts() {
        for seed in 0..30 {
            let rows: Vec<(String, Vec<&str>)> = (0..30)
                .map(|i| {
                    let mut classes = vec!["common"];
                    if i == 4 || i == 17 {
                        classes.push("rare");
                    }
                    if i == 9 {
                        classes.push("single");
                    }
                    (format!("{i}"), classes)
                })
                .collect();
            let rows: Vec<_> = rows.iter().map(|(n, c)| (n.as_str(), n.as_str(), c.as_slice())).collect();
            let p = split(&set(&rows), &SplitSettings { val: 0.2, seed, ..SplitSettings::default() });
            assert_eq!(p.not_in_train, Vec::<String>::new(), "seed {seed}");
            assert_eq!(p.not_in_val, ["single"], "seed {seed}");
            assert!((4..=9).contains(&p.count(Split::Val)), "seed {seed}: {}", p.count(Split::Val));
        }
    }

    #[test]
    fn adding_pictures_moves_few() {
        let (before, after) =
            (split(&many(500), &SplitSettings::default()), split(&many(510), &SplitSettings::default()));
        let moved = before.parts.iter().filter(|(n, p)| after.of(n) != **p).count();
        assert!(moved <= 5, "{moved} moved");
    }

    #[test]
    fn images_without_digest_are_told_apart_by_name() {
        let p = split(&set(&[("x", "", &["a"]), ("y", "", &["a"])]), &SplitSettings::default());
        assert_eq!((p.count(Split::Train), p.count(Split::Val)), (1, 1));
    }
}

//! What stands for classes on pictures: a number and a colour, explained below the picture.
//!
//! Names on crowded drawings cover the neighbours; numbers do not. Owns the colours of classes that have none.

use std::collections::BTreeMap;

use crate::html::{Html, class_name, el};
use crate::number::counted;

/// Colour of a class that is not listed.
const UNLISTED: [u8; 3] = [110, 110, 110];
/// Colours of listed classes that have none (black), in turn.
const WHEEL: [[u8; 3]; 10] = [
    [31, 102, 168],
    [196, 84, 20],
    [40, 128, 72],
    [160, 52, 112],
    [122, 112, 16],
    [92, 80, 184],
    [184, 40, 48],
    [16, 128, 144],
    [120, 72, 40],
    [88, 96, 104],
];

/// Colours and numbers of classes, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Legend(BTreeMap<String, ([u8; 3], usize)>);

impl Legend {
    /// Of classes in index order: name and colour.
    pub fn new<'a>(classes: impl IntoIterator<Item = (&'a str, [u8; 3])>) -> Self {
        let color = |i: usize, c: [u8; 3]| if c == [0; 3] { WHEEL[i % WHEEL.len()] } else { c };
        Self(classes.into_iter().enumerate().map(|(i, (name, c))| (name.to_owned(), (color(i, c), i + 1))).collect())
    }

    /// Colour of a class; grey for one that is not listed.
    pub fn color(&self, class: &str) -> [u8; 3] {
        self.0.get(class).map_or(UNLISTED, |x| x.0)
    }

    /// Number of a class, from 1 on; `None` for one that is not listed.
    pub fn number(&self, class: &str) -> Option<usize> {
        self.0.get(class).map(|x| x.1)
    }

    /// What is written at a box of a class: its number, `?` for one that is not listed.
    pub fn tag(&self, class: &str) -> String {
        self.number(class).map_or_else(|| "?".to_owned(), |n| n.to_string())
    }

    /// The line below a picture that explains its boxes: colour, number and name of each class, and how many boxes.
    pub fn below<'a>(&self, boxes: impl IntoIterator<Item = &'a str>) -> Html {
        let mut counts: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for class in boxes {
            *counts.entry((self.number(class).unwrap_or(usize::MAX), class)).or_default() += 1;
        }
        let entry = |((_, name), n): ((usize, &str), usize)| {
            let text = format!("{} {name} × {n}", self.tag(name));
            el("span").class("entry").child(class_name(&text, self.color(name)))
        };
        el("span").class("legend").children(counts.into_iter().map(entry)).into()
    }

    /// A caption: what is shown (in bold), how many boxes, and the legend.
    pub fn caption<'a>(&self, name: &str, [one, many]: [&str; 2], boxes: impl IntoIterator<Item = &'a str>) -> Html {
        let boxes: Vec<&str> = boxes.into_iter().collect();
        let mut caption = Html::new();
        caption.push(el("b").child(name)).push(format!(" · {}", counted(boxes.len(), one, many)));
        caption.push(self.below(boxes));
        caption
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_and_unlisted_classes_come_last() {
        let legend = Legend::new([("valve", [200, 0, 0]), ("fan", [0; 3])]);
        assert_eq!((legend.tag("fan"), legend.tag("pump")), ("2".to_owned(), "?".to_owned()));
        assert_eq!((legend.color("valve"), legend.color("fan")), ([200, 0, 0], WHEEL[1]));
        let html = legend.below(["pump", "fan", "valve", "fan"]).as_str().to_owned();
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} in {html}"));
        assert!(at("1 valve × 1") < at("2 fan × 2") && at("2 fan × 2") < at("? pump × 1"));
    }
}

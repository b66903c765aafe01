//! From a picture of a symbol to the symbol: what is ink, what is paper, what does not belong.
//!
//! Owns every rule about what in a template's picture is not the symbol: grey or uneven paper, polarity, transparency,
//! parts of neighbours, ends of pipes, specks, and where instance text stands. Refuses to know sizes, poses and scores;
//! all of it happens at the picture's own size. Nothing is taken from a symbol that stands clear of its picture's
//! border.

mod paper;
pub(super) mod pieces;
mod stubs;
#[cfg(test)]
pub(super) mod tests;
mod text;

use super::{MatcherError, Template};

/// Margin of the ink in a cut-out, as a share of the side, up to which the cut-out's side is the symbol's.
const SNUG: f32 = 0.12;
/// The same in pixels, for small symbols.
const SNUG_PX: f32 = 4.0;
/// The same as a share, on a side where a pipe's end bridges the margin.
const BRIDGED: f32 = 0.3;
/// Width of a cut-out by that of its ink from which margins are wide even if they are snug: those of a thin line.
const THIN: f32 = 1.5;

/// How far ink may lie outside of a template's box and belong to the symbol, as a share of the box's longer side and in
/// pixels: boxes are a little tight.
const BOX_SLACK: f32 = 0.03;
const BOX_SLACK_PX: f32 = 2.0;

/// Share of the ink from which what was removed is worth a person's look.
pub(super) const MUCH_REMOVED: f32 = 0.25;

/// Why something was taken out of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemovedKind {
    /// A part of a neighbour that the picture's border cuts off, and what stands in line with it.
    Fragment,
    /// The end of a pipe or wire that runs out to the border.
    Stub,
    /// A few pixels on their own.
    Speck,
}

/// Something that was taken out of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Why.
    pub kind: RemovedKind,
    /// Ink pixels, at the picture's own size.
    pub pixels: usize,
}

/// A template's picture, judged pixel by pixel; row by row at the picture's own size.
#[derive(Clone, Debug)]
pub(super) struct Clean {
    pub width: usize,
    pub height: usize,
    /// 1 where there is ink that belongs to the symbol or to text in it.
    pub ink: Vec<u8>,
    /// 0 (paper) to 255 (ink), with the paper evened out; what was removed is paper.
    pub darkness: Vec<u8>,
    /// 0 where nothing is known about the symbol: transparent, or something else stood there.
    pub care: Vec<u8>,
    /// 1 inside an outline that holds instance text.
    pub text: Vec<u8>,
    /// What each pixel was removed as.
    pub cut: Vec<Option<RemovedKind>>,
    /// The same, summed up.
    pub removed: Vec<Removed>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Box around the kept ink: left, top, right, bottom; the last two are one past the ink.
    pub bounds: [usize; 4],
    /// The box that a match stands for. The same as `bounds` on the sides where the symbol stands clear of the border;
    /// the picture's side where the picture is a snug cut-out of a drawing, because then a person has drawn this box.
    /// The template's own box where it says one.
    pub frame: [f32; 4],
}

/// Judges a template's picture; one without ink is an error.
pub(super) fn clean(template: &Template) -> Result<Clean, MatcherError> {
    let blank = || MatcherError::BlankTemplate { name: template.name.clone(), class: template.class.clone() };
    let (width, height) = (template.image.width() as usize, template.image.height() as usize);
    if width == 0 || height == 0 {
        return Err(blank());
    }
    let sheet = paper::read(&template.image).ok_or_else(blank)?;
    let raw = sheet.ink.clone();
    let mut clean = Clean {
        width,
        height,
        ink: sheet.ink,
        darkness: sheet.darkness,
        care: sheet.care,
        text: vec![0; width * height],
        cut: vec![None; width * height],
        removed: Vec::new(),
        notes: sheet.notes,
        bounds: [0; 4],
        frame: [0.0; 4],
    };
    if let Some(frame) = template.frame {
        let beyond = beyond_box(&clean.ink, width, frame);
        clean.take_out(&beyond, RemovedKind::Fragment);
        // Who says where the box is knows that the picture shows more.
        clean.removed.clear();
    }
    let (fragments, specks) = pieces::foreign(&clean.ink, width, height);
    clean.take_out(&specks, RemovedKind::Speck);
    clean.take_out(&fragments, RemovedKind::Fragment);
    let stubs = stubs::find(&clean.ink, width, height);
    clean.take_out(&stubs, RemovedKind::Stub);
    clean.bounds = bounds(&clean.ink, width).ok_or_else(blank)?;
    clean.frame = template.frame.unwrap_or_else(|| frame(clean.bounds, &raw, &stubs, width, height));
    clean.text = text::regions(&clean.ink, width, height);
    clean.tell();
    Ok(clean)
}

impl Clean {
    /// Makes pixels paper. Beside a fragment or a stub nothing is known, because more of it may follow there.
    fn take_out(&mut self, pixels: &[usize], kind: RemovedKind) {
        if pixels.is_empty() {
            return;
        }
        for &i in pixels {
            self.ink[i] = 0;
            self.cut[i] = Some(kind);
        }
        let (w, h) = (self.width, self.height);
        for &i in pixels {
            let (x, y) = (i % w, i / w);
            for v in y.saturating_sub(1)..=(y + 1).min(h - 1) {
                for u in x.saturating_sub(1)..=(x + 1).min(w - 1) {
                    let k = v * w + u;
                    if self.ink[k] == 0 {
                        self.darkness[k] = 0;
                        if kind != RemovedKind::Speck {
                            self.care[k] = 0;
                        }
                    }
                }
            }
        }
        self.removed.push(Removed { kind, pixels: pixels.len() });
    }

    /// The share of the ink that was removed.
    pub fn removed_share(&self) -> f32 {
        let removed: usize = self.removed.iter().map(|r| r.pixels).sum();
        removed as f32 / (removed + area(&self.ink)) as f32
    }

    /// Puts what was removed into words.
    fn tell(&mut self) {
        for r in &self.removed {
            let n = r.pixels;
            self.notes.push(match r.kind {
                RemovedKind::Fragment => format!("parts of neighbours left out ({n} pixels)"),
                RemovedKind::Stub => format!("ends of lines left out ({n} pixels)"),
                RemovedKind::Speck => format!("specks left out ({n} pixels)"),
            });
        }
        if self.text.contains(&1) {
            self.notes.push("writing inside may differ".into());
        }
    }
}

/// Number of pixels that are 1.
fn area(mask: &[u8]) -> usize {
    mask.iter().map(|&v| usize::from(v)).sum()
}

/// Box around ink; `None` without ink.
fn bounds(ink: &[u8], width: usize) -> Option<[usize; 4]> {
    let at = || (0..ink.len()).filter(|&i| ink[i] == 1);
    let (x0, x1) = (at().map(|i| i % width).min()?, at().map(|i| i % width).max()?);
    Some([x0, at().next()? / width, x1 + 1, at().next_back()? / width + 1])
}

/// Ink that is clear of the symbol's box: neighbours, and lines that end at the symbol.
fn beyond_box(ink: &[u8], width: usize, frame: [f32; 4]) -> Vec<usize> {
    let slack = (BOX_SLACK * (frame[2] - frame[0]).max(frame[3] - frame[1])).max(BOX_SLACK_PX);
    let beyond = |i: &usize| {
        let at = [(i % width) as f32 + 0.5, (i / width) as f32 + 0.5];
        (0..2).any(|k| at[k] < frame[k] - slack || at[k] > frame[k + 2] + slack)
    };
    (0..ink.len()).filter(|&i| ink[i] == 1).filter(beyond).collect()
}

/// See [`Clean::frame`]. Wider margins are halved: whether such a box belongs to the symbol or to the surroundings is
/// open, and half of it is a good box either way. Those of a thin line are made smaller until the box overlaps the ink's
/// and the picture's by the same share.
fn frame(bounds: [usize; 4], raw: &[u8], stubs: &[usize], width: usize, height: usize) -> [f32; 4] {
    let sides = |i: usize| {
        let (x, y) = (i % width, i / width);
        [x == 0, y == 0, x + 1 == width, y + 1 == height]
    };
    let own = bounds.map(|v| v as f32);
    if !(0..raw.len()).any(|i| raw[i] == 1 && sides(i).contains(&true)) {
        return own;
    }
    let picture = [0.0, 0.0, width as f32, height as f32];
    std::array::from_fn(|k| {
        let side = picture[2 + k % 2];
        let ink = own[2 + k % 2] - own[k % 2];
        if side > THIN * ink {
            let share = ((ink * side).sqrt() - ink) / (side - ink);
            return own[k] + (picture[k] - own[k]) * share;
        }
        let bridged = stubs.iter().any(|&i| sides(i)[k]);
        let snug = if bridged { (BRIDGED * side).max(SNUG_PX) } else { (SNUG * side).max(SNUG_PX) };
        if (own[k] - picture[k]).abs() <= snug { picture[k] } else { f32::midpoint(own[k], picture[k]) }
    })
}

//! From raw head output to boxes and scores. Owns the anchor grid and the expectation over the side distributions
//! ("Generalized Focal Loss", Li et al. 2020). Refuses to threshold, sort or suppress.

use super::{BINS, BOX_CHANNELS, Heads};

/// The centre of a head cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anchor {
    /// Input pixels.
    pub x: f32,
    /// Input pixels.
    pub y: f32,
    /// Input pixels per cell.
    pub stride: f32,
}

/// Boxes and scores of one image, in the order of [`anchors`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// `[anchor][x0, y0, x1, y1]`, input pixels, not clipped to the picture.
    pub boxes: Vec<[f32; 4]>,
    /// `[anchor * classes + class]`, 0..=1.
    pub scores: Vec<f32>,
    /// Classes.
    pub classes: usize,
}

/// All cells: level by level (finest first), row by row.
pub fn anchors(heads: &Heads) -> Vec<Anchor> {
    let cells = heads.levels.iter().flat_map(|level| {
        let stride = level.stride as f32;
        (0..level.height * level.width).map(move |i| {
            let (x, y) = ((i % level.width) as f32 + 0.5, (i / level.width) as f32 + 0.5);
            Anchor { x: x * stride, y: y * stride, stride }
        })
    });
    cells.collect()
}

/// Distances (left, top, right, bottom) in cells from the 4 x [`BINS`] logits of one cell.
pub fn distances(logits: &[f32]) -> [f32; 4] {
    std::array::from_fn(|side| {
        let bins = &logits[side * BINS..(side + 1) * BINS];
        let top = bins.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut mean) = (0.0, 0.0);
        for (bin, &logit) in bins.iter().enumerate() {
            let e = (logit - top).exp();
            sum += e;
            mean += e * bin as f32;
        }
        mean / sum
    })
}

/// The logistic function.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The box (x0, y0, x1, y1 in input pixels) that one cell's box logits stand for.
pub fn decode_box(anchor: Anchor, logits: &[f32]) -> [f32; 4] {
    let [l, t, r, b] = distances(logits).map(|d| d * anchor.stride);
    [anchor.x - l, anchor.y - t, anchor.x + r, anchor.y + b]
}

/// Boxes and class scores of image `image` of the batch.
pub fn decode(heads: &Heads, image: usize) -> Decoded {
    let classes = heads.levels[0].channels - BOX_CHANNELS;
    let cells = heads.levels.iter().flat_map(|level| {
        let size = level.height * level.width * level.channels;
        level.data[image * size..(image + 1) * size].chunks_exact(level.channels)
    });
    let mut decoded = Decoded { boxes: Vec::new(), scores: Vec::new(), classes };
    for (anchor, cell) in anchors(heads).into_iter().zip(cells) {
        let (logits, class_logits) = cell.split_at(BOX_CHANNELS);
        decoded.boxes.push(decode_box(anchor, logits));
        decoded.scores.extend(class_logits.iter().map(|&x| sigmoid(x)));
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharp_distributions_give_exact_boxes() {
        let mut heads = Heads::zeros(2, 32, 64, 3);
        // Second image, level 16, cell (column 3, row 1): left 1, top 2, right 3, bottom 15 cells.
        let level = &mut heads.levels[1];
        let start = (level.height * level.width + level.width + 3) * level.channels;
        let cell = &mut level.data[start..start + level.channels];
        for (side, bin) in [1, 2, 3, 15].into_iter().enumerate() {
            cell[side * BINS + bin] = 200.0;
        }
        cell[BOX_CHANNELS + 2] = 3.0;
        let decoded = decode(&heads, 1);
        assert_eq!(decoded.boxes.len(), 4 * 8 + 2 * 4 + 2);
        let index = 4 * 8 + 4 + 3;
        assert_eq!(anchors(&heads)[index], Anchor { x: 56.0, y: 24.0, stride: 16.0 });
        assert_eq!(decoded.boxes[index], [40.0, -8.0, 104.0, 264.0]);
        assert!((decoded.scores[index * 3 + 2] - 0.952_574).abs() < 1e-6);
        // Equal logits: the middle of the bins, 7.5 cells on each side; score one half.
        assert_eq!(decoded.boxes[0], [4.0 - 60.0, 4.0 - 60.0, 64.0, 64.0]);
        assert_eq!(decoded.scores[0], 0.5);
    }
}

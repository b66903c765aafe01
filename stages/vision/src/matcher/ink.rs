//! From grey levels to ink: threshold, polarity, specks, distance to the nearest ink.

use image::{GrayImage, RgbImage};

/// Grey levels by which ink and paper must differ at least; below that a picture counts as empty paper.
const MIN_CONTRAST: f64 = 24.0;

/// A drawing as ink on paper, row by row.
#[derive(Clone, Debug)]
pub(super) struct Ink {
    pub width: usize,
    pub height: usize,
    /// 1 where there is ink, else 0.
    pub mask: Vec<u8>,
    /// Grey levels with dark ink on light paper, whatever the polarity of the picture was.
    pub grey: Vec<u8>,
}

/// Which side of the threshold is ink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polarity {
    DarkOnLight,
    LightOnDark,
}

/// One grey level per pixel in which coloured lines keep their contrast: the darkest channel on light paper, the
/// lightest on dark paper.
pub(super) fn contrast_grey(picture: &RgbImage) -> GrayImage {
    let mut sum = 0u64;
    for p in picture.pixels() {
        sum += p.0.iter().map(|&v| u64::from(v)).sum::<u64>();
    }
    let light_paper = sum >= 3 * 128 * u64::from(picture.width()) * u64::from(picture.height());
    let pick = |[r, g, b]: [u8; 3]| if light_paper { r.min(g).min(b) } else { r.max(g).max(b) };
    let grey = picture.pixels().map(|p| pick(p.0)).collect();
    GrayImage::from_raw(picture.width(), picture.height(), grey).expect("one level per pixel")
}

/// Otsu's threshold (IEEE Trans. SMC 9, 1979): the level that separates two classes best, and the distance of the
/// classes' means. Levels up to the threshold are the dark class.
pub(super) fn otsu(grey: &[u8]) -> (u8, f64) {
    let mut histogram = [0u64; 256];
    for &v in grey {
        histogram[usize::from(v)] += 1;
    }
    let n = grey.len() as f64;
    let total: f64 = histogram.iter().enumerate().map(|(v, &c)| v as f64 * c as f64).sum();
    let (mut weight, mut sum, mut best, mut threshold, mut contrast) = (0.0, 0.0, -1.0, 0u8, 0.0);
    for (v, &count) in histogram.iter().enumerate() {
        weight += count as f64;
        sum += v as f64 * count as f64;
        if weight == 0.0 || weight == n {
            continue;
        }
        let distance = (total - sum) / (n - weight) - sum / weight;
        let between = weight * (n - weight) * distance * distance;
        if between > best {
            (best, threshold, contrast) = (between, v as u8, distance);
        }
    }
    (threshold, contrast)
}

impl Ink {
    /// Separates ink from paper. The rarer side is ink; a picture without contrast has none.
    pub fn of_drawing(grey: &GrayImage) -> Self {
        let (threshold, contrast) = otsu(grey.as_raw());
        let dark = grey.as_raw().iter().filter(|&&v| v <= threshold).count();
        let polarity = if 2 * dark > grey.as_raw().len() { Polarity::LightOnDark } else { Polarity::DarkOnLight };
        let mut ink = Self::split(grey, threshold, contrast, polarity);
        ink.despeckle();
        ink
    }

    /// Separates ink from paper with a polarity that is known.
    pub fn split(grey: &GrayImage, threshold: u8, contrast: f64, polarity: Polarity) -> Self {
        let (width, height) = (grey.width() as usize, grey.height() as usize);
        let empty = contrast < MIN_CONTRAST;
        let is_ink = |v: u8| !empty && ((v <= threshold) == (polarity == Polarity::DarkOnLight));
        let mask = grey.as_raw().iter().map(|&v| u8::from(is_ink(v))).collect();
        let grey = match polarity {
            Polarity::DarkOnLight => grey.as_raw().clone(),
            Polarity::LightOnDark => grey.as_raw().iter().map(|&v| 255 - v).collect(),
        };
        Self { width, height, mask, grey }
    }

    /// The part of the drawing inside a rectangle, which may reach outside.
    pub fn cut(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let (x0, y0) = (x.min(self.width), y.min(self.height));
        let (x1, y1) = ((x + width).min(self.width), (y + height).min(self.height));
        let part = |v: &[u8]| (y0..y1).flat_map(|r| v[r * self.width + x0..r * self.width + x1].to_vec()).collect();
        Self { width: x1 - x0, height: y1 - y0, mask: part(&self.mask), grey: part(&self.grey) }
    }

    /// True when no pixel is ink.
    pub fn is_empty(&self) -> bool {
        !self.mask.contains(&1)
    }

    /// Removes ink pixels with at most one neighbour of eight.
    fn despeckle(&mut self) {
        let (w, h) = (self.width, self.height);
        let mut specks = Vec::new();
        for y in 1..h.saturating_sub(1) {
            for x in 1..w.saturating_sub(1) {
                let i = y * w + x;
                if self.mask[i] == 0 {
                    continue;
                }
                let row = |i: usize| self.mask[i - 1] + self.mask[i] + self.mask[i + 1];
                if row(i - w) + row(i) + row(i + w) <= 2 {
                    specks.push(i);
                }
            }
        }
        for i in specks {
            self.mask[i] = 0;
        }
    }

    /// Darkness, 0 (paper) to 255 (ink), with the paper's and the ink's typical grey as the two ends, smoothed by a
    /// 5x5 binomial kernel.
    pub fn darkness(&self) -> Vec<u8> {
        smooth(&self.raw_darkness(), self.width, self.height)
    }

    /// The same, not smoothed.
    pub fn raw_darkness(&self) -> Vec<u8> {
        let (mut paper, mut ink) = ([0u64; 256], [0u64; 256]);
        for (&v, &m) in self.grey.iter().zip(&self.mask) {
            let histogram = if m == 0 { &mut paper } else { &mut ink };
            histogram[usize::from(v)] += 1;
        }
        let light = quantile(&paper, 0.5).unwrap_or(255) as f32;
        let dark = quantile(&ink, 0.2).unwrap_or(0) as f32;
        let span = (light - dark).max(1.0);
        let table: Vec<u8> =
            (0..256).map(|v| (255.0 * ((light - v as f32) / span).clamp(0.0, 1.0)).round() as u8).collect();
        self.grey.iter().map(|&v| table[usize::from(v)]).collect()
    }
}

fn quantile(histogram: &[u64; 256], q: f64) -> Option<usize> {
    let n: u64 = histogram.iter().sum();
    let mut seen = 0;
    histogram.iter().position(|&c| {
        seen += c;
        n > 0 && seen as f64 >= q * n as f64 && seen > 0
    })
}

/// Separable 5x5 binomial smoothing; the border repeats.
pub(super) fn smooth(v: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mix = |t: [u8; 5]| {
        let [a, b, c, d, e] = t.map(u32::from);
        ((a + e + 4 * (b + d) + 6 * c + 8) / 16) as u8
    };
    let clamp = |i: usize, offset: usize, n: usize| (i + offset).saturating_sub(2).min(n - 1);
    let mut rows = vec![0; v.len()];
    for y in 0..height {
        let row = &v[y * width..(y + 1) * width];
        for x in 0..width {
            rows[y * width + x] = mix(std::array::from_fn(|k| row[clamp(x, k, width)]));
        }
    }
    let mut out = vec![0; v.len()];
    for y in 0..height {
        let starts: [usize; 5] = std::array::from_fn(|k| clamp(y, k, height) * width);
        for x in 0..width {
            out[y * width + x] = mix(starts.map(|s| rows[s + x]));
        }
    }
    out
}

/// Chamfer 3-4 distance to the nearest ink in thirds of a pixel, cut off at `cap` (Borgefors, CVGIP 34, 1986).
pub(super) fn distance(mask: &[u8], width: usize, height: usize, cap: u8) -> Vec<u8> {
    let mut d: Vec<u8> = mask.iter().map(|&m| if m == 0 { cap } else { 0 }).collect();
    if width == 0 {
        return d;
    }
    for y in 0..height {
        let (above, rest) = d.split_at_mut(y * width);
        pass(&mut rest[..width], if y > 0 { above.get((y - 1) * width..) } else { None }, cap);
        let row = &mut rest[..width];
        for x in 1..width {
            row[x] = row[x].min(row[x - 1] + 3);
        }
    }
    for y in (0..height).rev() {
        let (rest, below) = d.split_at_mut((y + 1) * width);
        pass(&mut rest[y * width..], below.get(..width), cap);
        let row = &mut rest[y * width..];
        for x in (0..width - 1).rev() {
            row[x] = row[x].min(row[x + 1] + 3);
        }
    }
    d
}

/// Takes over distances from the neighbouring row, straight and diagonally.
fn pass(row: &mut [u8], neighbour: Option<&[u8]>, cap: u8) {
    let Some(n) = neighbour else { return };
    for x in 0..row.len() {
        let left = if x > 0 { n[x - 1] } else { cap };
        let right = n.get(x + 1).copied().unwrap_or(cap);
        row[x] = row[x].min(n[x] + 3).min(left.min(right) + 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_pictures_have_no_ink() {
        for level in [0, 128, 255] {
            assert!(Ink::of_drawing(&GrayImage::from_pixel(9, 7, image::Luma([level]))).is_empty());
        }
        assert!(Ink::of_drawing(&GrayImage::from_pixel(1, 1, image::Luma([0]))).is_empty());
    }

    #[test]
    fn polarity_does_not_change_the_ink() {
        let mut g = GrayImage::from_pixel(20, 20, image::Luma([240]));
        for x in 3..15 {
            g.put_pixel(x, 5, image::Luma([10]));
            g.put_pixel(x, 6, image::Luma([10]));
        }
        let mut inverted = g.clone();
        image::imageops::invert(&mut inverted);
        let (a, b) = (Ink::of_drawing(&g), Ink::of_drawing(&inverted));
        assert_eq!(a.mask, b.mask);
        assert_eq!(a.grey, b.grey);
        assert_eq!(a.mask.iter().filter(|&&m| m == 1).count(), 24);
    }

    #[test]
    fn distance_is_chamfer_and_capped() {
        let mut mask = vec![0; 49];
        mask[3 * 7 + 3] = 1;
        let d = distance(&mask, 7, 7, 8);
        assert_eq!(d[3 * 7 + 3], 0);
        assert_eq!(d[3 * 7 + 4], 3);
        assert_eq!(d[2 * 7 + 2], 4);
        assert_eq!(d[5], 8);
        assert_eq!(d[6 * 7 + 3], 8);
    }
}

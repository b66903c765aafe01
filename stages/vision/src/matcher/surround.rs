//! What is on the drawing around a symbol. Drafters leave room about symbols and lead lines to them; what looks like one
//! within a word or in the corner of a table has ink beside it that does not lead to it, and its lines go on beyond it.
//!
//! Owns where around a symbol is looked. Refuses to judge what is there.

use std::array::from_fn;
use std::ops::Range;

use super::bank::stretch_factors;
use super::ink::Ink;
use super::pose::Pose;
use super::score::Sheet;
use super::shape::Shape;

/// Longer side of a symbol, pixels, up to which the distances below are pixels; around larger ones they grow with it.
const SMALL: f32 = 64.0;
/// How far the rings are from the symbol's box, and those that are near to it; the others are farther away.
const DISTANCES: [u8; 7] = [3, 4, 5, 6, 7, 9, 11];
const NEAR: Range<usize> = 0..4;
/// Where a line that goes on beyond a corner of the box is looked for: from and to so far beyond the corner, and so far to
/// either side of the edge.
const BEYOND: [f32; 2] = [2.0, 7.0];
const BESIDE: f32 = 2.5;
/// More lines that lead away are not told apart.
const MOST_LEADS: u32 = 4;
/// Places are counted in parts of a pixel.
const FIXED_BITS: u32 = 16;
const FIXED: f32 = (1 << FIXED_BITS) as f32;

/// Ink around a symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Surround {
    /// Share of the ring around the symbol's box that is ink, near to it and farther away.
    pub near: f32,
    pub far: f32,
    /// How far lines along the box's edges go on beyond its corners, as a share of what is looked at.
    pub corners: f32,
    /// Lines that lead away from the box, in [`MOST_LEADS`].
    pub leads: f32,
    /// Share of what lies beyond a side of the box that is ink of no such line, on the side with the most.
    pub beside: f32,
}

impl Surround {
    /// Around a shape where a pose lays it. Beyond the drawing there is no ink.
    pub fn of(sheet: &Sheet, shape: &Shape, pose: &Pose) -> Self {
        let factors = stretch_factors(pose.stretch).map(|f| f * pose.scale);
        let half: [f32; 2] = from_fn(|k| 0.5 * (shape.extent[k + 2] - shape.extent[k]) * factors[k]);
        let middle = from_fn(|k| 0.5 * (shape.extent[k + 2] + shape.extent[k]));
        let axes = pose.matrix();
        let on =
            On { ink: &sheet.ink, middle: pose.placer()(middle), axes: from_fn(|k| axes[k].map(|v| v / factors[k])) };
        let unit = unit(half);
        // Ink that far from the box, beyond each of its sides.
        let sides = [(0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0)];
        let lines: [[u128; DISTANCES.len()]; 4] = sides.map(|(along, sign)| {
            DISTANCES.map(|d| {
                let [long, aside] = [along, 1 - along].map(|k| half[k] + f32::from(d) * unit);
                on.line(along, -long, unit, count(-long, long, unit), sign * aside)
            })
        });
        let share = |distances: Range<usize>| {
            let ink: u32 = lines.iter().flat_map(|side| &side[distances.clone()]).map(|line| line.count_ones()).sum();
            let long = DISTANCES[distances].iter().flat_map(|&d| half.map(|half| half + f32::from(d) * unit));
            ink as f32 / (2 * long.map(|long| count(-long, long, unit)).sum::<usize>()) as f32
        };
        let (mut leads, mut beside) = (0, 0.0f32);
        for ((along, _), side) in sides.iter().zip(&lines) {
            let n = count(-half[*along], half[*along], unit);
            // A line begins as many units before the box as it is away from it, and ends as many after it.
            let columns: [u128; DISTANCES.len()] = from_fn(|k| side[k] >> DISTANCES[k] & ((1 << n) - 1));
            let leading = columns[..=NEAR.end].iter().fold(u128::MAX, |all, line| all & line);
            leads += (leading & !(leading << 1)).count_ones();
            let theirs = leading | leading << 1 | leading >> 1;
            let ink: u32 = columns.iter().map(|line| (line & !theirs).count_ones()).sum();
            beside = beside.max(ink as f32 / (n * DISTANCES.len()) as f32);
        }
        // Beyond a corner, which a sign for each axis names, along one of its edges.
        let goes_on = |corner: [f32; 2], along: usize| {
            let (from, edge) = (half[along] + BEYOND[0] * unit, corner[1 - along] * half[1 - along]);
            let n = count(BEYOND[0] * unit, BEYOND[1] * unit, unit);
            let ink =
                |beside: f32| on.line(along, corner[along] * from, corner[along] * unit, n, edge + beside).count_ones();
            let most = steps(-BESIDE * unit, BESIDE * unit, unit).map(ink).max();
            most.unwrap_or(0) as f32 / n as f32
        };
        let signs = [-1.0, 1.0];
        let corners = signs.iter().flat_map(|&x| signs.map(|y| goes_on([x, y], 0) + goes_on([x, y], 1)));
        Self {
            near: share(NEAR),
            far: share(NEAR.end..DISTANCES.len()),
            corners: corners.sum::<f32>() / 8.0,
            leads: leads.min(MOST_LEADS) as f32 / MOST_LEADS as f32,
            beside,
        }
    }
}

/// Where offsets from the middle of a symbol's box, pixels of the drawing along the symbol's axes, lie.
struct On<'a> {
    ink: &'a Ink,
    middle: [f32; 2],
    axes: [[f32; 2]; 2],
}

impl On<'_> {
    /// Ink at `n` places along an axis, from an offset in steps, at an offset along the other axis: a bit for each place, the
    /// last one lowest, of at most 128.
    fn line(&self, along: usize, from: f32, step: f32, n: usize, aside: f32) -> u128 {
        let (axis, other) = (self.axes[along], self.axes[1 - along]);
        let fixed = |v: f32| (v * FIXED) as i64;
        let start: [i64; 2] = from_fn(|k| fixed(self.middle[k] + aside * other[k] + from * axis[k]));
        let by: [i64; 2] = from_fn(|k| fixed(step * axis[k]));
        let is_ink = |i: usize| {
            // What lies before the drawing becomes larger than it.
            let [x, y] = from_fn(|k| ((start[k] + i as i64 * by[k]) >> FIXED_BITS) as usize);
            x < self.ink.width && y < self.ink.height && self.ink.mask[y * self.ink.width + x] != 0
        };
        (0..n).fold(0, |bits, i| bits << 1 | u128::from(is_ink(i)))
    }
}

/// How far beyond a symbol of a diameter is looked, pixels.
pub(super) fn reach(diameter: f32) -> f32 {
    f32::from(DISTANCES[DISTANCES.len() - 1]) * unit([0.5 * diameter; 2]) * std::f32::consts::SQRT_2
}

/// What the distances are counted in, pixels, around a box of half the sides.
fn unit(half: [f32; 2]) -> f32 {
    (2.0 * half[0].max(half[1]) / SMALL).max(1.0)
}

/// How many numbers there are from one to another, the last one included where it is met.
fn count(from: f32, to: f32, by: f32) -> usize {
    1 + ((to - from) / by + 0.01).max(0.0) as usize
}

/// Those numbers.
fn steps(from: f32, to: f32, by: f32) -> impl Iterator<Item = f32> {
    (0..count(from, to, by)).map(move |i| from + i as f32 * by)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbaImage};

    use super::super::{Role, Template};
    use super::*;

    /// A square of 40 pixels' lines.
    fn square() -> Shape {
        let on = |x: u32, y: u32| x < 2 || y < 2 || x >= 38 || y >= 38;
        let level = |x, y| if on(x, y) { 0 } else { 255 };
        let image = RgbaImage::from_fn(40, 40, |x, y| image::Rgba([level(x, y), level(x, y), level(x, y), 255]));
        Shape::of(
            &Template { class: "square".into(), name: "square.png".into(), image, role: Role::Given, frame: None },
            1.0,
        )
        .unwrap()
    }

    /// Around the square in the middle of a drawing with more ink, at a pose.
    fn around(pose: Pose, more: impl Fn(i32, i32) -> bool) -> Surround {
        let on = |x: i32, y: i32| {
            let square = x.abs().max(y.abs());
            (18..20).contains(&square) || more(x, y)
        };
        let picture =
            GrayImage::from_fn(120, 120, |x, y| Luma([if on(x as i32 - 60, y as i32 - 60) { 10 } else { 250 }]));
        let sheet = Sheet::of(Ink::of_drawing(&picture));
        Surround::of(&sheet, &square(), &Pose { at: [60.0, 60.0], ..pose })
    }

    #[test]
    fn a_symbol_by_itself_has_room_and_a_cell_of_a_table_goes_on() {
        let upright = Pose::upright(1.0);
        assert_eq!(around(upright, |_, _| false), Surround::default());
        let cell = around(upright, |x, y| (-20..-18).contains(&y) || (18..20).contains(&x));
        assert!((cell.corners - 0.5).abs() < 1e-6, "two of the four lines go on, each both ways: {cell:?}");
        let pipe = around(upright, |x, y| y.abs() < 2 && x.abs() > 20);
        assert!(pipe.corners == 0.0 && pipe.near > 0.02 && pipe.near < 0.06, "{pipe:?}");
        assert_eq!((pipe.leads, pipe.beside), (0.5, 0.0), "two of them: {pipe:?}");
        let tee = around(upright, |x, y| (y.abs() < 2 && x.abs() > 20) || ((8..11).contains(&x) && y > 20));
        assert_eq!((tee.leads, tee.beside), (0.75, 0.0), "{tee:?}");
        let letter = around(upright, |x, y| (25..27).contains(&x) && y.abs() < 12);
        assert!(letter.leads == 0.0 && letter.beside > 0.15 && letter.beside < 0.3, "{letter:?}");
        let beyond = |from: i32| move |x: i32, y: i32| (from..from + 12).contains(&x.abs().max(y.abs()));
        let word = around(upright, beyond(22));
        assert!(word.near > 0.9 && word.far > 0.9, "{word:?}");
        let away = around(upright, beyond(28));
        assert!(away.near == 0.0 && away.far > 0.5, "{away:?}");
    }

    #[test]
    fn what_is_around_turns_with_the_symbol_and_ends_with_the_drawing() {
        let cell = |x: i32, y: i32| (-20..-18).contains(&y) && x.abs() < 40;
        let upright = around(Pose::upright(1.0), cell);
        let turned = around(Pose { angle: std::f32::consts::FRAC_PI_2, ..Pose::upright(1.0) }, |x, y| cell(y, -x));
        let near = |a: f32, b: f32| (a - b).abs() < 0.02;
        assert!(near(upright.near, turned.near) && near(upright.corners, turned.corners), "{upright:?} {turned:?}");
        assert!(upright.corners > 0.2);
        let sheet = Sheet::of(Ink::of_drawing(&GrayImage::from_pixel(50, 50, Luma([250]))));
        let at = Pose { at: [0.0, 49.0], ..Pose::upright(1.0) };
        assert_eq!(Surround::of(&sheet, &square(), &at), Surround::default());
    }
}

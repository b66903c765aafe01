//! Boxes and polygons, with the frame they are measured in as a type.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

/// Frame: pixels of the upright image (EXIF orientation applied), origin at the top left corner, x right, y down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pixels;

/// Frame: fractions of the image's width and height, 0..=1 inside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Unit;

/// An axis-aligned box in frame `F`: left, top, right, bottom. Serialised as `[x0, y0, x1, y1]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 4]", into = "[f64; 4]")]
#[serde(bound = "F: Copy")]
pub struct BBox<F> {
    /// Left edge.
    pub x0: f64,
    /// Top edge.
    pub y0: f64,
    /// Right edge (exclusive: a box one pixel wide has `x1 = x0 + 1`).
    pub x1: f64,
    /// Bottom edge (exclusive).
    pub y1: f64,
    frame: PhantomData<F>,
}

impl<F> From<[f64; 4]> for BBox<F> {
    fn from([x0, y0, x1, y1]: [f64; 4]) -> Self {
        Self::new(x0, y0, x1, y1)
    }
}

impl<F> From<BBox<F>> for [f64; 4] {
    fn from(b: BBox<F>) -> Self {
        [b.x0, b.y0, b.x1, b.y1]
    }
}

impl<F> BBox<F> {
    /// A box from its edges, as they are (not reordered, not clipped).
    pub const fn new(x0: f64, y0: f64, x1: f64, y1: f64) -> Self {
        Self { x0, y0, x1, y1, frame: PhantomData }
    }

    /// A box from its centre and size.
    pub fn from_center(cx: f64, cy: f64, w: f64, h: f64) -> Self {
        Self::new(cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0)
    }

    /// Width; negative when the edges are swapped.
    pub fn width(&self) -> f64 {
        self.x1 - self.x0
    }

    /// Height; negative when the edges are swapped.
    pub fn height(&self) -> f64 {
        self.y1 - self.y0
    }

    /// Area; 0 for a box without extent.
    pub fn area(&self) -> f64 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// Centre `(x, y)`.
    pub fn center(&self) -> (f64, f64) {
        (f64::midpoint(self.x0, self.x1), f64::midpoint(self.y0, self.y1))
    }

    /// The common part of two boxes; `None` when they do not overlap.
    #[must_use]
    pub fn intersection(&self, o: &Self) -> Option<Self> {
        let b = Self::new(self.x0.max(o.x0), self.y0.max(o.y0), self.x1.min(o.x1), self.y1.min(o.y1));
        (b.x1 > b.x0 && b.y1 > b.y0).then_some(b)
    }

    /// Area of the common part; 0 when they do not overlap.
    pub fn intersection_area(&self, o: &Self) -> f64 {
        self.intersection(o).map_or(0.0, |b| b.area())
    }

    /// Intersection over union, 0..=1; 0 for boxes without extent.
    pub fn iou(&self, o: &Self) -> f64 {
        let i = self.intersection_area(o);
        let u = self.area() + o.area() - i;
        if u > 0.0 { i / u } else { 0.0 }
    }

    /// The box moved by `(dx, dy)`.
    #[must_use]
    pub fn translated(&self, dx: f64, dy: f64) -> Self {
        Self::new(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)
    }

    /// True when all edges are finite numbers and both sides are positive.
    pub fn is_valid(&self) -> bool {
        [self.x0, self.y0, self.x1, self.y1].iter().all(|v| v.is_finite()) && self.x1 > self.x0 && self.y1 > self.y0
    }
}

impl BBox<Pixels> {
    /// The box as fractions of an image of `width` x `height` pixels.
    pub fn to_unit(&self, width: u32, height: u32) -> BBox<Unit> {
        let (w, h) = (f64::from(width), f64::from(height));
        BBox::new(self.x0 / w, self.y0 / h, self.x1 / w, self.y1 / h)
    }

    /// The part of the box inside an image of `width` x `height` pixels; `None` when nothing is left.
    pub fn clipped(&self, width: u32, height: u32) -> Option<Self> {
        self.intersection(&Self::new(0.0, 0.0, f64::from(width), f64::from(height)))
    }
}

impl BBox<Unit> {
    /// The box in pixels of an image of `width` x `height` pixels.
    pub fn to_pixels(&self, width: u32, height: u32) -> BBox<Pixels> {
        let (w, h) = (f64::from(width), f64::from(height));
        BBox::new(self.x0 * w, self.y0 * h, self.x1 * w, self.y1 * h)
    }
}

/// A closed polygon in pixels: `[x, y]` corners, last joined to first.
pub type Polygon = Vec<[f64; 2]>;

/// The smallest box around all corners of `polygons`; `None` without corners.
pub fn polygon_bounds(polygons: &[Polygon]) -> Option<BBox<Pixels>> {
    let mut points = polygons.iter().flatten();
    let &[x, y] = points.next()?;
    Some(points.fold(BBox::new(x, y, x, y), |b, &[x, y]| BBox::new(b.x0.min(x), b.y0.min(y), b.x1.max(x), b.y1.max(y))))
}

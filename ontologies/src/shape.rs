//! Vector shapes: what an SVG file draws, as paths that any scale, angle and stroke can be applied to.
//!
//! Owns reading the paths and drawing them as a picture. Refuses colour: ink is black on white.

use image::{GrayImage, Luma};
use resvg::tiny_skia::{FillRule, Mask, Path, PathBuilder, PathSegment, Pixmap, Rect, Stroke, Transform};
use resvg::usvg;

/// Ink of one path.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The path, in the SVG's units.
    pub path: Path,
    /// True when the inside is black.
    pub filled: bool,
    /// Width of the pen, in the SVG's units; `None` without an outline.
    pub stroke: Option<f32>,
}

/// A drawing made of black marks.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Width of the view box, in the SVG's units.
    pub width: f32,
    /// Height of the view box.
    pub height: f32,
    /// The marks, first drawn first.
    pub marks: Vec<Mark>,
}

/// An SVG file that is no shape.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// Not SVG.
    #[error("not a readable SVG file ({0})")]
    Unreadable(#[from] usvg::Error),
    /// Nothing drawn.
    #[error("the SVG file draws nothing")]
    Empty,
}

impl Shape {
    /// Reads the paths of an SVG file.
    pub fn parse(svg: &str) -> Result<Self, ShapeError> {
        let tree = usvg::Tree::from_str(svg, &usvg::Options::default())?;
        let mut marks = Vec::new();
        collect(tree.root(), &mut marks);
        if marks.is_empty() {
            return Err(ShapeError::Empty);
        }
        Ok(Self { width: tree.size().width(), height: tree.size().height(), marks })
    }

    /// The outlines of the ink when the paths are moved by `place` and drawn with pens `pen` times as wide as in the
    /// SVG, in the moved frame. Fill them with the winding rule.
    pub fn outlines(&self, place: Transform, pen: f32) -> Vec<Path> {
        let mut out = Vec::new();
        for mark in &self.marks {
            let Some(path) = mark.path.clone().transform(place) else { continue };
            if let Some(width) = mark.stroke {
                let stroke = Stroke { width: width * pen, ..Stroke::default() };
                out.extend(path.stroke(&stroke, 1.0));
            }
            if mark.filled {
                out.push(path);
            }
        }
        out
    }

    /// The same drawing by another hand: every contour of its paths, of which there may be several in a path, is moved by a
    /// transform of its own.
    pub fn redrawn(&self, mut change: impl FnMut() -> Transform) -> Self {
        let mut marks = Vec::new();
        for mark in &self.marks {
            for contour in contours(&mark.path) {
                marks.extend(contour.transform(change()).map(|path| Mark { path, ..*mark }));
            }
        }
        Self { marks, ..*self }
    }

    /// The smallest box around the ink, in the SVG's units; `None` when there is none.
    pub fn ink(&self) -> Option<Rect> {
        bounds(&self.outlines(Transform::identity(), 1.0))
    }

    /// The symbol as a grey picture, cropped to its ink with `margin` pixels of white around, `scale` pixels a unit.
    pub fn picture(&self, scale: f32, margin: u32) -> Option<GrayImage> {
        let ink = self.ink()?;
        let m = margin as f32;
        let width = (ink.width() * scale + 2.0 * m).ceil();
        let height = (ink.height() * scale + 2.0 * m).ceil();
        // Half of what the rounding up added goes to either side.
        let dx = (width - ink.width() * scale) / 2.0 - ink.x() * scale;
        let dy = (height - ink.height() * scale) / 2.0 - ink.y() * scale;
        let mut mask = Mask::new(width as u32, height as u32)?;
        for path in self.outlines(Transform::from_row(scale, 0.0, 0.0, scale, dx, dy), scale) {
            mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
        }
        let (w, data) = (mask.width(), mask.data());
        Some(GrayImage::from_fn(w, mask.height(), |x, y| Luma([255 - data[(y * w + x) as usize]])))
    }
}

/// The contours of a path, one by one.
fn contours(path: &Path) -> Vec<Path> {
    let mut all: Vec<PathBuilder> = Vec::new();
    for segment in path.segments() {
        if matches!(segment, PathSegment::MoveTo(_)) {
            all.push(PathBuilder::new());
        }
        let Some(last) = all.last_mut() else { continue };
        match segment {
            PathSegment::MoveTo(p) => last.move_to(p.x, p.y),
            PathSegment::LineTo(p) => last.line_to(p.x, p.y),
            PathSegment::QuadTo(p, q) => last.quad_to(p.x, p.y, q.x, q.y),
            PathSegment::CubicTo(p, q, r) => last.cubic_to(p.x, p.y, q.x, q.y, r.x, r.y),
            PathSegment::Close => last.close(),
        }
    }
    all.into_iter().filter_map(PathBuilder::finish).collect()
}

/// The smallest box around all paths, curves included.
pub fn bounds(paths: &[Path]) -> Option<Rect> {
    let mut all = paths.iter().filter_map(Path::compute_tight_bounds);
    let first = all.next()?;
    let (l, t, r, b) = all.fold((first.left(), first.top(), first.right(), first.bottom()), |(l, t, r, b), o| {
        (l.min(o.left()), t.min(o.top()), r.max(o.right()), b.max(o.bottom()))
    });
    Rect::from_ltrb(l, t, r, b)
}

/// An SVG file with all its colours, `width` pixels wide, on white: for pictures that people look at.
pub fn render(svg: &str, width: u32) -> Result<image::RgbImage, ShapeError> {
    let tree = usvg::Tree::from_str(svg, &usvg::Options::default())?;
    let scale = width as f32 / tree.size().width();
    let height = (tree.size().height() * scale).ceil().max(1.0) as u32;
    let mut map = Pixmap::new(width.max(1), height).ok_or(ShapeError::Empty)?;
    map.fill(resvg::tiny_skia::Color::WHITE);
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut map.as_mut());
    Ok(image::RgbImage::from_fn(map.width(), map.height(), |x, y| {
        let i = 4 * (y * map.width() + x) as usize;
        image::Rgb([map.data()[i], map.data()[i + 1], map.data()[i + 2]])
    }))
}

fn collect(group: &usvg::Group, marks: &mut Vec<Mark>) {
    for node in group.children() {
        match node {
            usvg::Node::Group(inner) => collect(inner, marks),
            usvg::Node::Path(path) if path.is_visible() => {
                let place = path.abs_transform();
                let scale = (place.sx * place.sy - place.kx * place.ky).abs().sqrt();
                if let Some(moved) = path.data().clone().transform(place) {
                    let stroke = path.stroke().map(|s| s.width().get() * scale);
                    marks.push(Mark { path: moved, filled: path.fill().is_some(), stroke });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">
        <g transform="translate(10 5)"><rect width="20" height="10" fill="none" stroke="#000" stroke-width="2"/></g></svg>"##;

    #[test]
    fn paths_come_with_their_transforms_and_pens() {
        let s = Shape::parse(SQUARE).unwrap();
        assert_eq!((s.width, s.height, s.marks.len()), (40.0, 20.0, 1));
        let ink = s.ink().unwrap();
        assert_eq!((ink.left(), ink.top(), ink.right(), ink.bottom()), (9.0, 4.0, 31.0, 16.0));
    }

    #[test]
    fn picture_is_cropped_to_the_ink() {
        let p = Shape::parse(SQUARE).unwrap().picture(2.0, 3).unwrap();
        assert_eq!(p.dimensions(), (44 + 6, 24 + 6));
        assert_eq!((p.get_pixel(2, 15).0, p.get_pixel(4, 15).0, p.get_pixel(25, 15).0), ([255], [0], [255]));
    }

    #[test]
    fn a_redrawn_shape_has_each_contour_where_it_was_moved() {
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">
            <path d="M5,5 H15 M20,5 C20,9 24,9 24,5 Q26,3 28,5 Z" fill="none" stroke="#000" stroke-width="2"/></svg>"##;
        let shape = Shape::parse(svg).unwrap();
        let same = shape.redrawn(Transform::identity);
        assert_eq!((same.marks.len(), same.ink()), (2, shape.ink()));
        let mut by = 0.0;
        let moved = shape.redrawn(|| {
            by += 2.0;
            Transform::from_translate(0.0, by)
        });
        let top = |s: &Shape, k: usize| s.marks[k].path.bounds().top();
        assert_eq!([0, 1].map(|k| top(&moved, k) - top(&same, k)), [2.0, 4.0]);
    }

    #[test]
    fn bad_files_are_told() {
        assert!(matches!(Shape::parse("<svg"), Err(ShapeError::Unreadable(_))));
        let empty = r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>"#;
        assert!(matches!(Shape::parse(empty), Err(ShapeError::Empty)));
    }
}

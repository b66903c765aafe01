//! Shapes that only together make an object: a box and its outlines, joined by a group number. Also turned boxes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::intake::box_of;
use crate::annotation::Annotation;
use crate::geometry::{BBox, Pixels, Polygon};

/// Attribute that keeps a group number which joins no outlines.
pub(super) const GROUP: &str = "group_id";

/// One shape of a file.
pub(super) struct Part {
    /// Its line, 0 when unknown.
    pub line: usize,
    /// Shapes of one group and class may be one object.
    pub group: Option<Value>,
    /// True for a box, false for an outline.
    pub is_box: bool,
    /// The shape as an object of its own.
    pub annotation: Annotation,
}

/// Joins the outlines of each group and class, and its box when it has one. A group with several boxes stays apart, its
/// number as an attribute.
pub(super) fn join(parts: Vec<Part>) -> Vec<(usize, Annotation)> {
    let key = |p: &Part| p.group.as_ref().map(|g| (g.to_string(), p.annotation.class.clone()));
    let mut boxes: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for p in &parts {
        if let Some(k) = key(p) {
            let (n, of) = boxes.entry(k).or_default();
            *n += usize::from(p.is_box);
            *of += 1;
        }
    }
    let mut objects: Vec<(usize, Annotation)> = Vec::with_capacity(parts.len());
    let mut open: BTreeMap<(String, String), (usize, bool)> = BTreeMap::new();
    for mut p in parts {
        let joined = key(&p).filter(|k| boxes[k].0 <= 1 && boxes[k].1 >= 2);
        let Some(k) = joined else {
            if let Some(group) = p.group.take() {
                p.annotation.attributes.insert(GROUP.into(), group);
            }
            objects.push((p.line, p.annotation));
            continue;
        };
        if let Some((at, has_box)) = open.get_mut(&k) {
            let object = &mut objects[*at].1;
            object.polygons.append(&mut p.annotation.polygons);
            if p.is_box {
                object.bbox = p.annotation.bbox;
                *has_box = true;
            } else if !*has_box {
                object.bbox = box_of(&object.polygons);
            }
        } else {
            open.insert(k, (objects.len(), p.is_box));
            objects.push((p.line, p.annotation));
        }
    }
    objects
}

/// The shapes an object is written as.
pub(super) enum Shapes<'a> {
    /// The box alone.
    Box,
    /// One outline, whose bounds are the box.
    Outline(&'a Polygon),
    /// A box and outlines, to be joined by a group.
    Group,
}

impl<'a> Shapes<'a> {
    pub fn of(annotation: &'a Annotation) -> Self {
        match annotation.polygons.as_slice() {
            [] => Self::Box,
            [one] if box_of(std::slice::from_ref(one)) == annotation.bbox => Self::Outline(one),
            _ => Self::Group,
        }
    }
}

/// Group numbers for the objects of an image that need one: those that no attribute uses.
pub(super) fn free_groups(annotations: &[Annotation]) -> impl Iterator<Item = u64> {
    let used: BTreeSet<u64> =
        annotations.iter().filter_map(|a| a.attributes.get(GROUP)).filter_map(Value::as_u64).collect();
    (1..).filter(move |n| !used.contains(n))
}

/// The corners of a box turned by `degrees` clockwise about `pivot`, and the upright box around them.
pub(super) fn turned(b: BBox<Pixels>, degrees: f64, pivot: (f64, f64)) -> (BBox<Pixels>, Polygon) {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let turn = |x: f64, y: f64| {
        let (dx, dy) = (x - pivot.0, y - pivot.1);
        [pivot.0 + dx * cos - dy * sin, pivot.1 + dx * sin + dy * cos]
    };
    let corners = vec![turn(b.x0, b.y0), turn(b.x1, b.y0), turn(b.x1, b.y1), turn(b.x0, b.y1)];
    (box_of(std::slice::from_ref(&corners)), corners)
}

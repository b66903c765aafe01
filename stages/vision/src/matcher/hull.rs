//! Convex hulls of points in the plane.

/// A convex polygon, corners in counter-clockwise order of a y-up plane (clockwise on a drawing with y down).
#[derive(Clone, Debug, Default)]
pub(super) struct Hull(pub Vec<[f32; 2]>);

fn cross(o: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])
}

impl Hull {
    /// The convex hull (Andrew's monotone chain). One or two points give a degenerate polygon.
    pub fn of(points: impl IntoIterator<Item = [f32; 2]>) -> Self {
        let mut p: Vec<[f32; 2]> = points.into_iter().collect();
        p.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
        p.dedup();
        if p.len() < 3 {
            return Self(p);
        }
        let mut corners = half(p.iter().copied());
        corners.extend(half(p.iter().rev().copied()));
        Self(corners)
    }

    /// True when the point is inside or at most `margin` outside every edge.
    pub fn contains(&self, [x, y]: [f32; 2], margin: f32) -> bool {
        let n = self.0.len();
        (0..n).all(|i| {
            let (a, b) = (self.0[i], self.0[(i + 1) % n]);
            let length = (b[0] - a[0]).hypot(b[1] - a[1]).max(1e-6);
            cross(a, b, [x, y]) / length >= -margin
        })
    }
}

/// The box around points with a margin: left, top, right, bottom.
pub(super) fn bounds(points: impl Iterator<Item = [f32; 2]>, margin: f32) -> [f32; 4] {
    points.fold([f32::MAX, f32::MAX, f32::MIN, f32::MIN], |b, [x, y]| {
        [b[0].min(x - margin), b[1].min(y - margin), b[2].max(x + margin), b[3].max(y + margin)]
    })
}

/// One side of the hull, without its last point.
fn half(points: impl Iterator<Item = [f32; 2]>) -> Vec<[f32; 2]> {
    let mut chain: Vec<[f32; 2]> = Vec::new();
    for q in points {
        while chain.len() >= 2 && cross(chain[chain.len() - 2], chain[chain.len() - 1], q) <= 0.0 {
            chain.pop();
        }
        chain.push(q);
    }
    chain.pop();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn square_with_inner_point() {
        let h = Hull::of([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [2.0, 2.0], [2.0, 0.0]]);
        assert_eq!(h.0.len(), 4);
        assert!(h.contains([1.0, 3.0], 0.0));
        assert!(!h.contains([5.0, 3.0], 0.5));
        assert!(h.contains([5.0, 3.0], 1.0));
    }

    #[test]
    fn degenerate_point_sets() {
        assert_eq!(Hull::of([]).0.len(), 0);
        assert_eq!(Hull::of([[1.0, 1.0], [1.0, 1.0]]).0.len(), 1);
        assert_eq!(Hull::of([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).0.len(), 2);
    }
}

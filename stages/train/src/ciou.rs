//! Complete IoU of two boxes and its gradient (Zheng et al., "Enhancing geometric factors in model learning", 2020).
//!
//! Owns the one formula that the assigner and the loss share. Refuses to own frames: any unit will do, as long as both
//! boxes use the same.

use std::f64::consts::PI;

/// Left, top, right, bottom.
pub type Corners = [f64; 4];

/// Keeps divisions by an empty area, an empty hull or an empty height finite.
const EPS: f64 = 1e-7;

/// Complete IoU, about -1.5..=1: IoU less the squared centre distance over the squared hull diagonal, less the weighted
/// difference of the aspect ratios.
pub fn ciou(p: &Corners, t: &Corners) -> f64 {
    let parts = Parts::new(p, t);
    parts.value(parts.alpha())
}

/// Complete IoU of a predicted box `p` with the truth `t`, and its derivative by the four edges of `p`. The aspect weight
/// alpha counts as a constant, as the paper has it.
pub fn ciou_with_gradient(p: &Corners, t: &Corners) -> (f64, Corners) {
    let parts = Parts::new(p, t);
    let alpha = parts.alpha();
    (parts.value(alpha), parts.gradient(p, t, alpha))
}

/// The terms of the formula.
struct Parts {
    w: f64,
    h: f64,
    inter: [f64; 2],
    union: f64,
    hull: [f64; 2],
    diagonal2: f64,
    shift: [f64; 2],
    angle: f64,
}

impl Parts {
    fn new(p: &Corners, t: &Corners) -> Self {
        let (w, h, wt, ht) = (p[2] - p[0], p[3] - p[1], t[2] - t[0], t[3] - t[1]);
        let inter = [0, 1].map(|i| (p[i + 2].min(t[i + 2]) - p[i].max(t[i])).max(0.0));
        let hull = [0, 1].map(|i| p[i + 2].max(t[i + 2]) - p[i].min(t[i]));
        Self {
            w,
            h,
            inter,
            union: w * h + wt * ht - inter[0] * inter[1] + EPS,
            hull,
            diagonal2: hull[0] * hull[0] + hull[1] * hull[1] + EPS,
            shift: [0, 1].map(|i| (p[i] + p[i + 2] - t[i] - t[i + 2]) / 2.0),
            angle: (wt / (ht + EPS)).atan() - (w / (h + EPS)).atan(),
        }
    }

    fn iou(&self) -> f64 {
        self.inter[0] * self.inter[1] / self.union
    }

    fn aspect(&self) -> f64 {
        4.0 / (PI * PI) * self.angle * self.angle
    }

    fn alpha(&self) -> f64 {
        let v = self.aspect();
        v / (v - self.iou() + 1.0 + EPS)
    }

    fn distance2(&self) -> f64 {
        self.shift[0] * self.shift[0] + self.shift[1] * self.shift[1]
    }

    fn value(&self, alpha: f64) -> f64 {
        self.iou() - self.distance2() / self.diagonal2 - alpha * self.aspect()
    }

    fn gradient(&self, p: &Corners, t: &Corners, alpha: f64) -> Corners {
        let area = self.inter[0] * self.inter[1];
        let overlapping = self.inter[0] > 0.0 && self.inter[1] > 0.0;
        let size = [self.w, self.h];
        let he = self.h + EPS;
        let turn = self.w * self.w + he * he;
        // d aspect / d (w, h)
        let by_size = [-he / turn, self.w / turn].map(|d| 8.0 / (PI * PI) * self.angle * d);
        std::array::from_fn(|edge| {
            let axis = edge % 2;
            let low = edge < 2;
            let sign = if low { -1.0 } else { 1.0 };
            let inner = if low { p[edge] > t[edge] } else { p[edge] < t[edge] };
            let outer = if low { p[edge] < t[edge] } else { p[edge] > t[edge] };
            let d_inter = if overlapping && inner { sign * self.inter[1 - axis] } else { 0.0 };
            let d_union = sign * size[1 - axis] - d_inter;
            let d_iou = (d_inter * self.union - area * d_union) / (self.union * self.union);
            let d_diagonal2 = if outer { 2.0 * self.hull[axis] * sign } else { 0.0 };
            let d_centre = (self.shift[axis] * self.diagonal2 - self.distance2() * d_diagonal2)
                / (self.diagonal2 * self.diagonal2);
            d_iou - d_centre - alpha * sign * by_size[axis]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(Corners, Corners); 5] = [
        ([1.0, 2.0, 5.0, 7.0], [2.0, 1.0, 6.0, 6.5]),
        ([1.0, 2.0, 9.0, 9.0], [2.0, 3.0, 6.0, 6.5]),
        ([3.0, 4.0, 4.0, 6.0], [2.0, 3.0, 6.0, 6.5]),
        ([0.0, 0.0, 1.0, 3.0], [5.0, 5.0, 9.0, 7.0]),
        ([1.0, 1.0, 4.0, 2.0], [1.5, 0.5, 2.5, 6.0]),
    ];

    #[test]
    fn equal_boxes_have_one_and_distant_ones_less_than_zero() {
        let b = [1.0, 2.0, 5.0, 7.0];
        assert!((ciou(&b, &b) - 1.0).abs() < 1e-6);
        assert!(ciou(&PAIRS[3].0, &PAIRS[3].1) < 0.0);
    }

    #[test]
    fn a_known_value() {
        // IoU 1/7, centres sqrt(2) apart, hull 3x3, equal aspect.
        let v = ciou(&[0.0, 0.0, 2.0, 2.0], &[1.0, 1.0, 3.0, 3.0]);
        assert!((v - (1.0 / 7.0 - 2.0 / 18.0)).abs() < 1e-6, "{v}");
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences_at_fixed_alpha() {
        for (p, t) in PAIRS {
            let alpha = Parts::new(&p, &t).alpha();
            let (_, g) = ciou_with_gradient(&p, &t);
            for i in 0..4 {
                let step = 1e-5;
                let (mut a, mut b) = (p, p);
                a[i] -= step;
                b[i] += step;
                let fd = (Parts::new(&b, &t).value(alpha) - Parts::new(&a, &t).value(alpha)) / (2.0 * step);
                assert!((fd - g[i]).abs() < 1e-6, "edge {i} of {p:?} and {t:?}: {} is not {fd}", g[i]);
            }
        }
    }
}

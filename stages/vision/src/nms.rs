//! Non-maximum suppression.
//!
//! Owns the choice among overlapping candidates. Knows no network and no confidence threshold: it sees every candidate
//! it is given, however many there are.

use datasets::BBox;

/// A box that may be an object. One place that may be several classes gives one candidate for each (multi-label).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<F> {
    /// The box.
    pub bbox: BBox<F>,
    /// Class index.
    pub class: usize,
    /// Confidence, 0..=1.
    pub score: f32,
}

/// Sorts by score, highest first; ties by class, then by the box, so that the order of the input does not matter.
pub fn sort<F>(candidates: &mut [Candidate<F>]) {
    candidates.sort_by(|a, b| {
        let edges = |c: &Candidate<F>| [c.bbox.x0, c.bbox.y0, c.bbox.x1, c.bbox.y1];
        b.score.total_cmp(&a.score).then(a.class.cmp(&b.class)).then_with(|| {
            edges(a)
                .iter()
                .zip(edges(b))
                .map(|(p, q)| p.total_cmp(&q))
                .find(|o| o.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        })
    });
}

/// Greedy suppression within each class: the best candidate stays, and those that overlap it by more than `iou` go.
/// Returns at most `max_det` candidates, best first. Classes never suppress each other.
pub fn nms<F: Copy>(mut candidates: Vec<Candidate<F>>, iou: f64, max_det: usize) -> Vec<Candidate<F>> {
    sort(&mut candidates);
    let classes = candidates.iter().map(|c| c.class + 1).max().unwrap_or(0);
    let mut kept_of: Vec<Vec<BBox<F>>> = vec![Vec::new(); classes];
    let mut kept = Vec::new();
    for c in candidates {
        if kept.len() == max_det {
            break;
        }
        let same = &mut kept_of[c.class];
        if same.iter().all(|k| k.iou(&c.bbox) <= iou) {
            same.push(c.bbox);
            kept.push(c);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use datasets::Pixels;

    use super::*;

    fn candidate(x: f64, class: usize, score: f32) -> Candidate<Pixels> {
        Candidate { bbox: BBox::new(x, 0.0, x + 10.0, 10.0), class, score }
    }

    #[test]
    fn overlapping_boxes_of_one_class_leave_the_best() {
        let kept = nms(vec![candidate(0.0, 0, 0.5), candidate(1.0, 0, 0.9), candidate(30.0, 0, 0.1)], 0.7, 300);
        assert_eq!(kept, vec![candidate(1.0, 0, 0.9), candidate(30.0, 0, 0.1)]);
    }

    #[test]
    fn classes_do_not_suppress_each_other() {
        assert_eq!(nms(vec![candidate(0.0, 0, 0.5), candidate(0.0, 1, 0.9)], 0.7, 300).len(), 2);
    }

    #[test]
    fn an_overlap_equal_to_the_threshold_stays() {
        // 5 of 15 in common.
        let pair = vec![candidate(0.0, 0, 0.5), candidate(5.0, 0, 0.9)];
        assert_eq!(nms(pair.clone(), 1.0 / 3.0, 300).len(), 2);
        assert_eq!(nms(pair, 0.333, 300).len(), 1);
    }

    #[test]
    fn ties_do_not_depend_on_the_input_order() {
        let mut some: Vec<_> = (0..40).map(|i| candidate(f64::from(i * 7 % 40), (i % 3) as usize, 0.5)).collect();
        let first = nms(some.clone(), 0.5, 300);
        some.reverse();
        assert_eq!(nms(some.clone(), 0.5, 300), first);
        some.rotate_left(13);
        assert_eq!(nms(some, 0.5, 300), first);
    }

    #[test]
    fn nothing_is_cut_but_by_the_maximum() {
        let many: Vec<_> = (0..40_000).map(|i| candidate(f64::from(i) * 20.0, 0, 0.001)).collect();
        assert_eq!(nms(many[..3000].to_vec(), 0.7, usize::MAX).len(), 3000);
        assert_eq!(nms(many, 0.7, 300).len(), 300);
        assert!(nms(Vec::<Candidate<Pixels>>::new(), 0.7, 300).is_empty());
    }

    #[test]
    fn chains_are_greedy() {
        // The middle box falls to the first, so the last, which only overlaps the middle one, stays.
        let kept = nms(vec![candidate(0.0, 0, 0.9), candidate(4.0, 0, 0.8), candidate(8.0, 0, 0.7)], 0.3, 300);
        assert_eq!(kept.iter().map(|c| c.bbox.x0).collect::<Vec<_>>(), [0.0, 8.0]);
    }
}

//! Why a box got its confidence, in plain words.
//!
//! Owns the words. Refuses to compute anything: it reads what the labeller kept in the box's provenance, and leaves out
//! what is not there.

use datasets::Annotation;
use report::number::fixed;

/// Share from which a part of the template counts as there.
const GOOD_PART: f64 = 0.9;
/// Share of foreign ink that is not worth a word.
const NO_FOREIGN: f64 = 0.02;
/// Agreement of the layout of lettering, up to 1, under which it is another one.
const OTHER_TEXT: f64 = 0.3;
/// Spreads from what is usual on the drawing that are worth a word.
const UNUSUAL: f64 = 2.0;
/// Share of the lines along a box's edges that go on beyond its corners, from which they are worth a word.
const GOES_ON: f64 = 0.3;
/// Deviations from the template that are worth a word: of the turn in degrees, of size and shape as a share.
const TURN_DEG: f64 = 3.0;
const RESIZED: f64 = 0.1;
const STRETCHED: f64 = 0.05;

/// What is known about a box: each entry a clause.
pub fn explain(a: &Annotation) -> Vec<String> {
    let share = |name: &str| a.provenance.evidence.get(name).copied().filter(|v| v.is_finite());
    let mut out = Vec::new();
    if let Some(v) = share("coverage") {
        out.push(format!("{} of the template's ink is there", whole(v.clamp(0.0, 1.0))));
    }
    if let Some(v) = share("worst_sector").filter(|v| *v < GOOD_PART) {
        let there = whole(v.clamp(0.0, 1.0));
        out.push(match part(a) {
            Some(part) => format!("weakest part: {part} ({there})"),
            None => format!("weakest part: {there}"),
        });
    }
    if let Some(v) = share("unexplained") {
        out.push(if v < NO_FOREIGN { "no foreign ink".into() } else { format!("{} foreign ink", whole(v.min(1.0))) });
    }
    let usual = |name: &str| {
        let unusual = share(&format!("better_{name}")).is_some_and(|v| v < -UNUSUAL);
        let usual = share(&format!("usual_{name}")).filter(|_| unusual);
        usual.map(|u| format!(" (usual on this drawing: {})", whole(u.clamp(0.0, 1.0))))
    };
    if let (Some(v), Some(usual)) = (share("ink_near"), usual("ink_near")) {
        out.push(format!("{} ink close around it{usual}", whole(v.clamp(0.0, 1.0))));
    }
    if share("ink_at_corners").is_some_and(|v| v > GOES_ON) {
        out.push("lines go on beyond its corners".into());
    }
    if let Some(more) = share("more_leads").filter(|v| v.abs() > UNUSUAL) {
        let how = if more > 0.0 { "more" } else { "fewer" };
        out.push(format!("{how} lines lead to it than to the sure ones of its class"));
    }
    if let Some(v) = share("correlation").or_else(|| share("ncc")) {
        let usual = usual("correlation").unwrap_or_default();
        out.push(format!("pixel by pixel {} alike{usual}", whole(v.clamp(0.0, 1.0))));
    }
    if share("text_layout").is_some_and(|v| v < OTHER_TEXT) && share("has_text").is_some_and(|v| v > 0.5) {
        out.push("the lettering sits otherwise".into());
    }
    out.extend(runner_up(a));
    out.extend(pose(a));
    out
}

/// The explanation as one sentence; empty when nothing is known.
pub fn sentence(clauses: &[String]) -> String {
    let text = clauses.join("; ");
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).chain(['.']).collect())
}

/// A share in whole percent: more digits would claim more than a look can tell.
fn whole(share: f64) -> String {
    format!("{} %", fixed(share * 100.0, 0))
}

/// What else fits the place, and how well.
fn runner_up(a: &Annotation) -> Option<String> {
    let margin = a.provenance.evidence.get("margin").copied();
    let Some(class) = a.attributes.get("runner_up").and_then(|v| v.as_str()) else {
        return margin.filter(|m| *m >= 1.0).map(|_| "nothing else fits here".to_owned());
    };
    let distance = match margin {
        Some(m) if m >= 0.5 => ", far behind",
        Some(m) if m >= 0.2 => ", behind",
        Some(m) if m >= 0.05 => ", close behind",
        Some(_) => ", as good",
        None => "",
    };
    Some(if class == a.class {
        format!("next best: another picture of {class}{distance}")
    } else {
        format!("next best: {class}{distance}")
    })
}

/// How the template lies on the drawing.
fn pose(a: &Annotation) -> Option<String> {
    let number = |name: &str| a.provenance.evidence.get(name).copied().filter(|v| v.is_finite());
    let mut words = Vec::new();
    if number("mirrored").is_some_and(|v| v > 0.5) {
        words.push("mirrored".to_owned());
    }
    if let Some(v) = number("rotation_deg").map(|v| v.rem_euclid(360.0)).filter(|v| v.min(360.0 - v) > TURN_DEG) {
        let quarter = (v / 90.0).round() * 90.0;
        words.push(format!("turned {}°", fixed(if (v - quarter).abs() <= TURN_DEG { quarter } else { v }, 0)));
    }
    if let Some(v) = number("scale").filter(|v| (v - 1.0).abs() > RESIZED) {
        words.push(format!("{} times the template's size", fixed(v, 2)));
    }
    if let Some(v) = number("stretch").filter(|v| (v - 1.0).abs() > STRETCHED) {
        let (share, than) = if v > 1.0 { (v - 1.0, "wider") } else { (1.0 / v - 1.0, "taller") };
        words.push(format!("{} {than}", whole(share)));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// Where the weakest part is, as it lies on the drawing: its centre is known in the template's frame, 0..=1.
fn part(a: &Annotation) -> Option<String> {
    let number = |name: &str| a.provenance.evidence.get(name).copied().filter(|v| v.is_finite());
    let (mut x, y) = (number("worst_sector_x")? - 0.5, number("worst_sector_y")? - 0.5);
    if number("mirrored").is_some_and(|v| v > 0.5) {
        x = -x;
    }
    let (sin, cos) = number("rotation_deg").unwrap_or(0.0).to_radians().sin_cos();
    let (x, y) = (x * cos - y * sin, x * sin + y * cos);
    let third = |v: f64, low: &'static str, high: &'static str| match v {
        v if v < -1.0 / 6.0 => low,
        v if v > 1.0 / 6.0 => high,
        _ => "",
    };
    Some(match (third(y, "upper", "lower"), third(x, "left", "right")) {
        ("", "") => "the middle".into(),
        ("upper", "") => "the top".into(),
        ("lower", "") => "the bottom".into(),
        ("", side) => format!("the {side}"),
        (level, side) => format!("{level} {side}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::scored;

    fn with(evidence: &[(&str, f64)]) -> Annotation {
        let mut a = scored("motor valve", [0.0, 0.0, 9.0, 9.0], 0.5);
        a.provenance.evidence = evidence.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        a
    }

    #[test]
    fn all_that_is_known_in_one_sentence() {
        let mut a = with(&[
            ("coverage", 0.91),
            ("worst_sector", 0.62),
            ("worst_sector_x", 0.125),
            ("worst_sector_y", 0.875),
            ("unexplained", 0.08),
            ("margin", 0.6),
            ("rotation_deg", 0.0),
            ("scale", 1.0),
            ("something_new", 3.0),
        ]);
        a.attributes.insert("runner_up".into(), "gate valve".into());
        assert_eq!(
            sentence(&explain(&a)),
            "91 % of the template's ink is there; weakest part: lower left (62 %); 8 % foreign ink; next best: gate \
             valve, far behind."
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        assert_eq!(sentence(&explain(&with(&[]))), "");
        assert_eq!(explain(&with(&[("worst_sector", 0.5)])), ["weakest part: 50 %"]);
        let lettered = [("has_text", 1.0), ("text_layout", 0.1)];
        assert_eq!(explain(&with(&lettered)), ["the lettering sits otherwise"]);
        assert_eq!(explain(&with(&lettered[1..])), [""; 0]);
        assert_eq!(explain(&with(&[("worst_sector", 0.95), ("unexplained", f64::NAN)])), [""; 0]);
    }

    #[test]
    fn what_is_usual_on_the_drawing_is_told_where_a_box_falls_short_of_it() {
        let alike = |better: f64| {
            explain(&with(&[("correlation", 0.82), ("usual_correlation", 0.95), ("better_correlation", better)]))
        };
        assert_eq!(alike(-3.5), ["pixel by pixel 82 % alike (usual on this drawing: 95 %)"]);
        assert_eq!(alike(-1.0), ["pixel by pixel 82 % alike"]);
        let around = [("ink_near", 0.18), ("usual_ink_near", 0.04), ("better_ink_near", -4.0), ("ink_at_corners", 0.5)];
        let words = ["18 % ink close around it (usual on this drawing: 4 %)", "lines go on beyond its corners"];
        assert_eq!(explain(&with(&around)), words);
        assert_eq!(explain(&with(&[("ink_near", 0.05), ("better_ink_near", -0.4), ("ink_at_corners", 0.1)])), [""; 0]);
    }

    #[test]
    fn other_numbers_of_leads_than_usual_are_told() {
        let leads = |more: f64| explain(&with(&[("leads", 0.5), ("more_leads", more)]));
        assert_eq!(leads(2.5), ["more lines lead to it than to the sure ones of its class"]);
        assert_eq!(leads(-4.0), ["fewer lines lead to it than to the sure ones of its class"]);
        assert_eq!(leads(1.5), [""; 0]);
    }

    #[test]
    fn parts_lie_where_the_drawing_has_them() {
        let at = |x: f64, y: f64, turn: f64, mirrored: f64| {
            let pose = [("worst_sector_x", x), ("worst_sector_y", y), ("rotation_deg", turn), ("mirrored", mirrored)];
            part(&with(&pose)).unwrap()
        };
        assert_eq!(at(0.1, 0.5, 0.0, 0.0), "the left");
        // A quarter turn clockwise takes the left to the top.
        assert_eq!(at(0.1, 0.5, 90.0, 0.0), "the top");
        assert_eq!(at(0.1, 0.1, 180.0, 0.0), "lower right");
        assert_eq!(at(0.1, 0.1, 0.0, 1.0), "upper right");
        assert_eq!(at(0.5, 0.5, 45.0, 0.0), "the middle");
    }

    #[test]
    fn poses_that_say_something_are_told() {
        assert_eq!(explain(&with(&[("rotation_deg", 269.0)])), ["turned 270°"]);
        let turned = [("rotation_deg", 359.0), ("mirrored", 1.0), ("scale", 0.5), ("stretch", 0.8)];
        assert_eq!(explain(&with(&turned)), ["mirrored, 0.50 times the template's size, 25 % taller"]);
    }
}

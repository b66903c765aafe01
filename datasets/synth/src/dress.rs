//! What else is on a drawing: frame, title block, notes, vessels, unlisted symbols, tags, line numbers, arrows.
//!
//! Owns everything that the truth does not list.

use std::sync::LazyLock;

use datasets::BBox;

use crate::canvas::{Bounds, Point};
use crate::draft::Draft;
use crate::lettered;
use crate::settings::Trade;
use crate::symbol::{Role, Symbol};

const WORDS: [&str; 28] = [
    "ALL", "VALVES", "SHALL", "BE", "NC", "LOCKED", "OPEN", "DRAIN", "TO", "SEWER", "SEE", "DWG", "INSTALL", "PER",
    "SPEC", "VENT", "INSULATE", "TYP", "PIPING", "NOTE", "FIELD", "VERIFY", "LOW", "POINT", "SLOPE", "1/8\"", "MIN",
    "FT",
];

/// Unlisted symbols: name, whether a listed outline is part of it, role, drawing.
const UNLISTED: [(&str, bool, Role, &str); 15] = [
    ("reducer", false, Role::Inline, r#"<path d="M-30,-24 L30,-12 V12 L-30,24 Z"/>"#),
    ("flanges", false, Role::Inline, r#"<path d="M-5,-20 V20 M5,-20 V20"/>"#),
    ("strainer", false, Role::Inline, r#"<path d="M-32,0 H32 M-32,-12 V12 M32,-12 V12 M-4,0 L16,28 M8,34 L24,22"/>"#),
    ("sight glass", false, Role::Inline, r#"<path d="M-32,-14 H32 V14 H-32 Z M-12,-14 V14 M12,-14 V14"/>"#),
    (
        "bellows",
        false,
        Role::Inline,
        r#"<path d="M-28,0 L-24,-14 L-16,14 L-8,-14 L0,14 L8,-14 L16,14 L24,-14 L28,0"/>"#,
    ),
    ("break", false, Role::Inline, r##"<path d="M0,-28 V22"/><path d="M0,-28 L16,-21 L0,-14 Z" fill="#000"/>"##),
    ("funnel", false, Role::Free, r#"<path d="M-18,-18 L0,12 L18,-18 Z M0,12 V34"/>"#),
    ("revision", false, Role::Free, r#"<path d="M-24,18 L0,-24 L24,18 Z"/>"#),
    ("vent", false, Role::Free, r#"<path d="M-10,34 H10 M0,34 V-6 Q0,-26 16,-26 Q30,-26 30,-8"/>"#),
    ("pump", true, Role::Inline, r#"<circle r="34"/><path d="M-20,-27 L34,0 L-20,27 M-18,29 L-28,46 H28 L18,29"/>"#),
    ("motor", true, Role::Free, r#"<circle r="28"/><path d="M-11,12 V-12 L0,4 L11,-12 V12"/>"#),
    ("gate valve", true, Role::Inline, r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z"/>"#),
    ("check valve", true, Role::Inline, r#"<path d="M-36,22 V-22 L36,22 V-22"/>"#),
    (
        "control valve",
        true,
        Role::Inline,
        r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z M0,0 V-36 M-20,-36 A20,18 0 0 1 20,-36 Z"/>"#,
    ),
    ("box", true, Role::Free, r#"<path d="M-30,-30 H30 V30 H-30 Z M-30,-30 L30,30 M-30,30 L30,-30"/>"#),
];

static UNLISTED_SYMBOLS: LazyLock<Vec<(bool, Symbol)>> = LazyLock::new(|| {
    UNLISTED.iter().map(|&(name, lookalike, role, body)| (lookalike, Symbol::drawn(name, role, body))).collect()
});

/// The unlisted symbols.
pub(crate) fn unlisted() -> impl Iterator<Item = &'static Symbol> {
    UNLISTED_SYMBOLS.iter().map(|(_, symbol)| symbol)
}

impl Draft<'_> {
    /// Frame with grid marks, title block, sometimes notes.
    pub fn frame(&mut self) {
        let (w, h, u) = (f64::from(self.s.width), f64::from(self.s.height), self.u);
        let (outer, inset) = (0.22 * u, 0.5 * u);
        let thin = self.thin();
        let frame = BBox::new(inset, inset, w - inset, h - inset);
        self.canvas.rect(BBox::new(outer, outer, w - outer, h - outer), thin);
        self.canvas.rect(frame, self.pen * 1.4);
        let (columns, rows) = ((w / (4.0 * u)).ceil(), (h / (4.0 * u)).ceil());
        let middle = f64::midpoint(outer, inset);
        for i in 0..columns as usize {
            let x = w * (i as f64 + 0.5) / columns;
            for y in [middle, h - middle] {
                self.canvas.text(&(i + 1).to_string(), [x, y], 0.15 * u, 0.0, thin);
            }
            for (a, b) in [(outer, inset), (h - inset, h - outer)] {
                let x = w * i as f64 / columns;
                if i > 0 {
                    self.canvas.lines(&[[x, a], [x, b]], thin);
                }
            }
        }
        for i in 0..rows as usize {
            let y = h * (i as f64 + 0.5) / rows;
            let letter = char::from(b'A' + (i % 26) as u8).to_string();
            for x in [middle, w - middle] {
                self.canvas.text(&letter, [x, y], 0.15 * u, 0.0, thin);
            }
        }
        if self.s.writing > 0.0 && self.chance(self.s.writing) {
            self.column(frame);
            return;
        }
        self.title_block(frame);
        if self.chance(0.6) {
            self.notes(frame);
        }
    }

    fn title_block(&mut self, frame: Bounds) {
        const FIELDS: [&str; 8] = ["DRAWN", "CHECKED", "SCALE", "REV", "DATE", "SHEET", "PROJECT", "APPROVED"];
        const TITLES: [&str; 6] = [
            "CHILLED WATER PLANT",
            "BOILER HOUSE",
            "AIR HANDLING UNIT 3",
            "COOLING TOWERS",
            "HEAT RECOVERY",
            "CONDENSATE RETURN",
        ];
        const CIRCUITS: [&str; 6] =
            ["POWER SUPPLY", "MOTOR CONTROL", "INPUT STAGE", "RELAY BOARD", "LOGIC CARD", "CHARGER"];
        let u = self.u;
        let (width, height) = ((5.2 * u).min(frame.width() * 0.45), 1.9 * u);
        let b = BBox::new(frame.x1 - width, frame.y1 - height, frame.x1, frame.y1);
        let thin = self.thin();
        self.canvas.rect(b, self.pen);
        let row = |n: f64| b.y0 + height * n / 4.0;
        for n in 1..4 {
            self.canvas.lines(&[[b.x0, row(f64::from(n))], [b.x1, row(f64::from(n))]], thin);
        }
        let size = 0.17 * u;
        let (kind, titles) = match self.s.trade {
            Trade::Piping => ("PIPING AND INSTRUMENT DIAGRAM", TITLES),
            Trade::Electrical => ("SCHEMATIC DIAGRAM", CIRCUITS),
        };
        let title = self.pick(&titles);
        self.canvas.text(kind, [b.center().0, row(0.5)], size * 0.9, 0.0, thin);
        self.canvas.text(title, [b.center().0, row(1.5)], size * 1.15, 0.0, thin * 1.2);
        for n in 2..4 {
            for column in 0..3 {
                let x = b.x0 + width * (f64::from(column) + 0.5) / 3.0;
                if column > 0 {
                    let edge = b.x0 + width * f64::from(column) / 3.0;
                    self.canvas.lines(&[[edge, row(f64::from(n))], [edge, row(f64::from(n + 1))]], thin);
                }
                let text = format!("{} {}", self.pick(&FIELDS), self.below(90));
                self.canvas.text(&text, [x, row(f64::from(n) + 0.5)], size * 0.8, 0.0, thin);
            }
        }
        self.solid.push(b);
    }

    fn notes(&mut self, frame: Bounds) {
        let u = self.u;
        let (lines, size) = (3 + self.below(4), 0.16 * u);
        let width = (4.6 * u).min(frame.width() * 0.4);
        let (x0, y0) = (frame.x1 - width - 0.2 * u, frame.y0 + 0.25 * u);
        for n in 0..=lines {
            let text = if n == 0 { "NOTES:".to_owned() } else { self.sentence(&format!("{n}."), size, width) };
            let w = crate::canvas::text_size(&text, size)[0];
            let pen = self.thin().min(1.2);
            self.canvas.text(&text, [x0 + w / 2.0, y0 + size * (0.5 + 1.7 * n as f64)], size, 0.0, pen);
        }
        self.solid.push(BBox::new(x0, y0, x0 + width, y0 + size * 1.7 * (lines as f64 + 1.0)));
    }

    /// Words after a beginning, as many as fit into a width; of letters `size` high.
    pub fn sentence(&mut self, beginning: &str, size: f64, width: f64) -> String {
        let mut text = beginning.to_owned();
        for _ in 0..40 {
            let longer = format!("{text} {}", self.pick(&WORDS));
            if crate::canvas::text_size(&longer, size)[0] > width {
                break;
            }
            text = longer;
        }
        text
    }

    /// Vessels; gives back their nozzles: point and way out.
    pub fn vessels(&mut self, count: usize) -> Vec<(Point, Point)> {
        let u = self.u;
        let mut nozzles = Vec::new();
        for _ in 0..count {
            for _ in 0..30 {
                let tall = self.chance(0.6);
                let (short, long) = (self.between(1.3, 2.0) * u, self.between(2.4, 3.8) * u);
                let (w, h) = if tall { (short, long) } else { (long, short) };
                let [x, y] = self.anywhere(u);
                let b = Bounds::from_center(x, y, w, h);
                if !self.is_free(b, 1.2 * u) {
                    continue;
                }
                self.vessel(b, tall);
                for way in [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]] {
                    if self.chance(0.6) {
                        let off = self.between(-0.3, 0.3);
                        let point = [
                            x + w * if way[0] == 0.0 { off * 0.5 } else { way[0] * 0.5 },
                            y + h * if way[1] == 0.0 { off } else { way[1] * 0.5 },
                        ];
                        nozzles.push((point, way));
                    }
                }
                break;
            }
        }
        nozzles
    }

    fn vessel(&mut self, b: Bounds, tall: bool) {
        let (u, pen) = (self.u, self.pen * 1.2);
        let head = 0.3 * u;
        let kind = self.below(3);
        if kind == 0 {
            // A box with a name: chiller, air handling unit.
            self.canvas.rect(b, pen);
        } else if tall {
            self.canvas.lines(&[[b.x0, b.y0 + head], [b.x0, b.y1 - head]], pen);
            self.canvas.lines(&[[b.x1, b.y0 + head], [b.x1, b.y1 - head]], pen);
            for (y, dome) in [(b.y0 + head, -head), (b.y1 - head, head)] {
                self.dome([b.x0, y], [b.x1, y], [0.0, dome], pen);
            }
        } else {
            self.canvas.lines(&[[b.x0 + head, b.y0], [b.x1 - head, b.y0]], pen);
            self.canvas.lines(&[[b.x0 + head, b.y1], [b.x1 - head, b.y1]], pen);
            for (x, dome) in [(b.x0 + head, -head), (b.x1 - head, head)] {
                self.dome([x, b.y0], [x, b.y1], [dome, 0.0], pen);
                self.canvas.lines(&[[x, b.y0], [x, b.y1]], self.thin());
            }
            if kind == 2 {
                // Tubes of a heat exchanger.
                for n in 1..4 {
                    let y = b.y0 + b.height() * f64::from(n) / 4.0;
                    self.canvas.lines(&[[b.x0 + head, y], [b.x1 - head, y]], self.thin());
                }
            }
        }
        let name = format!("{}-{}", self.pick(&["TK", "HX", "CH", "AHU", "B", "V"]), 101 + self.below(80));
        let c = b.center();
        let center = if kind == 2 && !tall { [c.0, b.y0 - 0.2 * u] } else { [c.0, c.1] };
        self.write(&name, center, 0.22 * u, 0.0);
        self.solid.push(b);
    }

    /// A curve from `a` to `b` that bulges by `out`.
    fn dome(&mut self, a: Point, b: Point, out: Point, pen: f64) {
        const STEPS: usize = 24;
        let arc: Vec<Point> = (0..=STEPS)
            .map(|i| {
                let t = i as f64 / STEPS as f64;
                let high = (1.0 - (2.0 * t - 1.0).powi(2)).max(0.0).sqrt();
                [a[0] + (b[0] - a[0]) * t + out[0] * high, a[1] + (b[1] - a[1]) * t + out[1] * high]
            })
            .collect();
        self.canvas.lines(&arc, pen);
    }

    /// Puts `count` unlisted symbols.
    pub fn unlisted(&mut self, count: usize) {
        for _ in 0..count {
            // Where classes differ in their texts, an outline without any is the look-alike.
            if self.s.lettered > 0 && self.chance(0.6) {
                let symbol = lettered::stranger(&mut self.rng);
                self.place(&symbol, false);
                continue;
            }
            let lookalike = self.chance(self.s.lookalikes);
            let all: Vec<&Symbol> =
                UNLISTED_SYMBOLS.iter().filter(|(l, _)| *l == lookalike).map(|(_, symbol)| symbol).collect();
            let symbol = self.pick(&all);
            if !self.alike.contains(&symbol.name) {
                self.place(symbol, false);
            }
        }
    }

    /// Tags beside symbols in pipes.
    pub fn tags(&mut self) {
        let u = self.u;
        for placed in self.placed.clone() {
            if placed.role == Role::Balloon || placed.role == Role::Line || !self.chance(self.s.tags) {
                continue;
            }
            let text = format!("{}-{}", self.pick(&["HV", "XV", "FV", "TV", "PCV", "V", "BV"]), 101 + self.below(890));
            let [small, large] = self.s.letters;
            let height = 0.19 * u * self.between(small, large);
            if self.s.touching > 0.0 && self.chance(self.s.touching) && self.write_touching(&text, &placed, height) {
                continue;
            }
            let [w, _] = crate::canvas::text_size(&text, height);
            let b = placed.bounds;
            let (cx, cy) = b.center();
            let (side, above) = (w / 2.0 + 0.2 * u, 0.24 * u);
            let spots = [[cx, b.y1 + above], [cx, b.y0 - above], [b.x1 + side, cy], [b.x0 - side, cy]];
            let first = self.below(4);
            for k in 0..4 {
                if self.try_write(&text, spots[(first + k) % 4], height, 0.0) {
                    break;
                }
            }
        }
    }

    /// Line numbers along pipes and arrows of flow in them.
    pub fn label_pipes(&mut self) {
        let u = self.u;
        for n in 0..self.runs.len() {
            let run = self.runs[n].clone();
            if run.length() > 4.0 * u && self.chance(0.7) {
                let size = 0.18 * u;
                let text = format!(
                    "{}\"-{}-{}-{}",
                    self.pick(&["1", "2", "3", "4", "6", "8", "10"]),
                    self.pick(&["CW", "CHW", "HW", "ST", "GL", "CD"]),
                    1000 + self.below(9000),
                    self.pick(&["A1A", "B2C", "D1", "150"])
                );
                for _ in 0..5 {
                    let t = self.between(run.ends[0] + u, run.ends[1] - u);
                    let [x, y] = run.point(t);
                    let off = 0.2 * u;
                    let (center, degrees) = if run.horizontal { ([x, y - off], 0.0) } else { ([x - off, y], 270.0) };
                    if self.try_write(&text, center, size, degrees) {
                        break;
                    }
                }
            }
            let forward = self.chance(0.5);
            for _ in 0..(run.length() / (6.0 * u)).ceil() as usize {
                let t = self.between(run.ends[0] + 0.4 * u, run.ends[1] - 0.4 * u);
                let [x, y] = run.point(t);
                let spot = Bounds::from_center(x, y, 0.4 * u, 0.4 * u);
                if self.is_free(spot, 0.05 * u) && self.is_off_pipes(spot, Some(n)) {
                    let sign = if forward { 1.0 } else { -1.0 };
                    self.arrow([x, y], if run.horizontal { [sign, 0.0] } else { [0.0, sign] });
                }
            }
        }
    }
}

//! The column beside a drawing that holds what is written about it: notes, revisions, names and numbers in cells.
//!
//! Owns its layout: letters from small to large, thin and bold, between ruled lines. Refuses to be drawn on: symbols and
//! pipes stay out of it.

use datasets::BBox;

use crate::canvas::{Bounds, text_size};
use crate::draft::Draft;

const NAMES: [&str; 24] = [
    "DRAWING NAME",
    "SCALE",
    "REV",
    "UNIT",
    "CONTRACT",
    "PROJECT NO.",
    "SHEET",
    "OF",
    "CHECKED",
    "APPROVED",
    "DATE",
    "CLIENT",
    "SAMPLE",
    "PLANT",
    "A",
    "B",
    "0",
    "NTS",
    "ISSUED",
    "DESCRIPTION",
    "AREA",
    "FILE",
    "P&ID",
    "LOCATION",
];

/// Share of the frame's width that the column takes, and of its height that is cells.
const WIDTH: [f64; 2] = [0.17, 0.27];
const CELLS: [f64; 2] = [0.3, 0.6];
/// Heights of a row of cells, and of its letters against it.
const ROW: [f64; 2] = [0.3, 1.0];
const LETTERS: [f64; 2] = [0.35, 0.65];
/// Most cells in a row.
const MOST_CELLS: usize = 9;
/// Heights of the letters of notes.
const NOTE: [f64; 2] = [0.11, 0.22];
/// Width of bold letters' lines against their height.
const BOLD: f64 = 0.17;

impl Draft<'_> {
    /// The column at the right edge of a frame. Lengths are in nominal sizes of a symbol.
    pub fn column(&mut self, frame: Bounds) {
        let width = self.between(WIDTH[0], WIDTH[1]) * frame.width();
        let b = BBox::new(frame.x1 - width, frame.y0, frame.x1, frame.y1);
        self.canvas.rect(b, self.pen);
        let split = frame.y1 - self.between(CELLS[0], CELLS[1]) * frame.height();
        let mut y = b.y1;
        while y > split {
            let height = self.between(ROW[0], ROW[1]) * self.u;
            let row = BBox::new(b.x0, y - height, b.x1, y);
            self.row(row);
            y = row.y0;
        }
        self.list(BBox::new(b.x0, b.y0, b.x1, y));
        self.solid.push(b);
        self.inner.x1 = self.inner.x1.min(b.x0 - 0.3 * self.u);
    }

    /// Cells beside each other.
    fn row(&mut self, b: Bounds) {
        let pen = self.thin();
        self.canvas.lines(&[[b.x0, b.y0], [b.x1, b.y0]], pen);
        let cells = 1 + self.below(MOST_CELLS);
        let widths: Vec<f64> = (0..cells).map(|_| self.between(0.5, 1.5)).collect();
        let unit = b.width() / widths.iter().sum::<f64>();
        let mut x = b.x0;
        for (n, width) in widths.into_iter().enumerate() {
            let cell = BBox::new(x, b.y0, x + width * unit, b.y1);
            if n > 0 {
                self.canvas.lines(&[[x, b.y0], [x, b.y1]], pen);
            }
            self.cell(cell);
            x = cell.x1;
        }
    }

    /// A few words in the middle of a cell, as large as fits.
    fn cell(&mut self, b: Bounds) {
        let mut text = self.pick(&NAMES).to_owned();
        if self.chance(0.4) {
            text = format!("{text} {}", self.below(9000));
        }
        let height = self.between(LETTERS[0], LETTERS[1]) * b.height();
        let height = height * (0.9 * b.width() / text_size(&text, height)[0]).min(1.0);
        let bold = if self.chance(0.4) { BOLD * height } else { 0.0 };
        let (x, y) = b.center();
        self.canvas.text(&text, [x, y], height, 0.0, bold.max(self.thin().min(0.12 * height)));
    }

    /// Numbered notes from the top down.
    fn list(&mut self, b: Bounds) {
        let size = self.between(NOTE[0], NOTE[1]) * self.u;
        let bottom = b.y1 - self.between(0.0, 0.5) * b.height();
        let (mut y, mut n) = (b.y0 + 2.0 * size, 0);
        while y + size < bottom {
            n += 1;
            let text = self.sentence(&format!("{n}."), size, b.width() - 2.0 * size);
            let width = text_size(&text, size)[0];
            let pen = self.thin().min(0.14 * size);
            self.canvas.text(&text, [b.x0 + size + width / 2.0, y], size, 0.0, pen);
            y += size * self.between(1.5, 2.4);
        }
    }
}

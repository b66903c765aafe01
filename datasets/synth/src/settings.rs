//! What a sheet should look like.
//!
//! Owns every knob, its range and its default. Refuses to draw.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Longest side of a sheet, in pixels: the rasteriser's limit.
pub const MAX_SIDE: u32 = 8000;
const MIN_SIDE: u32 = 320;

/// How symbols may be turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Upright, on horizontal pipes.
    None,
    /// Along horizontal and vertical pipes; instruments stay upright, as drafters draw them.
    Quarter,
    /// By any angle, instruments too.
    Any,
}

/// What kind of drawing it is, and which library its symbols are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trade {
    /// Piping and instrumentation diagrams.
    Piping,
    /// Electrical schematics.
    Electrical,
}

/// Colours of a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Palette {
    /// Dark grey on light grey.
    Grey,
    /// Light grey on dark grey, as on a screen.
    Inverted,
    /// Light lines on blue.
    Blueprint,
    /// Coloured lines on white: symbols, pipes and texts each have theirs.
    Coloured,
}

impl Palette {
    /// True when red, green and blue are the same everywhere.
    pub fn is_grey(self) -> bool {
        matches!(self, Self::Grey | Self::Inverted)
    }
}

/// Settings of a sheet. Ranges are `[low, high]`, drawn evenly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthSettings {
    /// Kind of drawing.
    pub trade: Trade,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Symbols a sheet; fewer when they do not fit.
    pub symbols: [u32; 2],
    /// Class names from the trade's symbol library, such as `ball valve`; all when empty.
    pub classes: Vec<String>,
    /// False leaves the library's classes out: only invented and wild ones are drawn.
    pub library: bool,
    /// Number of wild classes added to them: made of random strokes, for drawings that no library is of.
    pub wild: u32,
    /// Number of invented classes added to them: outlines, fillings and attachments combined at random by the seed.
    pub invented: u32,
    /// Number of classes added to them that differ in what is written in a common outline.
    pub lettered: u32,
    /// Size in pixels of a library symbol (96 units of its drawing) at scale 1.
    pub symbol_px: f64,
    /// Scale of whole sheets: everything on a sheet, lines too, is so many times larger; one draw a sheet.
    pub sheet_scale: [f64; 2],
    /// Scale of single symbols.
    pub scale: [f64; 2],
    /// Length of symbols along their axis against their drawing, their width unchanged; drawn for each.
    pub aspect: [f64; 2],
    /// How far the parts of a symbol differ in size and place from its drawing, as a share of its size; drawn for each.
    pub redrawn: f64,
    /// True when up to two lines lead to a symbol that stands by itself, as many as to the others of its class. Otherwise
    /// only those that are turned may have some.
    pub leads: bool,
    /// Turning of symbols.
    pub rotation: Rotation,
    /// Share of symbols that are mirrored, 0..=1.
    pub mirror: f64,
    /// Width of the symbols' lines in pixels; one draw a sheet.
    pub stroke: [f64; 2],
    /// Width of a single symbol's lines against its sheet's; drawn for each.
    pub stroke_spread: [f64; 2],
    /// Share of symbols that a pipe is drawn across, 0..=1.
    pub crossing: f64,
    /// Unlisted symbols for each listed one.
    pub distractors: f64,
    /// Share of the unlisted symbols that contain the outline of a listed one (pumps, gate valves, motors), 0..=1.
    pub lookalikes: f64,
    /// Share of symbols with a tag beside them, 0..=1.
    pub tags: f64,
    /// Share of the tags that lie so near to their symbol that they may touch it, 0..=1.
    pub touching: f64,
    /// Size of letters in and beside symbols against the usual one; drawn for each.
    pub letters: [f64; 2],
    /// Notes with leaders, dimensions, clouds, hatching, small marks and further look-alikes for each listed symbol.
    pub clutter: f64,
    /// Share of the sheets with a column of notes, revisions and title cells in place of a small title block, 0..=1.
    pub writing: f64,
    /// How often a signal's pattern is repeated in one stretch, counted in whole library drawings.
    pub signal_repeats: [u32; 2],
    /// Colours.
    pub palette: Palette,
    /// Share of the light that is missing where the sheet is darkest, 0..=.9: uneven lighting, shadows at the edge.
    pub illumination: f64,
    /// Grey of the paper.
    pub paper: [u8; 2],
    /// Grey of the ink.
    pub ink: [u8; 2],
    /// Turn of the whole sheet, in degrees to either side at most.
    pub skew: f64,
    /// Lines were drawn in whole pixels and the sheet was resized afterwards: lines of one symbol differ in width and
    /// grey.
    pub whole_pixels: bool,
    /// Standard deviation of the blur, in pixels.
    pub blur: f64,
    /// Standard deviation of the grain, in grey levels.
    pub noise: f64,
    /// Share of pixels that are specks, 0..=1.
    pub speckle: f64,
    /// Black and white only, as fax and bitonal scans are.
    pub bilevel: bool,
    /// JPEG quality 1..=100; `None` writes PNG.
    pub jpeg_quality: Option<u8>,
    /// Share of the sheets that paper, lighting, skew, whole pixels, blur, noise, speckle, bilevel and JPEG
    /// are for, 0..=1; the others are clean.
    pub scan_share: f64,
}

impl Default for SynthSettings {
    /// Clean sheets as a drawing program prints them.
    fn default() -> Self {
        Self {
            trade: Trade::Piping,
            width: 2000,
            height: 1500,
            symbols: [60, 90],
            classes: Vec::new(),
            library: true,
            wild: 0,
            invented: 0,
            lettered: 0,
            symbol_px: 64.0,
            sheet_scale: [1.0, 1.0],
            scale: [0.8, 1.25],
            aspect: [1.0, 1.0],
            redrawn: 0.0,
            leads: false,
            rotation: Rotation::Quarter,
            mirror: 0.0,
            stroke: [1.8, 2.6],
            stroke_spread: [0.95, 1.05],
            crossing: 0.1,
            distractors: 0.25,
            lookalikes: 0.2,
            tags: 0.6,
            touching: 0.0,
            letters: [1.0, 1.0],
            clutter: 0.0,
            writing: 0.0,
            signal_repeats: [1, 1],
            palette: Palette::Grey,
            illumination: 0.0,
            paper: [255, 255],
            ink: [0, 30],
            skew: 0.0,
            whole_pixels: false,
            blur: 0.0,
            noise: 0.0,
            speckle: 0.0,
            bilevel: false,
            jpeg_quality: None,
            scan_share: 1.0,
        }
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting `{key}`: {message}")]
pub struct SettingsError {
    /// Name of the field.
    pub key: &'static str,
    /// What is allowed.
    pub message: String,
}

impl SynthSettings {
    /// Clean sheets: the default.
    pub fn clean() -> Self {
        Self::default()
    }

    /// Sheets that were printed, used and scanned.
    pub fn scanned() -> Self {
        Self {
            stroke: [1.4, 3.0],
            paper: [205, 245],
            ink: [20, 80],
            skew: 0.8,
            blur: 0.9,
            noise: 9.0,
            speckle: 0.0004,
            jpeg_quality: Some(60),
            ..Self::default()
        }
    }

    /// Clean sheets with symbols at any angle, half of them mirrored.
    pub fn any_angle() -> Self {
        Self { rotation: Rotation::Any, mirror: 0.5, ..Self::default() }
    }

    /// The same drawings with `classes` wild classes instead of those of the library.
    pub fn wild(self, classes: u32) -> Self {
        Self { library: false, wild: classes, classes: Vec::new(), ..self }
    }

    /// The settings of sheet `index`: those of a clean sheet when its scan is not in the share that is scanned.
    pub(crate) fn of_sheet(&self, index: u64) -> Cow<'_, Self> {
        // Spread evenly over the indices, so that any run of sheets has its share.
        let scanned = |n: u64| (n as f64 * self.scan_share).floor() as u64;
        let n = index % 1000;
        if self.scan_share >= 1.0 || scanned(n + 1) > scanned(n) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            paper: [255, 255],
            illumination: 0.0,
            skew: 0.0,
            whole_pixels: false,
            blur: 0.0,
            noise: 0.0,
            speckle: 0.0,
            bilevel: false,
            jpeg_quality: None,
            ..self.clone()
        })
    }

    /// Refuses what cannot be drawn.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fail = |key, message: &str| Err(SettingsError { key, message: message.to_owned() });
        let side = MIN_SIDE..=MAX_SIDE;
        if !side.contains(&self.width) || !side.contains(&self.height) {
            let key = if side.contains(&self.width) { "height" } else { "width" };
            return fail(key, &format!("must be {MIN_SIDE} to {MAX_SIDE} pixels"));
        }
        for (key, [low, high], least, most) in [
            ("sheet_scale", self.sheet_scale, 0.1, 10.0),
            ("scale", self.scale, 0.1, 10.0),
            ("aspect", self.aspect, 0.3, 3.0),
            ("stroke", self.stroke, 0.3, 40.0),
            ("stroke_spread", self.stroke_spread, 0.1, 10.0),
            ("letters", self.letters, 0.2, 5.0),
            ("symbols", self.symbols.map(f64::from), 0.0, 1e5),
            ("signal_repeats", self.signal_repeats.map(f64::from), 1.0, 50.0),
            ("paper", self.paper.map(f64::from), 0.0, 255.0),
            ("ink", self.ink.map(f64::from), 0.0, 255.0),
        ] {
            if !(low >= least && low <= high && high <= most) {
                return fail(key, &format!("must be [low, high] with {least} <= low <= high <= {most}"));
            }
        }
        for (key, share) in [
            ("mirror", self.mirror),
            ("crossing", self.crossing),
            ("lookalikes", self.lookalikes),
            ("tags", self.tags),
            ("touching", self.touching),
            ("writing", self.writing),
            ("scan_share", self.scan_share),
            ("speckle", self.speckle),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return fail(key, "must be 0 to 1");
            }
        }
        for (key, value, most) in [
            ("distractors", self.distractors, 10.0),
            ("clutter", self.clutter, 10.0),
            ("redrawn", self.redrawn, 0.5),
            ("illumination", self.illumination, 0.9),
            ("skew", self.skew, 3.0),
            ("blur", self.blur, 10.0),
            ("noise", self.noise, 80.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return fail(key, &format!("must be 0 to {most}"));
            }
        }
        if !self.library && self.wild + self.invented == 0 {
            return fail("library", "may be false only with `wild` or `invented` classes");
        }
        let room = f64::from(self.width.min(self.height)) / 5.0;
        let size = |n: usize| self.symbol_px * self.scale[n] * self.sheet_scale[n];
        if !(8.0..=room).contains(&size(1)) || !(4.0..).contains(&size(0)) {
            return fail(
                "symbol_px",
                "times `scale` and `sheet_scale` must be at least 8 pixels and at most a fifth of the sheet's shorter side",
            );
        }
        if self.paper[0] <= self.ink[1] {
            return fail("ink", "must be darker than `paper`");
        }
        if self.jpeg_quality.is_some_and(|q| !(1..=100).contains(&q)) {
            return fail("jpeg_quality", "must be 1 to 100");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_allowed() {
        for s in [SynthSettings::clean(), SynthSettings::scanned(), SynthSettings::any_angle()] {
            assert_eq!(s.check(), Ok(()));
        }
    }

    #[test]
    fn the_share_of_scanned_sheets_is_spread_evenly() {
        let s = SynthSettings { scan_share: 0.25, ..SynthSettings::scanned() };
        let scanned: Vec<u64> = (0..12).filter(|&n| s.of_sheet(n).noise > 0.0).collect();
        assert_eq!(scanned, [3, 7, 11]);
        assert!((0..5).all(|n| matches!(SynthSettings::scanned().of_sheet(n), Cow::Borrowed(_))));
    }

    #[test]
    fn wrong_settings_are_named() {
        let wrong = |change: fn(&mut SynthSettings)| {
            let mut s = SynthSettings::default();
            change(&mut s);
            s.check().unwrap_err().key
        };
        assert_eq!(wrong(|s| s.height = 20_000), "height");
        assert_eq!(wrong(|s| s.scale = [2.0, 1.0]), "scale");
        assert_eq!(wrong(|s| s.noise = f64::NAN), "noise");
        assert_eq!(wrong(|s| s.mirror = 1.5), "mirror");
        assert_eq!(wrong(|s| s.symbol_px = 4000.0), "symbol_px");
        assert_eq!(wrong(|s| s.aspect = [0.0, 1.0]), "aspect");
        assert_eq!(wrong(|s| s.clutter = -1.0), "clutter");
        assert_eq!(wrong(|s| s.paper = [10, 20]), "ink");
        assert_eq!(wrong(|s| s.jpeg_quality = Some(0)), "jpeg_quality");
        assert!(serde_json::from_str::<SynthSettings>(r#"{"widht": 3}"#).is_err());
    }
}

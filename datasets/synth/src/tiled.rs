//! Drawings larger than the rasteriser draws: sheets side by side and one above another in one picture.
//!
//! Owns the joining. One row of sheets is in memory at a time; the PNG is written line by line.

use std::io::{self, Write};

use datasets::{Annotation, BBox, ImageAnnotations};
use image::DynamicImage;
use rayon::prelude::*;

use crate::scan;
use crate::settings::{SettingsError, SynthSettings};
use crate::sheet::{Drawer, Drawn};
use crate::symbol;

/// Sheets in a row or a column at most.
const MOST_TILES: u32 = 64;

/// Why there is no large picture.
#[derive(Debug, thiserror::Error)]
pub enum TiledError {
    /// A setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The picture could not be written.
    #[error("writing the picture")]
    Write(#[from] io::Error),
    /// The picture could not be written as PNG.
    #[error("writing the picture as PNG")]
    Png(#[from] png::EncodingError),
}

/// Writes `columns` x `rows` sheets of `seed`, from `first` on and row by row, as one PNG to `out`. Gives back the truth
/// of the whole picture. The picture is always PNG; JPEG's traces are in it when the settings ask for JPEG.
pub fn tiled(
    settings: &SynthSettings,
    seed: u64,
    first: u64,
    tiles: [u32; 2],
    out: impl Write,
) -> Result<ImageAnnotations, TiledError> {
    settings.check()?;
    check(tiles)?;
    let symbols = symbol::symbols(settings, seed)?;
    join(&Drawer::new(settings, &symbols), seed, first, tiles, out)
}

/// Refuses numbers of columns and rows that are not 1 to 64.
pub(crate) fn check(tiles: [u32; 2]) -> Result<(), SettingsError> {
    if tiles.iter().all(|n| (1..=MOST_TILES).contains(n)) {
        return Ok(());
    }
    Err(SettingsError { key: "tiles", message: format!("must be 1 to {MOST_TILES} columns and rows") })
}

pub(crate) fn join(
    drawer: &Drawer<'_>,
    seed: u64,
    first: u64,
    [columns, rows]: [u32; 2],
    out: impl Write,
) -> Result<ImageAnnotations, TiledError> {
    let s = drawer.settings;
    let (width, height) = (s.width * columns, s.height * rows);
    let mut hashed = Hashed { out, hasher: blake3::Hasher::new() };
    let mut truth: Vec<Annotation> = Vec::new();
    let mut encoder = png::Encoder::new(&mut hashed, width, height);
    encoder.set_color(if s.palette.is_grey() { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_compression(png::Compression::Fast);
    let mut header = encoder.write_header()?;
    let mut lines = header.stream_writer()?;
    for row in 0..rows {
        let band: Vec<Drawn> = (0..columns)
            .into_par_iter()
            .map(|column| drawer.drawn(seed, first + u64::from(row * columns + column)))
            .collect();
        let mut pictures = Vec::new();
        for (column, sheet) in (0..columns).zip(band) {
            let (dx, dy) = (f64::from(s.width * column), f64::from(s.height * row));
            truth.extend(sheet.truth.into_iter().map(|mut a| {
                let b = a.bbox;
                a.bbox = BBox::new(b.x0 + dx, b.y0 + dy, b.x1 + dx, b.y1 + dy);
                a
            }));
            pictures.push(pixels(sheet.picture, sheet.quality));
        }
        let stride = s.width as usize * if s.palette.is_grey() { 1 } else { 3 };
        for y in 0..s.height as usize {
            for picture in &pictures {
                lines.write_all(&picture[y * stride..(y + 1) * stride])?;
            }
        }
    }
    lines.finish()?;
    header.finish()?;
    let digest = hashed.hasher.finalize().to_hex().to_string();
    Ok(ImageAnnotations { image: "sheet.png".to_owned(), digest, width, height, split: None, annotations: truth })
}

/// The samples of a sheet, with the traces of JPEG when it has a quality.
fn pixels(picture: DynamicImage, quality: Option<u8>) -> Vec<u8> {
    let picture = match quality {
        Some(_) => scan::decode(&scan::encode(&picture, quality)),
        None => picture,
    };
    picture.into_bytes()
}

/// Hashes what passes.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Palette;

    fn small() -> SynthSettings {
        SynthSettings { width: 400, height: 330, symbols: [3, 4], symbol_px: 36.0, ..SynthSettings::clean() }
    }

    #[test]
    fn tiles_are_the_sheets_and_the_truth_moves_with_them() {
        for palette in [Palette::Grey, Palette::Blueprint] {
            for jpeg_quality in [None, Some(70)] {
                let s = SynthSettings { palette, jpeg_quality, ..small() };
                let mut file = Vec::new();
                let truth = tiled(&s, 4, 10, [2, 3], &mut file).unwrap();
                assert_eq!((truth.width, truth.height), (800, 990));
                assert_eq!(truth.digest, blake3::hash(&file).to_hex().to_string());
                let whole = image::load_from_memory(&file).unwrap().into_rgb8();
                // Sheet 13 is the second of the second row.
                let one = crate::sheet(&s, 4, 13).unwrap();
                let part = image::imageops::crop_imm(&whole, 400, 330, 400, 330).to_image();
                assert!(part == one.image, "{palette:?} {jpeg_quality:?}");
                let b = one.annotations.annotations[0].bbox;
                let moved = BBox::new(b.x0 + 400.0, b.y0 + 330.0, b.x1 + 400.0, b.y1 + 330.0);
                assert!(truth.annotations.iter().any(|a| a.bbox == moved));
            }
        }
    }

    #[test]
    fn no_tiles_is_an_error() {
        assert!(matches!(tiled(&small(), 0, 0, [0, 1], Vec::new()), Err(TiledError::Settings(e)) if e.key == "tiles"));
    }
}

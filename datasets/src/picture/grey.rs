//! Pictures of one grey level a pixel, in which coloured lines keep their contrast.
//!
//! Owns the choice of the level and the reading of colour PNGs and TIFFs by rows, so that no more than a byte a pixel is
//! held of them. Other kinds are decoded whole first. Refuses to own the pixels' meaning for whoever reads them.

use std::io::Cursor;

use ::tiff::ColorType;
use ::tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits as TiffLimits};
use ::tiff::tags::{PlanarConfiguration, Tag};
use image::{DynamicImage, GrayImage};

use super::{Format, Header, Limits, PAPER, Picture, PictureError, PictureInfo, checked, flattened, whole};

/// A decoded picture of one level a pixel.
#[derive(Clone, Debug)]
pub struct GreyPicture {
    /// The pixels, upright: the darkest channel on light paper, the lightest on dark paper; transparent parts laid on
    /// white.
    pub grey: GrayImage,
    /// What the header said.
    pub info: PictureInfo,
}

/// Decodes a file's bytes to upright grey levels. The first page of several is taken.
///
/// Memory beside the file: a byte a pixel, and for what is not PNG or TIFF of 8-bit colour or grey the pixels as the
/// file stores them.
pub fn decode_grey(bytes: &[u8], limits: &Limits) -> Result<GreyPicture, PictureError> {
    let header = checked(bytes, limits)?;
    let info = header.info;
    if let Some(grey) = by_rows(bytes, limits, &header) {
        let mut image = DynamicImage::ImageLuma8(grey);
        image.apply_orientation(header.orientation);
        return Ok(GreyPicture { grey: image.into_luma8(), info });
    }
    let grey = match whole(bytes, limits, &header)? {
        DynamicImage::ImageLuma8(grey) => grey,
        image => {
            let Picture { rgb, .. } = flattened(image, info);
            let plane = |pick| {
                let mut plane = Plane::new(pick, info.width, info.height);
                plane.push(rgb.as_raw(), 3);
                Some(plane)
            };
            chosen(plane, info.width, info.height).expect("every pixel was pushed")
        }
    };
    Ok(GreyPicture { grey, info })
}

/// `None` when rows cannot be had one by one, or the file is damaged, which decoding it whole will put in words.
fn by_rows(bytes: &[u8], limits: &Limits, header: &Header) -> Option<GrayImage> {
    let read = match header.info.format {
        Format::Png => png_rows,
        Format::Tiff => tiff_rows,
        _ => return None,
    };
    let PictureInfo { width, height, .. } = header.info;
    let [width, height] = if super::turned(header.orientation) { [height, width] } else { [width, height] };
    let plane = |pick| {
        let mut plane = Plane::new(pick, width, height);
        read(bytes, limits, &mut plane)?;
        Some(plane)
    };
    chosen(plane, width, height)
}

/// Makes the plane of the darkest channels, and the other one when the paper turns out to be dark.
fn chosen(plane: impl Fn(Pick) -> Option<Plane>, width: u32, height: u32) -> Option<GrayImage> {
    let mut made = plane(Pick::Darkest)?;
    let light_paper = made.sum >= 3 * 128 * u64::from(width) * u64::from(height);
    if !light_paper && made.coloured {
        drop(std::mem::take(&mut made.levels));
        made = plane(Pick::Lightest)?;
    }
    // A decoder that gave fewer rows leaves too few levels, and one that gave more leaves too many.
    let complete = made.levels.len() == width as usize * height as usize;
    complete.then(|| GrayImage::from_raw(width, height, made.levels)).flatten()
}

#[derive(Clone, Copy, PartialEq)]
enum Pick {
    Darkest,
    Lightest,
}

/// Grey levels as rows come in.
struct Plane {
    pick: Pick,
    levels: Vec<u8>,
    /// Sum of three channels of all pixels.
    sum: u64,
    /// Whether channels differ anywhere.
    coloured: bool,
}

impl Plane {
    fn new(pick: Pick, width: u32, height: u32) -> Self {
        Self { pick, levels: Vec::with_capacity(width as usize * height as usize), sum: 0, coloured: false }
    }

    /// Pixels of one channel (grey), two (grey, alpha), three (colour) or four (colour, alpha).
    fn push(&mut self, pixels: &[u8], channels: usize) {
        let on_paper = |v: u8, a: u8| ((u32::from(v) * u32::from(a) + PAPER * (255 - u32::from(a)) + 127) / 255) as u8;
        match channels {
            1 => pixels.iter().for_each(|&v| self.add([v; 3])),
            2 => pixels.as_chunks().0.iter().for_each(|&[v, a]| self.add([on_paper(v, a); 3])),
            3 => pixels.as_chunks().0.iter().for_each(|&p| self.add(p)),
            _ => pixels.as_chunks().0.iter().for_each(|&[r, g, b, a]| self.add([r, g, b].map(|v| on_paper(v, a)))),
        }
    }

    fn add(&mut self, [r, g, b]: [u8; 3]) {
        let (low, high) = (r.min(g).min(b), r.max(g).max(b));
        self.sum += u64::from(r) + u64::from(g) + u64::from(b);
        self.coloured |= low != high;
        self.levels.push(if self.pick == Pick::Darkest { low } else { high });
    }
}

/// An 8-bit PNG without interlacing.
fn png_rows(bytes: &[u8], _: &Limits, plane: &mut Plane) -> Option<()> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().ok()?;
    let (color, depth) = reader.output_color_type();
    if depth != png::BitDepth::Eight || reader.info().interlaced {
        return None;
    }
    while let Some(row) = reader.next_row().ok()? {
        plane.push(row.data(), color.samples());
    }
    Some(())
}

/// An 8-bit TIFF of grey or of colour, in strips.
fn tiff_rows(bytes: &[u8], limits: &Limits, plane: &mut Plane) -> Option<()> {
    let mut own = TiffLimits::default();
    own.decoding_buffer_size = usize::try_from(limits.max_pixels.saturating_mul(3)).unwrap_or(usize::MAX);
    own.intermediate_buffer_size = own.decoding_buffer_size;
    let mut decoder = Decoder::new(Cursor::new(bytes)).ok()?.with_limits(own);
    let channels = match decoder.colortype().ok()? {
        ColorType::Gray(8) => 1,
        ColorType::RGB(8) => 3,
        _ => return None,
    };
    let planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).ok()?;
    if planar.is_some_and(|p| p != PlanarConfiguration::Chunky.to_u16()) || decoder.get_chunk_type() != ChunkType::Strip
    {
        return None;
    }
    for strip in 0..decoder.strip_count().ok()? {
        let DecodingResult::U8(rows) = decoder.read_chunk(strip).ok()? else { return None };
        plane.push(&rows, channels);
    }
    Some(())
}

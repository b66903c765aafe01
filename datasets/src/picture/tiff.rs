//! TIFF headers, and the TIFFs that the `image` crate does not take: palettes and greys of 2 or 4 bits.
//!
//! Owns nothing else: every other TIFF goes the common way.

use std::io::{BufRead, Cursor, Seek};

use ::tiff::decoder::{Decoder, DecodingResult, Limits as TiffLimits};
use ::tiff::tags::Tag;
use ::tiff::{TiffError, TiffFormatError};
use image::RgbImage;
use image::metadata::Orientation;

use super::{Format, Limits, PictureError};

pub(super) struct TiffHeader {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    pub more_pages: bool,
}

const PALETTE: u16 = 3;
const BLACK_IS_ZERO: u16 = 1;

fn error(e: TiffError, bytes: u64) -> PictureError {
    let format = Format::Tiff;
    match e {
        TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated { format, bytes }
        }
        TiffError::FormatError(TiffFormatError::ImageFileDirectoryNotFound) => {
            PictureError::Truncated { format, bytes }
        }
        TiffError::UnsupportedError(e) => PictureError::Unsupported { format, cause: e.to_string() },
        e => PictureError::Damaged { format, cause: e.to_string() },
    }
}

pub(super) fn header(source: &mut (impl BufRead + Seek), bytes: u64) -> Result<TiffHeader, PictureError> {
    let fail = |e| error(e, bytes);
    let mut decoder = Decoder::new(source).map_err(fail)?;
    let (width, height) = decoder.dimensions().map_err(fail)?;
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).unwrap_or(None);
    Ok(TiffHeader {
        width,
        height,
        orientation: orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms),
        more_pages: decoder.more_images(),
    })
}

/// Decodes a palette or a 2 or 4 bit grey; `None` for every other kind. Not turned by the orientation yet.
pub(super) fn decode_indexed(bytes: &[u8], limits: &Limits) -> Result<Option<RgbImage>, PictureError> {
    let fail = |e| error(e, bytes.len() as u64);
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(fail)?;
    let (width, height) = decoder.dimensions().map_err(fail)?;
    let kind = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).map_err(fail)?;
    // Images without the tag have one bit.
    let bits = decoder.find_tag_unsigned_vec::<u16>(Tag::BitsPerSample).map_err(fail)?.unwrap_or_else(|| vec![1]);
    let &[bits] = bits.as_slice() else { return Ok(None) };
    let palette = kind == Some(PALETTE);
    if !(palette && matches!(bits, 1 | 2 | 4 | 8) || matches!(bits, 2 | 4)) {
        return Ok(None);
    }
    let levels = 1_usize << bits;
    let colors: Vec<[u8; 3]> = if palette {
        let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(fail)?;
        if map.len() < 3 * levels {
            let cause = format!("a colour map of {} entries, {} are needed", map.len(), 3 * levels);
            return Err(PictureError::Damaged { format: Format::Tiff, cause });
        }
        // The map counts to 65535; some writers fill it with 8-bit values.
        let shift = if map.iter().all(|v| *v < 256) { 0 } else { 8 };
        (0..levels).map(|i| [0, 1, 2].map(|c| (map[c * levels + i] >> shift) as u8)).collect()
    } else {
        (0..levels).map(|i| [(i * 255 / (levels - 1)) as u8; 3]).collect()
    };
    let grey;
    let source = if palette {
        grey = as_grey(bytes).ok_or_else(|| PictureError::Unsupported {
            format: Format::Tiff,
            cause: "a palette in BigTIFF".to_owned(),
        })?;
        grey.as_slice()
    } else {
        bytes
    };
    let mut own = TiffLimits::default();
    own.decoding_buffer_size = usize::try_from(limits.max_pixels).unwrap_or(usize::MAX);
    own.intermediate_buffer_size = own.decoding_buffer_size;
    let mut decoder = Decoder::new(Cursor::new(source)).map_err(fail)?.with_limits(own);
    let DecodingResult::U8(packed) = decoder.read_image().map_err(fail)? else {
        let cause = "samples that are no bytes".to_owned();
        return Err(PictureError::Unsupported { format: Format::Tiff, cause });
    };
    let (w, per_byte) = (width as usize, 8 / usize::from(bits));
    let row_bytes = w.div_ceil(per_byte);
    let mask = (levels - 1) as u8;
    let mut out = Vec::with_capacity(w * height as usize * 3);
    for row in packed.chunks_exact(row_bytes).take(height as usize) {
        for x in 0..w {
            let shift = 8 - usize::from(bits) * (x % per_byte + 1);
            out.extend(colors[usize::from((row[x / per_byte] >> shift) & mask)]);
        }
    }
    RgbImage::from_raw(width, height, out)
        .map(Some)
        .ok_or(PictureError::Truncated { format: Format::Tiff, bytes: bytes.len() as u64 })
}

/// The file with its palette declared grey, so that the decoder hands out the indices; `None` for BigTIFF.
fn as_grey(bytes: &[u8]) -> Option<Vec<u8>> {
    let little = match bytes.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let b = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    };
    let directory: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    let directory = if little { u32::from_le_bytes(directory) } else { u32::from_be_bytes(directory) } as usize;
    let entries = usize::from(u16_at(directory)?);
    let tag = Tag::PhotometricInterpretation.to_u16();
    let entry = (0..entries).map(|i| directory + 2 + 12 * i).find(|at| u16_at(*at) == Some(tag))?;
    let mut out = bytes.to_vec();
    out.get_mut(entry + 8..entry + 10)?.copy_from_slice(&if little {
        BLACK_IS_ZERO.to_le_bytes()
    } else {
        BLACK_IS_ZERO.to_be_bytes()
    });
    Some(out)
}

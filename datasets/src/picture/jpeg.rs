//! JPEG headers, read segment by segment: size, orientation, and whether the picture is all there.
//!
//! Owns no decoding: the `image` crate does that.

use std::io::{BufRead, Seek, SeekFrom};

use image::metadata::Orientation;

use super::{Format, PictureError};

pub(super) struct JpegHeader {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
}

const SOF: std::ops::RangeInclusive<u8> = 0xC0..=0xCF;
/// DHT, JPG and DAC lie in the range of the frame headers and are none.
const NOT_SOF: [u8; 3] = [0xC4, 0xC8, 0xCC];
const SOS: u8 = 0xDA;
const EOI: u8 = 0xD9;
const APP1: u8 = 0xE1;

fn stands_alone(marker: u8) -> bool {
    matches!(marker, 0x01 | 0xD0..=0xD8)
}

/// Reads up to the frame header and no further.
pub(super) fn header(source: &mut (impl BufRead + Seek), bytes: u64) -> Result<JpegHeader, PictureError> {
    let io = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => PictureError::Truncated { format: Format::Jpeg, bytes },
        _ => PictureError::Io(e),
    };
    let mut orientation = Orientation::NoTransforms;
    let mut byte = [0; 1];
    loop {
        // A marker is FF (any number of them) and a code; anything else between segments is skipped, as decoders do.
        while byte[0] != 0xFF {
            source.read_exact(&mut byte).map_err(io)?;
        }
        while byte[0] == 0xFF {
            source.read_exact(&mut byte).map_err(io)?;
        }
        let marker = byte[0];
        if marker == 0 || stands_alone(marker) {
            continue;
        }
        if matches!(marker, SOS | EOI) {
            let cause = "no frame header".to_owned();
            return Err(PictureError::Damaged { format: Format::Jpeg, cause });
        }
        let mut length = [0; 2];
        source.read_exact(&mut length).map_err(io)?;
        let length = u16::from_be_bytes(length).saturating_sub(2);
        if SOF.contains(&marker) && !NOT_SOF.contains(&marker) {
            let mut sof = [0; 5];
            source.read_exact(&mut sof).map_err(io)?;
            let side = |hi, lo| u32::from(u16::from_be_bytes([hi, lo]));
            return Ok(JpegHeader { width: side(sof[3], sof[4]), height: side(sof[1], sof[2]), orientation });
        }
        if marker == APP1 {
            let mut segment = vec![0; usize::from(length)];
            source.read_exact(&mut segment).map_err(io)?;
            if let Some(exif) = segment.strip_prefix(b"Exif\0\0") {
                orientation = Orientation::from_exif_chunk(exif).unwrap_or(orientation);
            }
        } else {
            source.seek(SeekFrom::Current(i64::from(length))).map_err(io)?;
        }
        byte[0] = 0;
    }
}

/// True when an end marker follows the first scan. Entropy-coded data cannot hold one by chance (FF is escaped there);
/// thumbnails lie before the scan.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[mark, code]) = bytes.get(at..at + 2) {
        if mark != 0xFF || code == 0xFF {
            at += 1;
        } else if code == SOS {
            // Almost always the last two bytes; otherwise padding or appended data follow.
            return bytes.ends_with(&[0xFF, EOI]) || bytes[at..].windows(2).any(|w| w == [0xFF, EOI]);
        } else if code == 0 || stands_alone(code) {
            at += 2;
        } else {
            let Some(&[hi, lo]) = bytes.get(at + 2..at + 4) else { return false };
            at += 2 + usize::from(u16::from_be_bytes([hi, lo]));
        }
    }
    false
}

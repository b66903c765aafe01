//! Pictures: bytes of an image file in, upright 8-bit RGB or grey levels out, and back to files.
//!
//! Owns reading of headers, decoding whatever the source holds (grey, palette, 1 to 16 bits, alpha, CMYK, turned by
//! EXIF), its limits and its errors. Refuses to own paths and folders: callers bring bytes and put names to errors.
//!
//! Memory: decoding holds the file, the pixels as the file stores them and 3 bytes a pixel of output; a colour JPEG is
//! decoded straight into the output. A 7000 x 5000 JPEG takes 105 MB beside its file (baseline), a 16-bit RGB TIFF of
//! that size 315 MB. As grey levels a large PNG or TIFF is read by rows and takes a byte a pixel.

use std::io::{BufRead, Cursor, Seek};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};
use serde::{Deserialize, Serialize};

mod grey;
mod jpeg;
mod tiff;

pub use grey::{GreyPicture, decode_grey};

/// File name extensions (lower case, no dot) that are taken for images when folders are listed.
pub const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jpe", "png", "tif", "tiff", "bmp", "webp"];

/// White, on which transparent pictures are laid: the paper of a drawing.
const PAPER: u32 = 255;

/// True when `name` ends in one of `IMAGE_EXTENSIONS`, whatever the case.
pub fn is_image_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, e)| {
        !stem.is_empty() && !stem.ends_with('/') && IMAGE_EXTENSIONS.iter().any(|x| e.eq_ignore_ascii_case(x))
    })
}

/// How large a picture may be before it is refused unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most pixels (width x height) that are decoded; 3 bytes of memory each at least.
    pub max_pixels: u64,
    /// Largest file, in bytes.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 500 megapixels (an A0 sheet at 600 dpi has 560, at 400 dpi 250) and 2 GiB.
    fn default() -> Self {
        Self { max_pixels: 500_000_000, max_bytes: 2 << 30 }
    }
}

/// The file format of a picture, by its content and not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    Jpeg,
    Png,
    Tiff,
    Bmp,
    WebP,
}

impl Format {
    fn of(bytes: &[u8]) -> Option<Self> {
        match image::guess_format(bytes).ok()? {
            ImageFormat::Jpeg => Some(Self::Jpeg),
            ImageFormat::Png => Some(Self::Png),
            ImageFormat::Tiff => Some(Self::Tiff),
            ImageFormat::Bmp => Some(Self::Bmp),
            ImageFormat::WebP => Some(Self::WebP),
            _ => None,
        }
    }

    fn codec(self) -> ImageFormat {
        match self {
            Self::Jpeg => ImageFormat::Jpeg,
            Self::Png => ImageFormat::Png,
            Self::Tiff => ImageFormat::Tiff,
            Self::Bmp => ImageFormat::Bmp,
            Self::WebP => ImageFormat::WebP,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
            Self::WebP => "WebP",
        })
    }
}

/// What the header of a picture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureInfo {
    /// Width in pixels, upright.
    pub width: u32,
    /// Height in pixels, upright.
    pub height: u32,
    /// File format, by content.
    pub format: Format,
    /// True when the file holds more pages (TIFF) than the first, which is the one that is decoded.
    #[serde(default)]
    pub more_pages: bool,
}

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The pixels: upright, 8-bit RGB, transparent parts laid on white.
    pub rgb: RgbImage,
    /// What the header said.
    pub info: PictureInfo,
    /// True when the file had an alpha channel.
    pub had_alpha: bool,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Zero bytes.
    #[error("the file is empty (0 bytes): copy it again from its source or remove it")]
    Empty,
    /// Not one of the formats.
    #[error("not a picture that can be read: {found}; supported are JPEG, PNG, TIFF, BMP and WebP")]
    NotAnImage {
        /// What it looks like, and the fix.
        found: String,
    },
    /// The file ends before the picture does.
    #[error("the {format} file is truncated after {bytes} bytes: copy it again from its source")]
    Truncated {
        /// File format.
        format: Format,
        /// File size.
        bytes: u64,
    },
    /// The content contradicts the format.
    #[error("the {format} file is damaged ({cause}): open it in an image viewer and save it again, or replace it")]
    Damaged {
        /// File format.
        format: Format,
        /// The decoder's words.
        cause: String,
    },
    /// A variant of the format that cannot be read.
    #[error("this kind of {format} cannot be read ({cause}): save it as 8-bit PNG or JPEG")]
    Unsupported {
        /// File format.
        format: Format,
        /// The decoder's words.
        cause: String,
    },
    /// More pixels than allowed.
    #[error(
        "{width} x {height} pixels are {} Mpx, over the limit of {} Mpx: raise `max_pixels` to {} if that size is \
         meant (decoding takes {} MB), or scale the picture down",
        mega(*width, *height), limit / 1_000_000, u64::from(*width) * u64::from(*height),
        (u64::from(*width) * u64::from(*height) * 3) >> 20
    )]
    TooManyPixels {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// `Limits::max_pixels`.
        limit: u64,
    },
    /// A larger file than allowed.
    #[error("the file has {bytes} bytes, over the limit of {limit}: raise `max_bytes` if that size is meant")]
    TooManyBytes {
        /// File size.
        bytes: u64,
        /// `Limits::max_bytes`.
        limit: u64,
    },
    /// Nothing to see.
    #[error("the picture has no pixels ({width} x {height}): replace it")]
    NoPixels {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
    },
    /// The source failed.
    #[error("reading failed")]
    Io(#[from] std::io::Error),
    /// A picture that a format cannot hold.
    #[error("writing a {width} x {height} picture as {format} failed ({cause})")]
    Encode {
        /// Width.
        width: u32,
        /// Height.
        height: u32,
        /// File format.
        format: Format,
        /// The encoder's words.
        cause: String,
    },
}

fn mega(width: u32, height: u32) -> u64 {
    (u64::from(width) * u64::from(height)).div_ceil(1_000_000)
}

impl PictureError {
    fn of(e: ImageError, format: Format, bytes: u64) -> Self {
        match e {
            ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Truncated { format, bytes }
            }
            ImageError::IoError(e) => Self::Damaged { format, cause: e.to_string() },
            ImageError::Unsupported(e) => Self::Unsupported { format, cause: e.to_string() },
            e => {
                // Some decoders wrap the end of the file into their own error.
                let mut cause: Option<&dyn std::error::Error> = Some(&e);
                while let Some(c) = cause {
                    if c.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof)
                    {
                        return Self::Truncated { format, bytes };
                    }
                    cause = c.source();
                }
                let text = e.to_string();
                if text.contains("unexpected end of file") || text.contains("failed to fill whole buffer") {
                    return Self::Truncated { format, bytes };
                }
                Self::Damaged { format, cause: text }
            }
        }
    }
}

struct Header {
    info: PictureInfo,
    orientation: Orientation,
}

fn turned(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

/// Names what a file that is no picture seems to be.
fn not_an_image(head: &[u8]) -> PictureError {
    let text = head.iter().take(256).all(|b| matches!(b, 9 | 10 | 13 | 32..=126));
    let found = if head.starts_with(b"%PDF") {
        "this is a PDF: turn its pages into PNG first, for instance with `pdftoppm -r 200 -png`"
    } else if head.starts_with(b"version https://git-lfs") {
        "this is a Git LFS pointer and the picture itself was not fetched: run `git lfs pull`"
    } else if head.starts_with(b"GIF8") {
        "this is a GIF: save it as PNG"
    } else if head.get(4..12).is_some_and(|b| b.starts_with(b"ftyp")) {
        "this is a HEIC, AVIF or video file: save pictures as JPEG or PNG"
    } else if head.starts_with(b"AC10") {
        "this is an AutoCAD drawing: plot it to PNG"
    } else if head.starts_with(b"PK\x03\x04") {
        "this is a ZIP archive: unpack it"
    } else if head.iter().all(|b| *b == 0) {
        "this file holds only zeros (an interrupted copy): copy it again from its source"
    } else if head.windows(4).any(|w| w == b"<svg") {
        "this is an SVG: render it to PNG"
    } else if text {
        "this is a text file: remove it or give it its right extension"
    } else {
        "the first bytes are those of no known picture format: replace the file"
    };
    PictureError::NotAnImage { found: found.to_owned() }
}

fn header(source: &mut (impl BufRead + Seek), bytes: u64) -> Result<Header, PictureError> {
    let mut head = [0; 256];
    let mut n = 0;
    while n < head.len() {
        match source.read(&mut head[n..])? {
            0 => break,
            k => n += k,
        }
    }
    let head = &head[..n];
    if head.is_empty() {
        return Err(PictureError::Empty);
    }
    let format = Format::of(head).ok_or_else(|| not_an_image(head))?;
    source.rewind()?;
    let fail = |e| PictureError::of(e, format, bytes);
    let (w, h, orientation, more_pages) = match format {
        Format::Jpeg => {
            let h = jpeg::header(source, bytes)?;
            (h.width, h.height, h.orientation, false)
        }
        Format::Tiff => {
            let h = tiff::header(source, bytes)?;
            (h.width, h.height, h.orientation, h.more_pages)
        }
        _ => {
            let mut reader = ImageReader::with_format(source, format.codec());
            reader.no_limits();
            let mut decoder = reader.into_decoder().map_err(fail)?;
            let (w, h) = decoder.dimensions();
            // Broken EXIF is no reason to lose a picture.
            (w, h, decoder.orientation().unwrap_or(Orientation::NoTransforms), false)
        }
    };
    if w == 0 || h == 0 {
        return Err(PictureError::NoPixels { width: w, height: h });
    }
    let (width, height) = if turned(orientation) { (h, w) } else { (w, h) };
    Ok(Header { info: PictureInfo { width, height, format, more_pages }, orientation })
}

/// Reads the header only: upright size and format.
pub fn probe(bytes: &[u8]) -> Result<PictureInfo, PictureError> {
    Ok(header(&mut Cursor::new(bytes), bytes.len() as u64)?.info)
}

/// Reads the header only, from a file or another source.
pub fn probe_reader(source: &mut (impl BufRead + Seek)) -> Result<PictureInfo, PictureError> {
    let bytes = source.seek(std::io::SeekFrom::End(0))?;
    source.rewind()?;
    Ok(header(source, bytes)?.info)
}

/// Decodes a file's bytes to an upright 8-bit RGB picture. The first page of several is taken.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, PictureError> {
    let header = checked(bytes, limits)?;
    Ok(flattened(whole(bytes, limits, &header)?, header.info))
}

/// Reads the header and refuses what is over the limits or known to be cut off.
fn checked(bytes: &[u8], limits: &Limits) -> Result<Header, PictureError> {
    let size = bytes.len() as u64;
    if size > limits.max_bytes {
        return Err(PictureError::TooManyBytes { bytes: size, limit: limits.max_bytes });
    }
    let header = header(&mut Cursor::new(bytes), size)?;
    let info = &header.info;
    if u64::from(info.width) * u64::from(info.height) > limits.max_pixels {
        return Err(PictureError::TooManyPixels { width: info.width, height: info.height, limit: limits.max_pixels });
    }
    // The decoder fills the missing part with grey and says nothing.
    if info.format == Format::Jpeg && !jpeg::is_complete(bytes) {
        return Err(PictureError::Truncated { format: info.format, bytes: size });
    }
    Ok(header)
}

/// Decodes all pixels as the file stores them, and turns them upright.
fn whole(bytes: &[u8], limits: &Limits, header: &Header) -> Result<DynamicImage, PictureError> {
    let Header { info, orientation } = header;
    let indexed = if info.format == Format::Tiff { tiff::decode_indexed(bytes, limits)? } else { None };
    let mut image = if let Some(rgb) = indexed {
        DynamicImage::ImageRgb8(rgb)
    } else {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), info.format.codec());
        let mut own = image::Limits::no_limits();
        // 16 bytes are the widest pixel (RGBA in 32-bit floats); twice that covers intermediate buffers.
        own.max_alloc = Some(limits.max_pixels.saturating_mul(32).max(64 << 20));
        reader.limits(own);
        reader.decode().map_err(|e| PictureError::of(e, info.format, bytes.len() as u64))?
    };
    image.apply_orientation(*orientation);
    Ok(image)
}

/// As 8-bit RGB.
fn flattened(image: DynamicImage, info: PictureInfo) -> Picture {
    let had_alpha = image.color().has_alpha();
    let rgb = if had_alpha { on_paper(image) } else { image.into_rgb8() };
    debug_assert_eq!(rgb.dimensions(), (info.width, info.height));
    Picture { rgb, info, had_alpha }
}

/// Lays a picture with alpha on white.
fn on_paper(image: DynamicImage) -> RgbImage {
    let rgba = image.into_rgba8();
    let (w, h) = rgba.dimensions();
    let mut out = Vec::with_capacity(w as usize * h as usize * 3);
    for p in rgba.as_raw().chunks_exact(4) {
        let a = u32::from(p[3]);
        out.extend(p[..3].iter().map(|&c| ((u32::from(c) * a + PAPER * (255 - a) + 127) / 255) as u8));
    }
    RgbImage::from_raw(w, h, out).expect("three bytes were written for each pixel")
}

/// A PNG file (8-bit RGB) of the picture. The same pixels give the same bytes.
pub fn encode_png(rgb: &RgbImage) -> Result<Vec<u8>, PictureError> {
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut out = Vec::new();
    encode(rgb, Format::Png, PngEncoder::new_with_quality(&mut out, CompressionType::Default, FilterType::Adaptive))?;
    Ok(out)
}

/// A JPEG file of the picture at `quality` 1..=100. The same pixels give the same bytes.
pub fn encode_jpeg(rgb: &RgbImage, quality: u8) -> Result<Vec<u8>, PictureError> {
    let mut out = Vec::new();
    encode(rgb, Format::Jpeg, image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100)))?;
    Ok(out)
}

fn encode(rgb: &RgbImage, format: Format, encoder: impl image::ImageEncoder) -> Result<(), PictureError> {
    let (width, height) = rgb.dimensions();
    encoder.write_image(rgb.as_raw(), width, height, image::ExtendedColorType::Rgb8).map_err(|e| PictureError::Encode {
        width,
        height,
        format,
        cause: e.to_string(),
    })
}

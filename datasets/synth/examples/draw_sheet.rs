//! Draws sheets for looking at: `draw_sheet OUT clean|scanned|any|A|B|... [COUNT] [boxes]`. A set's crops go beside them.

use std::error::Error;

use synth::{Set, SynthSettings};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, preset, rest @ ..] = args.as_slice() else {
        return Err("usage: draw_sheet OUT PRESET [COUNT] [boxes]".into());
    };
    // `wild-E` is set E with random symbols.
    let wild = preset.strip_prefix("wild-");
    let set = wild.unwrap_or(preset).parse::<Set>().ok();
    let settings = match (set, preset.as_str()) {
        (Some(set), _) if wild.is_some() => set.settings().wild(40),
        (Some(set), _) => set.settings(),
        (None, "scanned") => SynthSettings::scanned(),
        (None, "any") => SynthSettings { invented: 10, ..SynthSettings::any_angle() },
        _ => SynthSettings::clean(),
    };
    std::fs::create_dir_all(out)?;
    let count = rest.first().map_or(Ok(1), |n| n.parse::<u64>())?;
    for index in 0..count {
        let sheet = synth::sheet(&settings, 1, index)?;
        let mut picture = sheet.image;
        let (w, h) = (picture.width() - 1, picture.height() - 1);
        let mut dot = |x: f64, y: f64| picture.put_pixel((x as u32).min(w), (y as u32).min(h), image::Rgb([255, 0, 0]));
        let annotations = if rest.len() > 1 { &sheet.annotations.annotations[..] } else { &[] };
        for b in annotations.iter().map(|a| a.bbox) {
            for x in b.x0 as u32..b.x1.ceil() as u32 {
                dot(x.into(), b.y0);
                dot(x.into(), b.y1.ceil() - 1.0);
            }
            for y in b.y0 as u32..b.y1.ceil() as u32 {
                dot(b.x0, y.into());
                dot(b.x1.ceil() - 1.0, y.into());
            }
        }
        picture.save(format!("{out}/{preset}_{index}.png"))?;
    }
    if set.is_some() {
        let crops = synth::crops(&settings, 1, 1)?;
        let mut all = image::RgbImage::from_pixel(1000, 600, image::Rgb([255, 220, 220]));
        for (n, crop) in crops.iter().enumerate() {
            image::imageops::replace(&mut all, &crop.image, 10 + (n as i64 % 9) * 110, 10 + n as i64 / 9 * 110);
        }
        all.save(format!("{out}/{preset}_crops.png"))?;
    }
    Ok(())
}

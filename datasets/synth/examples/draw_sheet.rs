//! Draws sheets for looking at: `draw_sheet OUT clean|scanned|any|sample [COUNT] [boxes]`.

use std::error::Error;

use synth::SynthSettings;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, preset, rest @ ..] = args.as_slice() else {
        return Err("usage: draw_sheet OUT PRESET [COUNT] [boxes]".into());
    };
    let settings = match preset.as_str() {
        "scanned" => SynthSettings::scanned(),
        "any" => SynthSettings { invented: 10, ..SynthSettings::any_angle() },
        _ => SynthSettings::clean(),
    };
    std::fs::create_dir_all(out)?;
    let count = rest.first().map_or(Ok(1), |n| n.parse::<u64>())?;
    for index in 0..count {
        let sheet = synth::sheet(&settings, 1, index)?;
        let mut picture = sheet.image;
        if rest.len() > 1 {
            for a in &sheet.annotations.annotations {
                let b = a.bbox;
                for x in b.x0 as u32..b.x1.ceil() as u32 {
                    for y in [b.y0.floor() as u32, b.y1.ceil() as u32 - 1] {
                        picture.put_pixel(
                            x.min(picture.width() - 1),
                            y.min(picture.height() - 1),
                            image::Rgb([255, 0, 0]),
                        );
                    }
                }
                for y in b.y0 as u32..b.y1.ceil() as u32 {
                    for x in [b.x0.floor() as u32, b.x1.ceil() as u32 - 1] {
                        picture.put_pixel(
                            x.min(picture.width() - 1),
                            y.min(picture.height() - 1),
                            image::Rgb([255, 0, 0]),
                        );
                    }
                }
            }
        }
        picture.save(format!("{out}/{preset}_{index}.png"))?;
    }
    Ok(())
}

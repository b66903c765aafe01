//! The files that inference leaves: COCO JSON, CSV, YOLO text, annotated pictures.
//!
//! Owns their names and content. Nothing in them depends on the clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use artifacts::Predictions;
use datasets::eval::Evaluation;
use datasets::formats::coco_text;
use datasets::picture::{PictureError, encode_jpeg};
use datasets::{AnnotationSet, ClassInfo, ImageAnnotations, Score};
use engine::artifact::{ArtifactWriter, Kind};
use engine::{Blob, Context, StageError};
use image::RgbImage;
use report::draw::{Mark, marks};
use vision::letterbox::resize;

/// Quality of annotated pictures, 1..=100.
const JPEG_QUALITY: u8 = 85;

/// The picture, not larger than `side` (0: any size), with its boxes (class, confidence, edges), as a JPEG file.
pub fn annotated(
    rgb: RgbImage,
    boxes: &[(usize, f64, [f64; 4])],
    classes: &[ClassInfo],
    side: u32,
) -> Result<Vec<u8>, PictureError> {
    let (w, h) = rgb.dimensions();
    let longer = w.max(h);
    let scale = if side == 0 || longer <= side { 1.0 } else { f64::from(side) / f64::from(longer) };
    let mut shown = if scale < 1.0 {
        let part = |v: u32| ((f64::from(v) * scale).round() as u32).max(1);
        resize(&rgb, (part(w), part(h)))
    } else {
        rgb
    };
    let list: Vec<Mark> = boxes
        .iter()
        .map(|(class, score, b)| {
            let c = &classes[*class];
            Mark::new(*b, c.color, format!("{} {score:.2}", c.name)).scaled(scale)
        })
        .collect();
    marks(&mut shown, &list);
    encode_jpeg(&shown, JPEG_QUALITY)
}

/// What is written beside the boxes.
pub struct Written {
    /// Image name, annotated picture.
    pub pictures: Vec<(String, Blob)>,
}

impl Written {
    /// Nothing yet, with room for the pictures of `images`.
    pub fn new(images: usize) -> Self {
        Self { pictures: Vec::with_capacity(images) }
    }

    /// Makes the output `predictions`.
    pub fn write(self, set: &AnnotationSet, evaluation: Option<&Evaluation>, ctx: &Context) -> Result<(), StageError> {
        let mut writer = ArtifactWriter::new(ctx.store());
        writer.put("predictions.json", coco_text(set).as_bytes())?;
        writer.put("predictions.csv", csv(set).as_bytes())?;
        let names: Vec<&str> = set.classes.iter().map(|c| c.name.as_str()).collect();
        writer.put("classes.txt", (names.join("\n") + "\n").as_bytes())?;
        let stems = stems(set.images.iter().map(|i| i.image.as_str()));
        for image in &set.images {
            writer.put(format!("labels/{}.txt", stems[image.image.as_str()]), yolo(image, set).as_bytes())?;
        }
        for (image, blob) in self.pictures {
            let name = format!("pictures/{}.jpg", stems[image.as_str()]);
            writer.link(Blob { name, ..blob });
        }
        if let Some(e) = evaluation {
            writer.put("evaluation.json", &serde_json::to_vec_pretty(e).expect("plain data serialises"))?;
        }
        let meta = serde_json::json!({ "images": set.images.len(), "boxes": set.box_count() });
        let digest = writer.finish(Predictions::NAME, Predictions::FORMAT, meta)?;
        ctx.output("predictions", digest)?;
        Ok(())
    }
}

/// Output name of each image: without its extension where that tells it from the others.
fn stems<'a>(images: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    let stem = |name: &'a str| match name.rsplit_once('.') {
        Some((s, e)) if !e.contains('/') && !s.is_empty() && !s.ends_with('/') => s,
        _ => name,
    };
    let names: Vec<&str> = images.collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for n in &names {
        *uses.entry(stem(n)).or_default() += 1;
    }
    names.into_iter().map(|n| (n, if uses[stem(n)] == 1 { stem(n) } else { n })).collect()
}

fn csv(set: &AnnotationSet) -> String {
    let mut out = String::from("image,class,score,x0,y0,x1,y1\n");
    for image in &set.images {
        for a in &image.annotations {
            let b = a.bbox;
            let score = a.score.map_or_else(String::new, |s| s.get().to_string());
            let _ = writeln!(
                out,
                "{},{},{score},{},{},{},{}",
                report::csv::field(&image.image),
                report::csv::field(&a.class),
                b.x0,
                b.y0,
                b.x1,
                b.y1
            );
        }
    }
    out
}

/// One line a box: class index, centre, size (as shares of the picture), confidence.
fn yolo(image: &ImageAnnotations, set: &AnnotationSet) -> String {
    let mut out = String::new();
    for a in &image.annotations {
        let b = a.bbox.to_unit(image.width, image.height);
        let (x, y) = b.center();
        let class = set.class_index(&a.class).expect("the classes are the detector's");
        let score = a.score.map_or(1.0, Score::get);
        let _ = writeln!(out, "{class} {x:.6} {y:.6} {:.6} {:.6} {score:.6}", b.width(), b.height());
    }
    out
}

#[cfg(test)]
mod tests {
    use datasets::{Annotation, BBox};

    use super::*;

    #[test]
    fn names_that_differ_only_in_extension_keep_it() {
        let s = stems(["a.png", "a.jpg", "sub/a.png", "b.c.png", "v1.2/sheet"].into_iter());
        assert_eq!(s["a.png"], "a.png");
        assert_eq!(s["a.jpg"], "a.jpg");
        assert_eq!(s["sub/a.png"], "sub/a");
        assert_eq!(s["b.c.png"], "b.c");
        assert_eq!(s["v1.2/sheet"], "v1.2/sheet");
    }

    #[test]
    fn files_say_what_was_found() {
        let class = |name: &str| ClassInfo { name: name.into(), category: String::new(), color: [0; 3] };
        let mut a = Annotation::new("b, big", BBox::new(10.0, 20.0, 30.0, 60.0));
        a.score = Score::new(0.5).ok();
        let image = ImageAnnotations {
            image: "x \"1\".png".into(),
            digest: String::new(),
            width: 100,
            height: 200,
            split: None,
            annotations: vec![a],
        };
        let set =
            AnnotationSet { classes: vec![class("a"), class("b, big")], images: vec![image], skipped: Vec::new() };
        assert_eq!(csv(&set), "image,class,score,x0,y0,x1,y1\n\"x \"\"1\"\".png\",\"b, big\",0.5,10,20,30,60\n");
        assert_eq!(yolo(&set.images[0], &set), "1 0.200000 0.200000 0.200000 0.200000 0.500000\n");
    }

    #[test]
    fn big_pictures_are_shown_smaller() {
        let classes = [ClassInfo { name: "a".into(), category: String::new(), color: [255, 0, 0] }];
        let rgb = RgbImage::from_pixel(400, 200, image::Rgb([255; 3]));
        let jpeg = annotated(rgb, &[(0, 0.9, [100.0, 50.0, 200.0, 150.0])], &classes, 200).unwrap();
        let back = datasets::picture::decode(&jpeg, &datasets::picture::Limits::default()).unwrap().rgb;
        assert_eq!(back.dimensions(), (200, 100));
        let red = |x, y| {
            let p = back.get_pixel(x, y).0;
            p[0] > 150 && p[1] < 140
        };
        assert!(red(49, 60) || red(48, 60), "{:?}", back.get_pixel(49, 60));
        assert!(!red(75, 50));
    }
}

use super::*;

/// Pictures of one black block each on white, the block being the object.
pub(crate) struct Blocks(pub Vec<(u32, u32, [u32; 4])>);

impl Source for Blocks {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn view(&self, index: usize) -> Result<View, StageError> {
        let (w, h, b) = self.0[index];
        let rgb = RgbImage::from_fn(w, h, |x, y| {
            Rgb([if x >= b[0] && x < b[2] && y >= b[1] && y < b[3] { 0 } else { 255 }; 3])
        });
        Ok(View { rgb, objects: vec![Truth { class: index, bbox: b.map(|v| v as f32) }] })
    }
}

fn blocks() -> Blocks {
    Blocks(vec![
        (64, 64, [20, 24, 40, 52]),
        (64, 48, [5, 6, 20, 20]),
        (40, 64, [8, 30, 30, 60]),
        (64, 64, [30, 2, 62, 20]),
    ])
}

/// The smallest box around dark pixels within `around`, widened by a pixel to make the search fair.
fn dark_bounds(rgb: &RgbImage, around: [f32; 4]) -> [f32; 4] {
    let mut b = [f32::MAX, f32::MAX, 0.0_f32, 0.0_f32];
    for (x, y, p) in rgb.enumerate_pixels() {
        let (x, y) = (x as f32, y as f32);
        let near = x > around[0] - 3.0 && x < around[2] + 2.0 && y > around[1] - 3.0 && y < around[3] + 2.0;
        if near && p.0[0] < 60 {
            b = [b[0].min(x), b[1].min(y), b[2].max(x + 1.0), b[3].max(y + 1.0)];
        }
    }
    b
}

#[test]
fn boxes_stay_on_their_blocks() {
    let settings = Augment { hsv_v: 0.1, ..Augment::default() };
    let mut seen = 0;
    for sample in 0..40 {
        let view =
            augmented(&blocks(), sample % 4, 64, &settings, sample % 2 == 0, &mut random(1, 0, sample as u64, 0))
                .unwrap();
        assert_eq!(view.rgb.dimensions(), (64, 64));
        for o in &view.objects {
            let found = dark_bounds(&view.rgb, o.bbox);
            for i in 0..4 {
                assert!((found[i] - o.bbox[i]).abs() <= 1.6, "sample {sample}: {:?} but {found:?}", o.bbox);
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn the_same_seed_gives_the_same_view_and_another_epoch_another() {
    let make = |epoch| augmented(&blocks(), 1, 64, &Augment::default(), true, &mut random(3, epoch, 1, 0)).unwrap();
    assert_eq!(make(2), make(2));
    assert_ne!(make(2).rgb, make(3).rgb);
}

#[test]
fn without_any_setting_the_view_is_the_picture() {
    let off = Augment {
        mosaic: 0.0,
        scale: Some(0.0),
        translate: 0.0,
        hsv_h: 0.0,
        hsv_s: 0.0,
        hsv_v: 0.0,
        fliplr: 0.0,
        flipud: 0.0,
        rot90: false,
        ..Augment::default()
    };
    let source = blocks();
    assert_eq!(augmented(&source, 0, 64, &off, true, &mut random(0, 0, 0, 0)).unwrap(), source.view(0).unwrap());
    let narrow = augmented(&source, 2, 64, &off, true, &mut random(0, 0, 0, 0)).unwrap();
    assert_eq!(narrow.rgb.get_pixel(0, 0).0, [FILL; 3]);
    assert_eq!(narrow.objects[0].bbox, [20.0, 30.0, 42.0, 60.0]);
}

#[test]
fn colours_go_there_and_back() {
    for p in [[200, 30, 60], [10, 250, 90], [40, 41, 200], [255, 255, 0]] {
        assert_eq!(recoloured(p, 1.0, 1.0, 1.0), p);
    }
    assert_eq!(recoloured([200, 100, 100], 1.0, 0.0, 1.0), [200; 3]);
}

#[test]
fn the_recipe_depends_on_the_model_and_given_values_win() {
    let of = |model| {
        let a = Augment::default().settled(model);
        (a.scale.unwrap(), a.mixup.unwrap())
    };
    assert_eq!(
        [Model::Yolov8n, Model::Yolov8s, Model::Yolov8m, Model::Yolov8l, Model::Yolov8x].map(of),
        [(0.5, 0.0), (0.5, 0.0), (0.9, 0.1), (0.9, 0.15), (0.9, 0.15)]
    );
    let given = Augment { scale: Some(0.2), mixup: Some(0.0), ..Augment::default() };
    assert_eq!(given.settled(Model::Yolov8m), given);
}

#[test]
fn copy_paste_adds_objects_where_their_boxes_say_and_shifts_no_other_randomness() {
    let plain = Augment { hsv_v: 0.1, ..Augment::default() };
    let pasting = Augment { copy_paste: 1.0, ..plain.clone() };
    let mut more = 0;
    for sample in 0..30 {
        let make = |s: &Augment| augmented(&blocks(), 0, 64, s, true, &mut random(1, 0, sample, 0)).unwrap();
        let (a, b) = (make(&plain), make(&pasting));
        assert_eq!(a.objects.iter().filter(|o| !b.objects.contains(o)).count(), 0, "those that were there stay");
        for o in &b.objects {
            let found = dark_bounds(&b.rgb, o.bbox);
            // Other blocks may touch a pasted one: the dark part is at least as large as the box.
            assert!((0..2).all(|i| found[i] <= o.bbox[i] + 1.6 && found[i + 2] >= o.bbox[i + 2] - 1.6), "{sample}");
        }
        more += b.objects.len() - a.objects.len();
        let closed = |s: &Augment| augmented(&blocks(), 0, 64, s, false, &mut random(1, 0, sample, 0)).unwrap();
        assert_eq!(closed(&plain), closed(&pasting), "closed with mosaic");
    }
    assert!(more > 10, "{more}");
}

#[test]
fn wrong_settings_are_named() {
    assert_eq!(Augment::default().wrong_field(), None);
    assert_eq!(Augment { hsv_s: 3.0, ..Augment::default() }.wrong_field().unwrap().0, "hsv_s");
    assert_eq!(Augment { scale: Some(f64::NAN), ..Augment::default() }.wrong_field().unwrap().0, "scale");
}

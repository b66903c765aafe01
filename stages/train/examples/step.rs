use train::{Config, assigner::Truth, learner::Learner};
use vision::yolov8::{Images, Native, Size, Spec};
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).take(3).map(|x| x.parse().unwrap()).collect();
    let (side, threads, steps) = (a[0], a[1], a[2]);
    let (batch, classes) = (8, 80);
    let spec = Spec { size: Size::N, classes };
    let config = Config { batch, imgsz: side as u32, nominal_batch: batch, ..Config::default() };
    let pixels: Vec<f32> = (0..batch * side * side * 3).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
    let images = Images { data: &pixels, batch, height: side, width: side };
    let truths: Vec<Vec<Truth>> = (0..batch).map(|b| (0..12).map(|i: usize| {
        let size = 24.0 + 3.0 * i as f32;
        let at = |k: usize| ((b * 31 + i * 53 + k * 97) % (side - side / 4)) as f32;
        Truth { class: i % classes, bbox: [at(0), at(1), at(0) + size, at(1) + size] }
    }).collect()).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut learner = Learner::new(Box::new(Native::new(spec, 0).with_precision(if std::env::args().nth(4).as_deref() == Some("bf16") { vision::yolov8::native::Precision::Bf16 } else { vision::yolov8::native::Precision::F32 })), &config, batch * 100);
        let mut best = f64::MAX;
        let mut all = vec![];
        for s in 0..=steps {
            let t = std::time::Instant::now();
            let l = learner.learn(0, images, &truths).unwrap();
            let e = t.elapsed().as_secs_f64() * 1e3;
            if s > 0 { best = best.min(e); all.push(e); }
            if s == steps { println!("loss {l:?}"); }
        }
        all.sort_by(f64::total_cmp);
        println!("{side} {threads} threads: best {best:.1} median {:.1}", all[all.len()/2]);
    });
}

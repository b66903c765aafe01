//! Time of a training step (forward and backward) and of inference on this machine.
//!
//! `cargo run --release -p vision --example bench_step [batch [imgsz [steps [n|s|m|l|x]]]]`
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Instant;
use vision::yolov8::{Backend, Images, Mode, Native, Size, Spec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let (batch, side, steps) = (number(0, 8)?, number(1, 320)?, number(2, 10)?);
    let size = match arguments.get(3).map_or("n", String::as_str) {
        "s" => Size::S,
        "m" => Size::M,
        "l" => Size::L,
        "x" => Size::X,
        _ => Size::N,
    };
    let spec = Spec { size, classes: 8 };
    let pixels: Vec<f32> = (0..batch * side * side * 3).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
    let gflop = spec.graph().flops(side, side) * batch as f64 / 1e9;
    println!(
        "YOLOv8 {size:?}, 8 classes, batch {batch}, {side} px: {gflop:.1} GFLOP forward (counted as direct convolutions)"
    );
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| -> Result<(), vision::yolov8::Error> {
            let mut network = Native::new(spec, 0);
            let images = Images { data: &pixels, batch, height: side, width: side };
            let one = Images { data: &pixels[..side * side * 3], batch: 1, height: side, width: side };
            // Best and middle of the steps; the first one allocates.
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..=steps {
                let start = Instant::now();
                let mut gradient = network.forward(images, Mode::Train)?.clone();
                times[0].push(start.elapsed().as_secs_f64() * 1e3);
                gradient.levels.iter_mut().for_each(|level| level.data.iter_mut().for_each(|g| *g *= 1e-3));
                let start = Instant::now();
                network.zero_gradients();
                network.backward(&gradient)?;
                times[1].push(start.elapsed().as_secs_f64() * 1e3);
                // As an optimizer's step would: the weights have to be prepared again.
                network.parameters();
            }
            for _ in 0..=steps {
                let start = Instant::now();
                network.forward(one, Mode::Eval)?;
                times[2].push(start.elapsed().as_secs_f64() * 1e3);
            }
            let [forward, backward, single] = times.map(|mut t| {
                t.remove(0);
                t.sort_by(f64::total_cmp);
                (t[0], t[t.len() / 2])
            });
            let best = forward.0 + backward.0;
            println!(
                "{threads} thread(s): step {best:.0} ms best, {:.0} ms middle (forward {:.0}, backward {:.0}), {:.0} GFLOP/s; one picture {:.1} ms",
                forward.1 + backward.1,
                forward.0,
                backward.0,
                3.0 * gflop / best * 1e3,
                single.0,
            );
            Ok(())
        })?;
    }
    Ok(())
}

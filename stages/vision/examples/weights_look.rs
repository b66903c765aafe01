//! Prints what a weights file holds, and the head's output on a fixed picture.
use vision::yolov8::{Backend, Images, Mode, weights};
fn main() {
    let path = std::env::args().nth(1).expect("a file");
    let w = weights::read(&std::fs::read(path).expect("readable")).unwrap_or_else(|e| panic!("{e:?} {e}"));
    println!("{:?} {:?} {:?} {:?} {}", w.kind, w.spec, w.licence, w.state.metadata.get("imgsz"), w.state.tensors.len());
    println!("{:?}", w.names.as_ref().map(|n| n.iter().take(3).cloned().collect::<Vec<_>>()));
    let mut net = w.network().expect("fits");
    let data: Vec<f32> =
        (0..128 * 128 * 3).map(|i: u32| (i.wrapping_mul(2654435761) >> 8) as f32 / 16777216.0).collect();
    let heads = net.forward(Images { data: &data, batch: 1, height: 128, width: 128 }, Mode::Eval).expect("runs");
    for l in &heads.levels {
        println!("{:?}", &l.data[..6]);
    }
}

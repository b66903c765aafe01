//! Every convolution of a `.pt` file's network, in the engine's own memory, against PyTorch.

use super::*;
use crate::yolov8::weights;
use fixture::{DESCRIPTION, HEIGHT, SPEC, WIDTH, checkpoint, golden};

#[path = "../../../../tests/weights/fixture.rs"]
mod fixture;
#[path = "../../../../tests/formula/mod.rs"]
mod formula;

#[test]
fn every_layer_is_that_of_pytorch() {
    let mut network = weights::read(&checkpoint(DESCRIPTION)).unwrap().network().unwrap();
    let pixels = formula::picture("picture", HEIGHT, WIDTH);
    let images = Images { data: &pixels, batch: 1, height: HEIGHT, width: WIDTH };
    assert_eq!(network.spec(), SPEC);
    let golden = golden();
    let mut seen = 0;
    watch(&mut network, images, Mode::Eval, &mut |op, read| {
        let Op::Conv(conv) = op else { return };
        let mut made = read(conv.output);
        if let Tail::NormSilu(Some(added)) = conv.tail {
            // The reference's layer ends before the sum.
            made.iter_mut().zip(read(added)).for_each(|(m, a)| *m -= a);
        }
        let cells = made.chunks(conv.output.channels);
        golden.compare(&conv.name, (0..conv.output.channels).flat_map(|c| cells.clone().map(move |cell| cell[c])));
        seen += 1;
    });
    assert_eq!(seen, golden.layers.len() - 1, "every layer but the decoded head");
}

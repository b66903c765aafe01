//! The operators that choose and move rows, as far as exports with suppression inside need them. See `evaluate`.

use super::evaluate::{Array, Data};
use crate::{
    nms::{Candidate, nms},
    yolov8::onnx::Node,
};
use datasets::{BBox, Pixels};

fn get<'a>(inputs: &[Option<&'a Array>], i: usize) -> Result<&'a Array, String> {
    inputs.get(i).copied().flatten().ok_or_else(|| format!("input {i} is missing"))
}

fn ints(a: &Array) -> Result<&[i64], String> {
    match &a.data {
        Data::I(data) => Ok(data),
        Data::F(_) => Err("floats where whole numbers are needed".into()),
    }
}

fn one(a: &[f32]) -> Result<f32, String> {
    if let [x] = a { Ok(*x) } else { Err("one number is needed".into()) }
}

/// Runs one of these operators.
pub(super) fn operation(node: &Node, inputs: &[Option<&Array>]) -> Result<Vec<Array>, String> {
    match node.op_type.as_str() {
        "NonMaxSuppression" => Ok(vec![suppress(inputs)?]),
        "GatherND" => {
            let (x, places) = (get(inputs, 0)?, get(inputs, 1)?);
            let d = x.f()?;
            let found = flat(x, places)?.into_iter().map(|i| d[i]).collect();
            Ok(vec![Array::floats(vec![places.shape[0]], found)])
        }
        "ScatterND" => {
            let (x, places, new) = (get(inputs, 0)?, get(inputs, 1)?, get(inputs, 2)?);
            let mut d = x.f()?.to_vec();
            flat(x, places)?.into_iter().zip(new.f()?).for_each(|(i, &v)| d[i] = v);
            Ok(vec![Array::floats(x.shape.clone(), d)])
        }
        "TopK" => best(get(inputs, 0)?, ints(get(inputs, 1)?)?),
        _ => {
            let (x, places) = (get(inputs, 0)?, get(inputs, 1)?);
            let ([b, n, c], [pb, k, pc]) = (&x.shape[..], &places.shape[..]) else {
                return Err("three axes are known".into());
            };
            if b != pb || c != pc || node.int("axis", 0) != 1 {
                return Err(format!("{:?} of {:?}", places.shape, x.shape));
            }
            let d = x.f()?;
            let at = |(i, &row): (usize, &i64)| {
                let row = usize::try_from(row).ok().filter(|r| r < n).ok_or_else(|| format!("row {row} of {n}"))?;
                Ok(d[(i / (k * c) * n + row) * c + i % c])
            };
            let data = ints(places)?.iter().enumerate().map(at).collect::<Result<_, String>>()?;
            Ok(vec![Array::floats(places.shape.clone(), data)])
        }
    }
}

/// Positions in three axes as positions in the data.
fn flat(x: &Array, places: &Array) -> Result<Vec<usize>, String> {
    let ([a, b, c], [_, 3]) = (&x.shape[..], &places.shape[..]) else { return Err("three axes are known".into()) };
    let sizes = [*a as i64, *b as i64, *c as i64];
    let place = |p: &[i64; 3]| {
        let inside = p.iter().zip(sizes).all(|(&i, n)| (0..n).contains(&i));
        inside
            .then(|| ((p[0] * sizes[1] + p[1]) * sizes[2] + p[2]) as usize)
            .ok_or_else(|| format!("{p:?} of {sizes:?}"))
    };
    ints(places)?.as_chunks::<3>().0.iter().map(place).collect()
}

fn suppress(inputs: &[Option<&Array>]) -> Result<Array, String> {
    let (boxes, scores) = (get(inputs, 0)?, get(inputs, 1)?);
    let (iou, conf) = (one(get(inputs, 3)?.f()?)?, one(get(inputs, 4)?.f()?)?);
    let &[most] = ints(get(inputs, 2)?)? else { return Err("one number of boxes is needed".into()) };
    let ([batch, anchors, 4], [_, classes, n]) = (&boxes.shape[..], &scores.shape[..]) else {
        return Err(format!("boxes {:?}, scores {:?}", boxes.shape, scores.shape));
    };
    if anchors != n {
        return Err(format!("{anchors} boxes and {n} scores"));
    }
    let (boxes, scores) = (boxes.f()?, scores.f()?);
    let mut found = Vec::new();
    for b in 0..*batch {
        for c in 0..*classes {
            // The anchor travels as the class, so that one class is looked at after the other.
            let candidates: Vec<Candidate<Pixels>> = (0..*anchors)
                .filter(|a| scores[(b * classes + c) * anchors + a] > conf)
                .map(|a| {
                    let at = (b * anchors + a) * 4;
                    let [x0, y0, x1, y1] = [0, 1, 2, 3].map(|i| f64::from(boxes[at + i]));
                    Candidate {
                        bbox: BBox::new(x0, y0, x1, y1),
                        class: 0,
                        score: scores[(b * classes + c) * anchors + a],
                    }
                })
                .collect();
            for kept in nms(candidates, f64::from(iou), most as usize) {
                let same = |a: &usize| {
                    let at = (b * anchors + a) * 4;
                    let edges = [kept.bbox.x0, kept.bbox.y0, kept.bbox.x1, kept.bbox.y1];
                    scores[(b * classes + c) * anchors + a] == kept.score
                        && (0..4).all(|i| f64::from(boxes[at + i]) == edges[i])
                };
                let anchor = (0..*anchors).find(same).ok_or("a box that was not there")?;
                found.extend([b as i64, c as i64, anchor as i64]);
            }
        }
    }
    Ok(Array { shape: vec![found.len() / 3, 3], data: Data::I(found) })
}

/// The largest of each row with their places; of equal ones the first.
fn best(x: &Array, k: &[i64]) -> Result<Vec<Array>, String> {
    let (&[rows, n], &[k]) = (&x.shape[..], k) else { return Err("rows are known".into()) };
    let k = usize::try_from(k).ok().filter(|&k| k <= n).ok_or_else(|| format!("{k} of {n}"))?;
    let d = x.f()?;
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for r in 0..rows {
        let row = &d[r * n..(r + 1) * n];
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| row[j].total_cmp(&row[i]));
        values.extend(order[..k].iter().map(|&i| row[i]));
        places.extend(order[..k].iter().map(|&i| i as i64));
    }
    let shape = vec![rows, k];
    Ok(vec![Array::floats(shape.clone(), values), Array { shape, data: Data::I(places) }])
}

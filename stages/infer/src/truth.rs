//! Predictions against truth, when truth is an input.

use datasets::AnnotationSet;
use datasets::eval::{EvalSettings, Evaluation, evaluate, from_coco};
use datasets::formats::coco_text;
use engine::{Context, StageError};

use crate::settings::Settings;

/// Measures the boxes `low` (down to the confidence of AP) against the COCO file at the input `truth`. The counts and
/// the lists of mistakes are taken at the stage's own confidence. This is what `pipeline eval` does with the files.
pub fn measured(low: &AnnotationSet, config: &Settings, ctx: &Context) -> Result<Evaluation, StageError> {
    let manifest = ctx.manifest("truth")?;
    let mut files = manifest.blobs.iter().filter(|b| b.name.to_ascii_lowercase().ends_with(".json"));
    let (Some(blob), None) = (files.next(), files.next()) else {
        let names: Vec<&str> = manifest.blobs.iter().take(5).map(|b| b.name.as_str()).collect();
        return Err(StageError::input(
            format!(
                "the input `truth` has to be one COCO file (.json); it has {} files: {}",
                manifest.blobs.len(),
                names.join(", ")
            ),
            "point `inputs.truth` to the file, or convert other formats with `pipeline import` and `pipeline export labels --format coco`",
        ));
    };
    let input = from_coco(&ctx.bytes(blob)?, coco_text(low).as_bytes())
        .map_err(|e| StageError::failed(format!("comparing with `{}`", blob.name), e))?;
    let settings = EvalSettings { conf: config.conf, iou: config.eval_iou, ..EvalSettings::default() };
    Ok(evaluate(&input, &settings))
}

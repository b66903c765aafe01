//! Settings of the `train` stage.
//!
//! Owns their meaning, ranges and defaults, and what `auto` settles to. Refuses to act on them.

use datasets::split::SplitSettings;
use engine::StageError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vision::yolov8::{
    Size,
    engine::{Device, Engine},
    native::{Instructions, Precision},
};

use crate::{
    augment::Augment,
    balance::ClassWeights,
    dataset::Cache,
    loss::Gains,
    memory::{BatchSize, Written},
    optimizer::{Choice, Rule, Settled, settle_auto},
    schedule::{NOMINAL_BATCH, Schedule},
};

/// The network to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// 3.2 million parameters.
    #[default]
    Yolov8n,
    /// 11.2 million.
    Yolov8s,
    /// 25.9 million.
    Yolov8m,
    /// 43.7 million.
    Yolov8l,
    /// 68.2 million.
    Yolov8x,
}

impl Model {
    /// Depth and width of the network.
    pub fn size(self) -> Size {
        match self {
            Self::Yolov8n => Size::N,
            Self::Yolov8s => Size::S,
            Self::Yolov8m => Size::M,
            Self::Yolov8l => Size::L,
            Self::Yolov8x => Size::X,
        }
    }

    /// Name as in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yolov8n => "yolov8n",
            Self::Yolov8s => "yolov8s",
            Self::Yolov8m => "yolov8m",
            Self::Yolov8l => "yolov8l",
            Self::Yolov8x => "yolov8x",
        }
    }
}

/// The published behaviour that the defaults follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Recipe {
    /// The YOLOv8 detection recipe of release 8.2.103.
    #[default]
    #[serde(rename = "yolov8@8.2.103")]
    Yolov8,
}

/// Which drawings are held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Division {
    /// Those that the data set's files name for validation; drawn ones where they name none.
    #[default]
    Auto,
    /// Drawn ones.
    Draw,
}

/// Whether big drawings are cut into tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tile {
    /// Tiles when a typical symbol would get smaller than 24 pixels in a picture shrunk to `imgsz`; then at the size
    /// at which the drawing is, unless its symbols are typically smaller than 16 or bigger than 96 pixels.
    #[default]
    Auto,
    /// Always tiles, at the size at which the drawing is.
    Native,
    /// Never: every picture is shrunk to `imgsz`.
    Off,
}

/// The numbers that the network computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// bf16 on processors with instructions for it (AVX512-BF16), f32 on others: the result depends on the machine.
    Auto,
    /// 32-bit floats.
    #[default]
    F32,
    /// Activations and products in 16 bits, about half the memory; parameters, their averages, statistics and all sums
    /// stay in 32. Works on every processor; without instructions for it, it is slower than f32.
    Bf16,
}

impl PrecisionChoice {
    /// What it means on this machine.
    pub fn settled(self) -> Precision {
        match self {
            Self::Auto if Instructions::chosen() == Instructions::Avx512Bf16 => Precision::Bf16,
            Self::Auto | Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }
}

/// What runs the network while it learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// `native`; where `tch` or `burn` is compiled in and computes rightly on a graphics processor, that.
    #[default]
    Auto,
    /// This project's own engine, on the processor. The same bytes with AVX2, AVX-512 and NEON, and in bf16 without them
    /// too.
    Native,
    /// LibTorch, on the processor or CUDA; needs a program built with `--features tch`.
    Tch,
    /// Burn, on Vulkan, Metal, WebGPU or CUDA; needs a program built with `--features burn`.
    Burn,
}

/// What the network may be run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A graphics processor that the back end has and that computes rightly, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A graphics processor, or nothing.
    Gpu,
}

/// What runs the network, on what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The back end.
    pub engine: Engine,
    /// Its device.
    pub device: Device,
    /// In words.
    pub why: String,
}

impl Placement {
    /// What settings mean on this machine; `proof` says which graphics processor a back end can use, or why none.
    pub fn settle(
        backend: BackendChoice,
        device: DeviceChoice,
        proof: impl Fn(Engine) -> Result<String, String>,
    ) -> Result<Self, StageError> {
        let refuse = |key: &str, message: String| Err(StageError::Config { key: key.into(), message });
        let engine = match backend {
            BackendChoice::Auto => None,
            BackendChoice::Native => Some(Engine::Native),
            BackendChoice::Tch => Some(Engine::Tch),
            BackendChoice::Burn => Some(Engine::Burn),
        };
        if let Some(engine) = engine.filter(|e| !e.compiled()) {
            let name = engine.name();
            let message = format!(
                "this program was built without the back end `{name}`: build it with `cargo build --release --features {name}`, or take `native`"
            );
            return refuse("backend", message);
        }
        let asked: Vec<Engine> = engine.map_or_else(|| Engine::ALL.to_vec(), |e| vec![e]);
        let mut missing = Vec::new();
        if device != DeviceChoice::Cpu {
            for engine in asked.into_iter().filter(|&e| e != Engine::Native && e.compiled()) {
                match proof(engine) {
                    Ok(gpu) => {
                        let why = format!("`{}` computes rightly on {gpu}", engine.name());
                        return Ok(Self { engine, device: Device::Gpu, why });
                    }
                    Err(why) => missing.push(why),
                }
            }
        }
        let missing = missing.join("; ");
        if device == DeviceChoice::Gpu {
            let engines = "the native engine runs on the processor: `--features tch` or `burn` brings others";
            return refuse("device", if missing.is_empty() { engines.into() } else { missing });
        }
        let engine = engine.unwrap_or(Engine::Native);
        let why = match (engine, device) {
            (Engine::Native, _) if missing.is_empty() => "the native engine needs no libraries".to_owned(),
            (_, DeviceChoice::Cpu) => "the settings say `device: cpu`".to_owned(),
            _ => missing,
        };
        Ok(Self { engine, device: Device::Cpu, why })
    }

    /// Puts it in the place of `auto`.
    pub fn settle_config(&self, config: &mut Config) {
        config.backend = match self.engine {
            Engine::Native => BackendChoice::Native,
            Engine::Tch => BackendChoice::Tch,
            Engine::Burn => BackendChoice::Burn,
        };
        config.device = match self.device {
            Device::Cpu => DeviceChoice::Cpu,
            Device::Gpu => DeviceChoice::Gpu,
        };
        // The processor's instructions say nothing about other devices.
        if config.precision == PrecisionChoice::Auto && self.engine == Engine::Burn {
            config.precision = PrecisionChoice::F32;
        }
        if config.precision == PrecisionChoice::Auto && self.device == Device::Gpu {
            config.precision = PrecisionChoice::Bf16;
        }
    }
}

/// Settings of the `train` stage. Defaults not said otherwise are those of the recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, known by its name")]
pub struct Config {
    /// The network. Default yolov8n, the one that trains on a CPU.
    pub model: Model,
    /// The published behaviour that is followed. Default yolov8@8.2.103, the only one.
    pub recipe: Recipe,
    /// Weights to start from: `symbols-n` (this program's own, for yolov8n and drawings), `scratch` (random), or a file of
    /// this program (`.safetensors`), of PyTorch (`.pt`) or ONNX, relative to the project file. A file's content and name,
    /// not its folder, count for the result: it becomes the input `weights`. Default null: `symbols-n` for yolov8n, else
    /// `scratch`.
    pub weights: Option<String>,
    /// The first so many modules of the network keep their starting weights and statistics, 0 to 22. Default 0; 10 keeps
    /// the backbone.
    pub freeze: usize,
    /// Passes over the training set, at least 1. Default 50 (the recipe's 100 is for hundreds of thousands of photographs).
    pub epochs: usize,
    /// A budget in seconds, above 0, instead of `epochs`: after each epoch their number is set anew to what the budget
    /// allows at the mean speed so far, at least one, and the learning rate follows. `epochs` is the guess that the first
    /// one starts with. Null for no budget. Default null: with one, the result depends on the speed of the machine.
    pub time_s: Option<f64>,
    /// Stops when the fitness (0.1 mAP50 + 0.9 mAP50-95) has not risen for this many epochs after the first in which
    /// anything was found; 0 for never. Default 100.
    pub patience: usize,
    /// Side of the square that the network sees, in pixels, a multiple of 32. Default 640.
    pub imgsz: u32,
    /// Pictures a batch, at least 1; or `auto` (or -1) for the largest divisor of `nominal_batch` whose predicted memory is
    /// at most 60 % of what is available; then the result depends on the machine. A batch for which memory cannot be had
    /// is halved; `nominal_batch` stays. Default 16.
    #[schemars(with = "Written")]
    pub batch: BatchSize,
    /// Pictures that one step of the optimizer stands for, reached by adding up batches. Default 64.
    pub nominal_batch: usize,
    /// `auto`, `sgd` or `adamw`. Default auto, which also sets `lr0`, `momentum` and `warmup_bias_lr`.
    pub optimizer: Choice,
    /// Highest learning rate, above 0. Default 0.01; not used with `optimizer: auto`.
    pub lr0: f64,
    /// Last learning rate as a fraction of the highest, 0..=1. Default 0.01.
    pub lrf: f64,
    /// The learning rate falls along a cosine instead of a straight line. Default false.
    pub cos_lr: bool,
    /// Momentum (SGD) or beta1 (AdamW), 0..1. Default 0.937; not used with `optimizer: auto`.
    pub momentum: f64,
    /// Weight decay of convolution weights for a step of `nominal_batch` pictures. Default 0.0005.
    pub weight_decay: f64,
    /// Epochs over which the learning rate rises. Default 3.
    pub warmup_epochs: f64,
    /// The warm-up is at least this many batches. Default 100.
    pub warmup_min_batches: usize,
    /// Momentum at the start of the warm-up (SGD). Default 0.8.
    pub warmup_momentum: f64,
    /// Learning rate of biases at the start of the warm-up. Default 0.1; not used with `optimizer: auto`.
    pub warmup_bias_lr: f64,
    /// Decay of the moving average of the weights, 0..1. Default 0.9999.
    pub ema_decay: f64,
    /// Updates over which that decay builds up. Default 2000; less for trainings of a few hundred steps.
    pub ema_tau: f64,
    /// Weight of the box overlap in the loss. Default 7.5.
    #[serde(rename = "box")]
    pub box_gain: f64,
    /// Weight of the classes in the loss. Default 0.5.
    #[serde(rename = "cls")]
    pub cls_gain: f64,
    /// Weight of the box side distributions in the loss. Default 1.5.
    #[serde(rename = "dfl")]
    pub dfl_gain: f64,
    /// Weight of each class in the class loss: a map of names to numbers (0 or more; 1 for those not named), `balanced`
    /// for inverse frequencies, or null for 1 everywhere. Default null.
    pub class_weights: Option<ClassWeights>,
    /// All objects count as one class, `object`. Default false.
    pub single_cls: bool,
    /// The side of the network's input changes from batch to batch, from half to one and a half times `imgsz` in steps of
    /// 32. Default false.
    pub multi_scale: bool,
    /// Random views of the training pictures.
    pub augment: Augment,
    /// Whether big drawings are cut into tiles of `imgsz`: auto, native or off. Default auto (ours; the recipe shrinks).
    pub tile: Tile,
    /// Pixels of the network's input that neighbouring tiles share; null for 1.5 times the longer side of large
    /// symbols (the 95th percentile), at most a third of `imgsz`. Default null (ours).
    pub tile_overlap: Option<u32>,
    /// Which drawings are held back to measure the model: `auto` takes the data set's own division into training and
    /// validation where its files tell one, `draw` always draws `val_fraction`. What the files tell to be for testing is
    /// left out in any case. Default auto.
    pub split: Division,
    /// Share of the drawings held back to measure the model where they are drawn, 0 to below 1. Default 0.2 (ours).
    /// Drawings go to either side by their content, so adding some does not move others.
    pub val_fraction: f64,
    /// Measures every this many epochs, and after the last. Default 1.
    pub val_every: usize,
    /// Measures on rectangles: pictures of like shape share a batch, with the least padding to multiples of 32. Saves time
    /// on long drawings. Boxes near the padding differ a little from those of inference, which always shows squares; so
    /// the default is false (ours).
    pub rect: bool,
    /// Lowest confidence that counts in measuring, 0..1. Default 0.001.
    pub val_conf: f64,
    /// Overlap above which two boxes of a class are one object in measuring, 0..=1. Default 0.7.
    pub val_iou: f64,
    /// Most boxes of a picture (of a tile, for tiled drawings) in measuring. Default 300.
    pub val_max_det: usize,
    /// `auto`, `f32` or `bf16`: the numbers that the network learns with. `args.json` says which it was. The metrics of
    /// each epoch are measured with the same, those of the finished model in f32. Default f32.
    pub precision: PrecisionChoice,
    /// `auto`, `native`, `tch` or `burn`: what runs the network while it learns. The last two need a program built with
    /// the cargo feature of that name. Auto is native, or one of them where it is compiled in and has a graphics processor.
    /// The finished model is measured on the native engine. Default auto.
    pub backend: BackendChoice,
    /// `auto`, `cpu` or `gpu`: what `tch` and `burn` may run on; `PIPELINE_FORCE_CPU=1` sets cpu. Default auto: a graphics
    /// processor that computes the network rightly, else the processor.
    pub device: DeviceChoice,
    /// Start of all randomness. Default 0.
    pub seed: u64,
    /// Where pictures beyond `cache_mb` are kept: ram (compressed) or disk (as they are). No influence on the result.
    /// Default ram.
    pub cache: Cache,
    /// Megabytes of sized pictures kept in memory as they are, 0 or more. No influence on the result. Default 2048.
    pub cache_mb: usize,
}

impl Default for Config {
    fn default() -> Self {
        let gains = Gains::default();
        Self {
            model: Model::default(),
            recipe: Recipe::default(),
            weights: None,
            freeze: 0,
            epochs: 50,
            time_s: None,
            patience: 100,
            imgsz: 640,
            batch: BatchSize::Of(16),
            nominal_batch: NOMINAL_BATCH,
            optimizer: Choice::Auto,
            lr0: 0.01,
            lrf: 0.01,
            cos_lr: false,
            momentum: 0.937,
            weight_decay: 5e-4,
            warmup_epochs: 3.0,
            warmup_min_batches: 100,
            warmup_momentum: 0.8,
            warmup_bias_lr: 0.1,
            ema_decay: 0.9999,
            ema_tau: 2000.0,
            box_gain: gains.bbox,
            cls_gain: gains.cls,
            dfl_gain: gains.dfl,
            class_weights: None,
            single_cls: false,
            multi_scale: false,
            augment: Augment::default(),
            tile: Tile::Auto,
            tile_overlap: None,
            split: Division::Auto,
            val_fraction: 0.2,
            val_every: 1,
            rect: false,
            val_conf: 0.001,
            val_iou: 0.7,
            val_max_det: 300,
            precision: PrecisionChoice::F32,
            backend: BackendChoice::Auto,
            device: DeviceChoice::Auto,
            seed: 0,
            cache: Cache::Ram,
            cache_mb: 2048,
        }
    }
}

impl Config {
    /// How training and validation are divided.
    pub fn split_settings(&self) -> SplitSettings {
        SplitSettings { val: self.val_fraction, seed: self.seed, own: self.split == Division::Auto }
    }

    /// Refuses settings out of range.
    pub fn check(&self) -> Result<(), StageError> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let below_one = |x: f64| (0.0..1.0).contains(&x);
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let least = |x: f64| x >= 0.0 && x.is_finite();
        let rules: [(&str, bool, &str); 23] = [
            ("freeze", self.freeze <= 22, "0 to 22: the head, module 22, always learns"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("time_s", self.time_s.is_none_or(positive), "above 0, or null"),
            ("imgsz", self.imgsz >= 32 && self.imgsz.is_multiple_of(32), "a multiple of 32"),
            ("batch", self.batch != BatchSize::Of(0), "at least 1, or auto"),
            ("nominal_batch", self.nominal_batch >= 1, "at least 1"),
            ("lr0", positive(self.lr0), "above 0"),
            ("lrf", share(self.lrf), "0 to 1"),
            ("momentum", below_one(self.momentum), "0 to below 1"),
            ("weight_decay", least(self.weight_decay), "0 or more"),
            ("warmup_epochs", least(self.warmup_epochs), "0 or more"),
            ("warmup_momentum", below_one(self.warmup_momentum), "0 to below 1"),
            ("warmup_bias_lr", least(self.warmup_bias_lr), "0 or more"),
            ("ema_decay", below_one(self.ema_decay), "0 to below 1"),
            ("ema_tau", positive(self.ema_tau), "above 0"),
            ("box", least(self.box_gain), "0 or more"),
            ("cls", least(self.cls_gain), "0 or more"),
            ("dfl", least(self.dfl_gain), "0 or more"),
            ("tile_overlap", self.tile_overlap.is_none_or(|o| o < self.imgsz / 2), "less than half of imgsz, or null"),
            ("val_fraction", below_one(self.val_fraction), "0 to below 1"),
            ("val_every", self.val_every >= 1, "at least 1"),
            ("val_conf", below_one(self.val_conf), "0 to below 1"),
            ("val_iou", share(self.val_iou), "0 to 1"),
        ];
        let wrong = |key: String, range: &str| Err(StageError::Config { key, message: format!("must be {range}") });
        if let Some((key, _, range)) = rules.into_iter().find(|(_, right, _)| !right) {
            return wrong(key.into(), range);
        }
        if let Some(class) = self.class_weights.as_ref().and_then(ClassWeights::wrong_field) {
            return wrong(format!("class_weights.{class}"), "0 or more");
        }
        match self.augment.wrong_field() {
            Some((key, range)) => wrong(format!("augment.{key}"), range),
            None => Ok(()),
        }
    }

    /// The weights of the loss terms.
    pub fn gains(&self) -> Gains {
        Gains { bbox: self.box_gain, cls: self.cls_gain, dfl: self.dfl_gain, classes: Vec::new() }
    }

    /// Longest side of the network's input in training, in pixels.
    pub fn longest_side(&self) -> u32 {
        if self.multi_scale { sides(self.imgsz).1 } else { self.imgsz }
    }

    /// The optimizer and its numbers, `auto` settled for `samples` training pictures (tiles) an epoch.
    pub fn settled(&self, samples: usize, classes: usize) -> Settled {
        match self.optimizer {
            Choice::Auto => {
                settle_auto(samples, self.batch.or(self.nominal_batch), self.nominal_batch, self.epochs, classes)
            }
            choice => Settled { choice, lr0: self.lr0, momentum: self.momentum, warmup_bias_lr: self.warmup_bias_lr },
        }
    }

    /// The timetable for `samples` training pictures (tiles) an epoch; `batch: auto` stands for the nominal one.
    pub fn schedule(&self, settled: &Settled, samples: usize) -> Schedule {
        self.schedule_with(settled, samples, self.batch.or(self.nominal_batch))
    }

    /// The timetable with batches of `batch` pictures.
    pub fn schedule_with(&self, settled: &Settled, samples: usize, batch: usize) -> Schedule {
        let batches = samples.div_ceil(batch);
        let warmup = if self.warmup_epochs > 0.0 {
            ((self.warmup_epochs * batches as f64).round() as usize).max(self.warmup_min_batches)
        } else {
            0
        };
        Schedule {
            epochs: self.epochs,
            batches,
            batch,
            nominal_batch: self.nominal_batch,
            lr0: settled.lr0,
            lrf: self.lrf,
            cosine: self.cos_lr,
            warmup,
            warmup_bias_lr: settled.warmup_bias_lr,
            warmup_momentum: self.warmup_momentum,
            momentum: settled.momentum,
        }
    }
}

/// Shortest and longest side that `multi_scale` gives, in pixels.
pub fn sides(imgsz: u32) -> (u32, u32) {
    let whole = |v: u32| v / 32 * 32;
    (whole(imgsz / 2).max(32), whole(imgsz + imgsz / 2))
}

impl Settled {
    /// The update rule.
    pub fn rule(&self) -> Rule {
        match self.choice {
            Choice::AdamW => Rule::AdamW { beta1: self.momentum },
            Choice::Auto | Choice::Sgd => Rule::Sgd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range_and_wrong_values_are_named() {
        Config::default().check().unwrap();
        let message = |c: Config| c.check().unwrap_err().to_string();
        assert_eq!(message(Config { imgsz: 100, ..Config::default() }), "setting `imgsz`: must be a multiple of 32");
        assert!(message(Config { lr0: f64::NAN, ..Config::default() }).contains("lr0"));
        let augment = Augment { mosaic: 2.0, ..Augment::default() };
        assert!(message(Config { augment, ..Config::default() }).contains("augment.mosaic"));
    }

    #[test]
    fn names_in_the_file_are_those_that_people_know() {
        let c: Config = serde_json::from_value(serde_json::json!({
            "model": "yolov8s", "recipe": "yolov8@8.2.103", "optimizer": "adamw", "box": 5.0, "tile": "off",
            "augment": {"fliplr": 0.0},
        }))
        .unwrap();
        assert_eq!((c.model, c.optimizer, c.box_gain, c.tile), (Model::Yolov8s, Choice::AdamW, 5.0, Tile::Off));
        assert_eq!(c.augment.fliplr, 0.0);
        assert!(serde_json::from_value::<Config>(serde_json::json!({"epoch": 3})).is_err());
    }

    #[test]
    fn back_ends_are_native_without_a_proven_gpu() {
        let none = |_: Engine| Err("no card".to_owned());
        let place = Placement::settle(BackendChoice::Auto, DeviceChoice::Auto, none).unwrap();
        assert_eq!((place.engine, place.device), (Engine::Native, Device::Cpu));
        let error = Placement::settle(BackendChoice::Auto, DeviceChoice::Gpu, none).unwrap_err().to_string();
        assert!(error.contains("device"), "{error}");
        for (choice, engine) in [(BackendChoice::Tch, Engine::Tch), (BackendChoice::Burn, Engine::Burn)] {
            match Placement::settle(choice, DeviceChoice::Auto, none) {
                Ok(place) => {
                    assert!(engine.compiled() && place.engine == engine && place.device == Device::Cpu);
                    assert_eq!(place.why, "no card");
                    let place = Placement::settle(BackendChoice::Auto, DeviceChoice::Auto, |_| Ok("a card".into()));
                    assert_eq!(place.unwrap().device, Device::Gpu);
                }
                Err(e) => {
                    let text = e.to_string();
                    assert!(!engine.compiled() && text.contains(&format!("--features {}", engine.name())), "{text}");
                }
            }
        }
        let place = Placement::settle(BackendChoice::Auto, DeviceChoice::Cpu, |_| Ok("a card".into())).unwrap();
        assert_eq!(place.engine, Engine::Native);
    }

    #[test]
    fn the_warm_up_has_a_least_length_and_can_be_off() {
        let c = Config::default();
        let settled = c.settled(160, 5);
        assert_eq!(c.schedule(&settled, 160).warmup, 100);
        assert_eq!(c.schedule(&settled, 1600).warmup, 300);
        assert_eq!(Config { warmup_epochs: 0.0, ..c }.schedule(&settled, 1600).warmup, 0);
    }
}

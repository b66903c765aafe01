//! One step of learning: forward, loss, backward, and when it is due the optimizer and the moving average.
//!
//! Owns the network in training with everything that moves with it. Refuses to own epochs, data and files.

use vision::yolov8::{Backend, Heads, Images, Mode, ParameterKind};

use crate::{
    assigner::Truth,
    config::Config,
    ema::Ema,
    loss::{Gains, LossTerms, loss},
    optimizer::{Group, Optimizer, Parameter, Settled},
    schedule::{Rates, Schedule},
};

/// A network in training.
pub struct Learner {
    /// The network.
    pub net: Box<dyn Backend>,
    /// Averages of its parameters, then of its buffers.
    pub ema: Ema,
    /// The update rule with its state.
    pub optimizer: Optimizer,
    /// The timetable.
    pub schedule: Schedule,
    /// Batches done.
    pub step: usize,
    /// The batch after which the optimizer stepped last.
    pub last_update: Option<usize>,
    /// Gradients of earlier epochs that no step has used yet, by parameter; empty when there are none.
    pub carried: Vec<Vec<f32>>,
    settled: Settled,
    gains: Gains,
    head_gradient: Heads,
    /// The first so many modules do not learn.
    freeze: usize,
}

/// All arrays of a network: parameters, then buffers.
pub fn arrays(net: &mut dyn Backend) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = net.parameters().iter().map(|p| p.data.to_vec()).collect();
    all.extend(net.buffers().iter().map(|b| b.data.to_vec()));
    all
}

/// Replaces all arrays of a network of the same description.
pub fn set_arrays(net: &mut dyn Backend, values: &[Vec<f32>]) {
    let mut values = values.iter();
    let mut next = |data: &mut [f32]| data.copy_from_slice(values.next().expect("one array for each of the network's"));
    net.parameters().into_iter().for_each(|p| next(p.data));
    net.buffers().into_iter().for_each(|b| next(b.data));
}

/// Whether an array belongs to the first `freeze` modules.
fn is_frozen(name: &str, freeze: usize) -> bool {
    name.split('.').nth(1).and_then(|n| n.parse::<usize>().ok()).is_some_and(|module| module < freeze)
}

fn group(name: &str, kind: ParameterKind, freeze: usize) -> Group {
    match kind {
        _ if is_frozen(name, freeze) => Group::Frozen,
        ParameterKind::Weight => Group::Weight,
        ParameterKind::NormWeight => Group::Norm,
        ParameterKind::Bias | ParameterKind::NormBias => Group::Bias,
    }
}

impl Learner {
    /// Training of `net` from the start, for `samples` training pictures an epoch.
    pub fn new(mut net: Box<dyn Backend>, config: &Config, samples: usize) -> Self {
        let settled = config.settled(samples, net.spec().classes);
        let schedule = config.schedule(&settled, samples);
        let lengths: Vec<usize> = net.parameters().iter().map(|p| p.data.len()).collect();
        let optimizer = Optimizer::new(settled.rule(), schedule.weight_decay(config.weight_decay), &lengths);
        let ema = Ema::new(arrays(net.as_mut()), config.ema_decay, config.ema_tau);
        net.zero_gradients();
        let freeze = config.freeze;
        net.freeze(freeze);
        Self {
            net,
            ema,
            optimizer,
            schedule,
            step: 0,
            last_update: None,
            carried: Vec::new(),
            settled,
            gains: config.gains(),
            head_gradient: Heads::default(),
            freeze,
        }
    }

    /// Gives every class a weight in the class loss; none for 1.
    pub fn weigh_classes(&mut self, weights: &[f32]) {
        self.gains.classes = weights.to_vec();
    }

    /// Sets the timetable to batches of this size, as after [`Learner::change_batch`]; the counters stay.
    pub fn set_batch(&mut self, config: &Config, samples: usize, batch: usize) {
        let epochs = self.schedule.epochs;
        self.schedule = Schedule { epochs, ..config.schedule_with(&self.settled, samples, batch) };
        self.optimizer.set_weight_decay(self.schedule.weight_decay(config.weight_decay));
    }

    /// Goes on with batches of another size after the end of an epoch: the same number of epochs is done, and gradients
    /// that wait for a step stand for as many pictures as before.
    pub fn change_batch(&mut self, config: &Config, samples: usize, batch: usize) {
        let (batches, size) = (self.schedule.batches, self.schedule.batch);
        let waiting = self.step - self.last_update.map_or(0, |u| u + 1);
        self.set_batch(config, samples, batch);
        self.step = self.step * self.schedule.batches / batches;
        let due = self.step.saturating_sub((waiting * size).div_ceil(batch));
        self.last_update = due.checked_sub(1);
    }

    /// Learns from one batch in epoch `epoch`.
    pub fn learn(
        &mut self,
        epoch: usize,
        images: Images,
        truths: &[Vec<Truth>],
    ) -> Result<LossTerms, vision::yolov8::Error> {
        let rates = self.schedule.rates(epoch, self.step);
        let heads = self.net.forward(images, Mode::Train)?;
        let terms = loss(heads, truths, &self.gains, &mut self.head_gradient);
        if !terms.is_finite() {
            return Ok(terms);
        }
        self.net.backward(&self.head_gradient)?;
        let due = self.last_update.map_or(0, |u| u + 1);
        if self.step + 1 - due >= rates.accumulate {
            self.update(&rates);
            self.last_update = Some(self.step);
        }
        self.step += 1;
        Ok(terms)
    }

    fn update(&mut self, rates: &Rates) {
        let carried = std::mem::take(&mut self.carried);
        let mut parameters = self.net.parameters();
        let sums: Vec<Vec<f32>> = parameters
            .iter()
            .zip(&carried)
            .map(|(p, c)| p.gradient.iter().zip(c).map(|(&g, &c)| g + c).collect())
            .collect();
        let mut list: Vec<Parameter> = parameters
            .iter_mut()
            .enumerate()
            .map(|(i, p)| Parameter {
                group: group(p.name, p.kind, self.freeze),
                value: p.data,
                grad: sums.get(i).map_or(p.gradient, Vec::as_slice),
            })
            .collect();
        self.optimizer.step(&mut list, rates);
        self.net.zero_gradients();
        let buffers: Vec<Vec<f32>> = self.net.buffers().iter().map(|b| b.data.to_vec()).collect();
        let parameters = self.net.parameters();
        let now: Vec<&[f32]> = parameters.iter().map(|p| &*p.data).chain(buffers.iter().map(Vec::as_slice)).collect();
        self.ema.update(&now);
    }

    /// Puts gradients that no step has used aside, so that an epoch ends in a state that files can hold exactly.
    pub fn end_epoch(&mut self) {
        let due = self.last_update.map_or(0, |u| u + 1);
        if self.step == due {
            return;
        }
        let gradients: Vec<Vec<f32>> = self.net.parameters().iter().map(|p| p.gradient.to_vec()).collect();
        if self.carried.is_empty() {
            self.carried = gradients;
        } else {
            for (c, g) in self.carried.iter_mut().flatten().zip(gradients.iter().flatten()) {
                *c += g;
            }
        }
        self.net.zero_gradients();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::Choice;
    use vision::yolov8::{Native, Size, Spec};

    #[test]
    fn frozen_modules_stay_to_the_bit_and_the_others_learn() {
        let config = Config {
            freeze: 10,
            optimizer: Choice::AdamW,
            warmup_epochs: 0.0,
            batch: 1.into(),
            nominal_batch: 1,
            ..Config::default()
        };
        let net = Native::new(Spec { size: Size::N, classes: 2 }, 3);
        let before = net.state();
        let mut learner = Learner::new(Box::new(net), &config, 4);
        let data: Vec<f32> = (0..64 * 64 * 3).map(|i| (i % 37) as f32 / 37.0).collect();
        let truth = vec![vec![Truth { class: 1, bbox: [8.0, 8.0, 40.0, 40.0] }]];
        for _ in 0..2 {
            learner.learn(0, Images { data: &data, batch: 1, height: 64, width: 64 }, &truth).unwrap();
        }
        let mut averaged = Native::new(Spec { size: Size::N, classes: 2 }, 0);
        set_arrays(&mut averaged, &learner.ema.values);
        for (key, tensor) in learner.net.state().tensors.iter().filter(|(key, _)| !key.contains("dfl")) {
            let same = tensor == &before.tensors[key];
            // Levels without an object have nothing to learn for their boxes.
            assert!(same || !is_frozen(key, 10), "{key}");
            assert!(!same || is_frozen(key, 10) || key.starts_with("model.22.cv2"), "{key}");
            assert!(!is_frozen(key, 10) || averaged.state().tensors[key] == before.tensors[key], "{key}");
        }
    }
}

//! How much each class counts in the loss.
//!
//! Owns the setting `class_weights` and its formula. Refuses to own the loss.

use std::collections::BTreeMap;

use engine::StageError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Weights of the classes in the class loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ClassWeights {
    /// By frequency.
    Rule(Rule),
    /// By class name, each 0 or more; classes that are not named have 1.
    Named(BTreeMap<String, f64>),
}

/// How weights follow from the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Inverse frequency: `N / (K n)` for a class with `n` of the `N` objects in training, `K` being the classes that
    /// have any. The mean over the objects is 1, so that the loss keeps its size. A class without objects has 1.
    Balanced,
}

impl ClassWeights {
    /// The weight that is out of range.
    pub fn wrong_field(&self) -> Option<&str> {
        match self {
            Self::Rule(_) => None,
            Self::Named(map) => map.iter().find(|(_, w)| !(**w >= 0.0 && w.is_finite())).map(|(name, _)| name.as_str()),
        }
    }

    /// One weight a class, given how many objects of each are trained on.
    pub fn settled(&self, classes: &[String], objects: &[usize]) -> Result<Vec<f32>, StageError> {
        match self {
            Self::Rule(Rule::Balanced) => Ok(balanced(objects)),
            Self::Named(map) => {
                if let Some(unknown) = map.keys().find(|name| !classes.contains(name)) {
                    return Err(StageError::Config {
                        key: format!("class_weights.{unknown}"),
                        message: format!("there is no such class; the classes are {}", classes.join(", ")),
                    });
                }
                Ok(classes.iter().map(|c| map.get(c).map_or(1.0, |&w| w as f32)).collect())
            }
        }
    }
}

fn balanced(objects: &[usize]) -> Vec<f32> {
    let total: usize = objects.iter().sum();
    let present = objects.iter().filter(|&&n| n > 0).count();
    let weight = |&n: &usize| if n == 0 { 1.0 } else { (total as f64 / (present * n) as f64) as f32 };
    objects.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        ["a", "b", "c"].map(String::from).to_vec()
    }

    #[test]
    fn balanced_weights_are_inverse_frequencies_with_mean_one() {
        let weights = ClassWeights::Rule(Rule::Balanced).settled(&classes(), &[30, 10, 0]).unwrap();
        assert_eq!(weights, [40.0 / 60.0, 2.0, 1.0]);
        assert!((30.0 * weights[0] + 10.0 * weights[1] - 40.0).abs() < 1e-4);
    }

    #[test]
    fn named_weights_leave_the_others_at_one_and_unknown_names_are_refused() {
        let named: ClassWeights = serde_json::from_str(r#"{"b": 2.5}"#).unwrap();
        assert_eq!(named.settled(&classes(), &[1, 1, 1]).unwrap(), [1.0, 2.5, 1.0]);
        let wrong: ClassWeights = serde_json::from_str(r#"{"x": 1}"#).unwrap();
        let text = wrong.settled(&classes(), &[1, 1, 1]).unwrap_err().to_string();
        assert!(text.contains("class_weights.x") && text.contains("a, b, c"), "{text}");
        assert_eq!(serde_json::from_str::<ClassWeights>("\"balanced\"").unwrap(), ClassWeights::Rule(Rule::Balanced));
        assert!(serde_json::from_str::<ClassWeights>("\"inverse\"").is_err());
    }

    #[test]
    fn weights_below_zero_are_named() {
        let wrong: ClassWeights = serde_json::from_str(r#"{"a": 1, "b": -2}"#).unwrap();
        assert_eq!(wrong.wrong_field(), Some("b"));
    }
}

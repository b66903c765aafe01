//! A flag that asks running work to stop at the next safe point.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Shared by everything that belongs to one run; cloning shares the flag. A child token stops with its parent.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    flag: Arc<AtomicBool>,
    parent: Option<Box<CancelToken>>,
}

impl CancelToken {
    /// A token of its own, not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is set when this one is, and can be set alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { flag: Arc::default(), parent: Some(Box::new(self.clone())) }
    }

    /// Asks for a stop.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// True once a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst) || self.parent.as_ref().is_some_and(|p| p.is_cancelled())
    }
}

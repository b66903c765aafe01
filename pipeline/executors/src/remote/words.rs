//! What an attempt says while it works, on its way to whoever waits for it.
//!
//! Owns which events travel and in what portions. Refuses to own results: all of this is for people, and nothing else is
//! wrong when some of it is lost.

use std::sync::{Arc, Mutex, PoisonError};

use engine::{
    Level, StageError,
    event::{Event, EventSink},
};

use super::protocol::to_bytes;
use crate::objects::Objects;

/// Events of a portion at most; later ones are left out.
const MOST: usize = 1000;

/// Passes events on and keeps those that are to travel.
pub struct Words {
    beside: Arc<dyn EventSink>,
    /// A whole stage tells how far it is, too; of items, parts do.
    whole: bool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The newest.
    progress: Option<Event>,
    events: Vec<Event>,
    portions: u32,
}

impl Words {
    /// Of a whole stage or of a shard of items; `beside` hears everything at once.
    pub fn new(beside: Arc<dyn EventSink>, whole: bool) -> Self {
        Self { beside, whole, waiting: Mutex::default() }
    }

    /// Leaves what was said since the last time in the folder of the attempt.
    pub fn leave(&self, objects: &dyn Objects, folder: &str) -> Result<(), StageError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = std::mem::take(&mut waiting.events);
        events.extend(waiting.progress.take());
        if !events.is_empty() {
            let number = waiting.portions;
            waiting.portions += 1;
            drop(waiting);
            objects.put(&format!("{folder}/said-{number:04}"), &to_bytes(&events))?;
        }
        Ok(())
    }
}

impl EventSink for Words {
    fn emit(&self, event: &Event) {
        self.beside.emit(event);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let travels = match event {
            Event::Progress { .. } if self.whole => {
                waiting.progress = Some(event.clone());
                false
            }
            Event::Metric { .. } => self.whole,
            Event::Message { level, .. } => *level > Level::Debug,
            Event::Device { .. } => true,
            _ => false,
        };
        if travels && waiting.events.len() < MOST {
            waiting.events.push(event.clone());
        }
    }
}

//! Telling people how far the work is, and what those say who do it.
//!
//! Owns what is shown while shards are under way. Refuses to decide anything by it.

use std::collections::{BTreeMap, BTreeSet};

use engine::{DeviceUse, StageError, context::Notes, event::Event};

use super::{
    super::protocol::{PartName, left_at},
    Errand,
};

/// Up to so many open shards their parts are counted for the progress bar.
const SHOW_PARTS: usize = 256;
/// Up to so many open shards are listened to; of others, messages come with their results.
const LISTEN: usize = 16;

/// What workers said, as far as it was listened to.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Paths of the portions.
    portions: BTreeSet<String>,
    /// How far a whole stage is: done, of all, unit, detail.
    progress: Option<(u64, u64, String, String)>,
}

impl Errand<'_> {
    /// Shows how far it is.
    pub(super) fn show(&mut self, is_items: bool) -> Result<(), StageError> {
        let shards = || self.generations.iter().flat_map(|g| g.shards.iter());
        let (all, done) = (shards().count(), shards().filter(|s| s.merged).count());
        let running = shards().filter(|s| !s.merged && s.running_since.is_some()).count();
        let detail = format!("{done} of {all} shards, {running} running");
        if !is_items {
            let paths = self.c.objects.list(&self.layout.attempts_all())?;
            self.listen(&paths);
            match &self.heard.progress {
                Some((done, all, unit, detail)) => self.ctx().progress(*done, *all, unit, detail),
                None => self.ctx().progress(done as u64, all as u64, "shards", detail),
            }
            return Ok(());
        }
        let items: u64 = shards().map(|s| s.items).sum();
        let mut ready: u64 = shards().filter(|s| s.merged).map(|s| s.items).sum();
        if all - done <= SHOW_PARTS && running > 0 {
            let paths = self.c.objects.list(&self.layout.attempts_all())?;
            ready += self.held(&paths);
            if all - done <= LISTEN {
                self.listen(&paths);
            }
        }
        self.ctx().progress(ready, items, "images", detail);
        Ok(())
    }

    /// Items that are in parts of unfinished shards.
    fn held(&self, paths: &[String]) -> u64 {
        let mut held: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for path in paths {
            if let Some((shard, _, name)) = left_at(path)
                && let Some(part) = PartName::read(name)
            {
                *held.entry(shard).or_default() += part.items;
            }
        }
        let of = |(g, n): (u32, u32)| self.generations.get(g as usize)?.shards.get(n as usize).filter(|s| !s.merged);
        held.into_iter().filter_map(|(id, count)| Some(count.min(of(id)?.items))).sum()
    }

    /// Passes on what was said and not heard yet. What cannot be read is left out: it is for people only.
    fn listen(&mut self, paths: &[String]) {
        for path in paths {
            let is_said = left_at(path).is_some_and(|(.., name)| name.starts_with("said-"));
            if !is_said || !self.heard.portions.insert(path.clone()) {
                continue;
            }
            let bytes = self.c.objects.get(path).ok().flatten().unwrap_or_default();
            let mut notes = Notes::default();
            for event in serde_json::from_slice::<Vec<Event>>(&bytes).unwrap_or_default() {
                match event {
                    Event::Progress { done, total, unit, detail, .. } => {
                        self.heard.progress = Some((done, total, unit, detail));
                    }
                    Event::Metric { name, value, step, .. } => self.ctx().series(&name, value, step),
                    Event::Message { level, text, .. } => notes.messages.push((level, text)),
                    Event::Device { asked, used, why, .. } => notes.devices.push(DeviceUse { asked, used, why }),
                    _ => {}
                }
            }
            // The same words come once more with the result, and are not said twice.
            self.ctx().absorb(&notes);
        }
    }
}

//! What lies where in the store of a remote job, and in which form. `docs/remote.md` has the rules that keep it safe.
//!
//! ```text
//! name                                       the store's own name, a part of the names of batches (create-only)
//! cas/ab/<digest>                            content, by its BLAKE3; compressed where that pays
//! jobs/<job>/<g>/spec.json                   what is to be done (create-only)
//! jobs/<job>/<g>/<division>/<n>.json         the items of shard n
//! jobs/<job>/<g>/round-<r>.json              which shards were submitted, when for the r-th time (create-only)
//! attempts/<job>/<g>-<n>/<attempt>/begun     somebody works on shard n
//! attempts/<job>/<g>-<n>/<attempt>/part-…    results so far
//! attempts/<job>/<g>-<n>/<attempt>/at-<k>    the item that a careful attempt was about to begin
//! attempts/<job>/<g>-<n>/<attempt>/failed    why it gave up
//! attempts/<job>/<g>-<n>/<attempt>/spent     what it cost, when its result does not count
//! attempts/<job>/<g>-<n>/<attempt>/said-<k>  what it tells people meanwhile
//! done/<job>/<g>-<n>.json                    the result that counts (create-only)
//! differs/<job>/<g>-<n>/<attempt>.json       the result of one that came second, and differs
//! cancelled/<job>/<batch>                    nobody wants this batch's tasks any more
//! ```

use std::collections::BTreeMap;

use engine::{Blob, Digest, Outcome, context::Notes, result::UnhashedKey};
use serde::{Deserialize, Serialize};

/// Version of the layout and of all records.
pub const FORMAT: u32 = 1;

/// What is to be done, the same for all shards of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// See [`FORMAT`].
    pub format: u32,
    /// Version of the program; a worker of another version refuses.
    pub program: String,
    /// The stage's name in the graph.
    pub node: String,
    /// What the stage's key is made of: the stage, its config, its inputs.
    pub unhashed: UnhashedKey,
    /// The work.
    pub work: Work,
}

/// The work of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// The stage as a whole: one shard.
    Whole,
    /// Items, cut into shards.
    Items {
        /// Folder of the shards' lists: the digest of all of them.
        division: Digest,
        /// Number of shards.
        shards: u32,
        /// Number of items in all of them.
        items: u64,
    },
}

impl Spec {
    /// Number of shards.
    pub fn shards(&self) -> u32 {
        match self.work {
            Work::Whole => 1,
            Work::Items { shards, .. } => shards,
        }
    }
}

/// The items of a shard, in their order.
pub type ShardItems = Vec<Blob>;

/// Shards that were submitted together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Numbers of the shards, ascending.
    pub tasks: Vec<u32>,
    /// True when earlier attempts broke off: items are begun one by one, so that the one to blame is found.
    pub careful: bool,
    /// Why, in words.
    pub why: String,
}

/// The result of a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// See [`FORMAT`].
    pub format: u32,
    /// What was made.
    pub made: Made,
    /// Who made it.
    pub attempt: String,
    /// Metrics, messages, devices.
    pub notes: Notes,
    /// What it cost.
    pub cost: Cost,
}

/// What a shard gives: equal for all attempts that ran without fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// Results of items.
    Items {
        /// The pack of them, in the order of the shard.
        pack: Content,
        /// Content that the results name.
        blobs: Vec<Content>,
    },
    /// Outputs of a stage that works as a whole.
    Outputs {
        /// Artifacts by port.
        outputs: BTreeMap<String, Digest>,
        /// Why the stage waits for a person, when it does.
        waiting: Option<String>,
    },
}

impl Made {
    /// The outcome of a whole stage.
    pub fn outcome(waiting: Option<&String>) -> Outcome {
        waiting.map_or(Outcome::Done, |reason| Outcome::Waiting { reason: reason.clone() })
    }
}

/// Bytes in `cas/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Content {
    /// BLAKE3 of the bytes.
    #[serde(rename = "d")]
    pub digest: Digest,
    /// Length in bytes.
    #[serde(rename = "s")]
    pub size: u64,
}

/// What an attempt cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Name of the machine.
    pub host: String,
    /// Seconds of this attempt, transfers included.
    pub seconds: f64,
    /// Seconds of them that were spent on the work itself.
    pub busy: f64,
    /// GPUs that were reserved meanwhile.
    pub gpus: f64,
    /// Items that this attempt computed; those of earlier attempts are not counted.
    pub computed: u64,
    /// Bytes fetched and sent.
    pub fetched: u64,
    /// See `fetched`.
    pub sent: u64,
}

/// Results so far of an unfinished attempt at a shard of items; the pack follows the JSON line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartHead {
    /// BLAKE3 of the pack.
    pub check: Digest,
    /// Content that the results name.
    pub blobs: Vec<Content>,
}

/// Why an attempt gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// In words, with the fix.
    pub message: String,
    /// True when another try may go better.
    pub passing: bool,
    /// Name of the machine.
    pub host: String,
}

/// The folder of checkpoints of an unfinished attempt at a whole stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Files by their path below the folder.
    pub files: BTreeMap<String, Content>,
}

/// The paths of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name of the job: hex digits.
    pub job: String,
    /// The store's own name, eight hex digits; whoever names no batches needs none.
    pub store: String,
}

/// Where the store's own name lies.
pub const NAME: &str = "name";

impl Layout {
    /// The job of a stage with this key (as a whole) or this base of its items.
    pub fn of(key: Digest) -> Self {
        Self { job: key.to_string()[..32].to_owned(), store: String::new() }
    }

    /// With the name that is written in the store.
    pub fn within(self, name: &[u8]) -> Self {
        Self { store: Digest::of(name).to_string()[..8].to_owned(), ..self }
    }

    /// Folder of all generations.
    pub fn jobs(&self) -> String {
        format!("jobs/{}", self.job)
    }
    /// What is to be done.
    pub fn spec(&self, generation: u32) -> String {
        format!("jobs/{}/{generation:04}/spec.json", self.job)
    }
    /// The items of a shard.
    pub fn shard(&self, generation: u32, division: Digest, shard: u32) -> String {
        format!("jobs/{}/{generation:04}/{}/{shard:06}.json", self.job, division.short())
    }
    /// A round of submissions.
    pub fn round(&self, generation: u32, round: u32) -> String {
        format!("jobs/{}/{generation:04}/round-{round:04}.json", self.job)
    }
    /// Folder of all results.
    pub fn done_all(&self) -> String {
        format!("done/{}", self.job)
    }
    /// The result of a shard.
    pub fn done(&self, generation: u32, shard: u32) -> String {
        format!("done/{}/{generation:04}-{shard:06}.json", self.job)
    }
    /// Folder of all attempts.
    pub fn attempts_all(&self) -> String {
        format!("attempts/{}", self.job)
    }
    /// Folder of the attempts at a shard.
    pub fn attempts(&self, generation: u32, shard: u32) -> String {
        format!("attempts/{}/{generation:04}-{shard:06}", self.job)
    }
    /// Folder of the results that came second.
    pub fn differs_all(&self) -> String {
        format!("differs/{}", self.job)
    }
    /// A result that came second and differs.
    pub fn differs(&self, generation: u32, shard: u32, attempt: &str) -> String {
        format!("differs/{}/{generation:04}-{shard:06}/{attempt}.json", self.job)
    }
    /// The mark that a batch is not wanted any more.
    pub fn cancelled(&self, batch: &str) -> String {
        format!("cancelled/{}/{batch}", self.job)
    }
    /// The name of a batch at the cluster, which may know the same job in other stores.
    pub fn batch(&self, generation: u32, round: u32) -> String {
        format!("pl-{}{}-{generation}-{round}", &self.job[..12], self.store)
    }
}

/// Generation and shard in the name of a result, `0001-000012.json`, or of a folder of attempts.
pub fn shard_of(name: &str) -> Option<(u32, u32)> {
    let (generation, shard) = name.strip_suffix(".json").unwrap_or(name).split_once('-')?;
    Some((generation.parse().ok()?, shard.parse().ok()?))
}

/// The name of a part, which says what account and progress need to know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartName {
    /// Parts that the attempt left before it.
    pub number: u32,
    /// Items whose results it holds; 0 for checkpoints of a whole stage.
    pub items: u64,
    /// Milliseconds since the attempt began.
    pub millis: u64,
}

impl PartName {
    /// As it is written, without a folder.
    pub fn write(self) -> String {
        format!("part-{:04}-{}-{}", self.number, self.items, self.millis)
    }

    /// The last piece of a path, if that is a part.
    pub fn read(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix("part-")?.split('-').map(|n| n.parse::<u64>().ok());
        let mut next = || numbers.next().unwrap_or(Some(0));
        Some(Self { number: u32::try_from(next()?).ok()?, items: next()?, millis: next()? })
    }
}

/// What a path among the attempts is about: the shard, the name of the attempt, and that of the object.
pub fn left_at(path: &str) -> Option<((u32, u32), &str, &str)> {
    let mut names = path.rsplit('/');
    let (name, attempt) = (names.next()?, names.next()?);
    Some((shard_of(names.next()?)?, attempt, name))
}

/// Where content lies.
pub fn cas(digest: Digest) -> String {
    let hex = digest.to_string();
    format!("cas/{}/{hex}", &hex[..2])
}

/// A record as it is stored.
pub fn to_bytes(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_are_read_back() {
        let layout = Layout::of(Digest::of(b"k")).within(b"some store");
        assert_ne!(layout.batch(0, 0), layout.clone().within(b"another").batch(0, 0));
        let path = layout.done(3, 17);
        assert_eq!(shard_of(path.rsplit('/').next().unwrap()), Some((3, 17)));
        let folder = layout.attempts(0, 9_999);
        assert_eq!(shard_of(folder.rsplit('/').next().unwrap()), Some((0, 9_999)));
        assert_eq!(shard_of("nonsense"), None);
        let left = format!("{folder}/an-attempt/begun");
        assert_eq!(left_at(&left), Some(((0, 9_999), "an-attempt", "begun")));
        assert_eq!(left_at("begun"), None);
        let part = PartName { number: 12, items: 345, millis: 6789 };
        assert_eq!(PartName::read(&part.write()), Some(part));
        assert_eq!(PartName::read("failed"), None);
        assert_eq!(PartName::read("part-x-1-2"), None);
        let batch = layout.batch(12, 345);
        assert!(batch.len() <= 40 && batch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{batch}");
    }
}

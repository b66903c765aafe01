//! Stages that work item by item: each finished item is durable at once, and ten new images cost ten items.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    artifact::Blob,
    context::Context,
    digest::Digest,
    stage::{
        AnyStage, Descriptor, Facts, Needs, Outcome, Settings, StageError, config_value, parse_config, parse_settings,
    },
};

/// One item: a blob of the stage's item port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The blob: name, digest, size.
    pub blob: Blob,
    /// The item's key: the same key always means the same result.
    pub key: Digest,
}

/// What an item's result depends on beside the config and the other inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ItemIdentity {
    /// Only its bytes: a renamed or copied image is not computed again.
    Content,
    /// Its bytes and its name.
    NameAndContent,
}

/// Why an item has no result.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// The item itself is bad, for good; the text names what is wrong and the fix. The rest goes on.
    #[error("{0}")]
    Quarantine(String),
    /// The stage cannot go on.
    #[error(transparent)]
    Stage(#[from] StageError),
}

impl From<crate::store::StoreError> for ItemError {
    fn from(e: crate::store::StoreError) -> Self {
        Self::Stage(e.into())
    }
}

/// The kept result of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemOutcome {
    /// The bytes that `item` gave.
    Done(Vec<u8>),
    /// The reason why it is left out.
    Quarantined(String),
}

/// A stage that works item by item.
pub trait ItemStage: Send + Sync + 'static {
    /// Its settings.
    type Config: Settings;
    /// What is made once and used for all items: a loaded model, prepared templates.
    type Worker: Send + Sync;

    /// Name, version, ports; `items` names the item port.
    fn descriptor(&self) -> Descriptor;

    /// See [`crate::Stage::resolve`].
    fn resolve(&self, config: Self::Config, facts: &Facts) -> Result<(Self::Config, Vec<String>), StageError> {
        let _ = facts;
        Ok((config, Vec::new()))
    }

    /// See [`crate::Stage::needs`].
    fn needs(&self, config: &Self::Config) -> Needs {
        let _ = config;
        Needs { cores: 0, ..Needs::default() }
    }

    /// See [`crate::Stage::fingerprint`].
    fn fingerprint(&self, config: &Self::Config) -> Value {
        let _ = config;
        Value::Null
    }

    /// What an item's result depends on.
    fn identity(&self, config: &Self::Config) -> ItemIdentity {
        let _ = config;
        ItemIdentity::Content
    }

    /// Items in work at once, at most; 0 means as many as there are threads. Stages that are parallel inside an
    /// item, or need much memory for one, say a small number.
    fn items_at_once(&self, config: &Self::Config) -> usize {
        let _ = config;
        0
    }

    /// Makes the worker. Called only when at least one item has to be computed.
    fn prepare(&self, config: &Self::Config, ctx: &Context) -> Result<Self::Worker, StageError>;

    /// Computes one item. The result must not depend on other items, their order or the number of threads.
    fn item(
        &self,
        worker: &Self::Worker,
        config: &Self::Config,
        item: &Item,
        ctx: &Context,
    ) -> Result<Vec<u8>, ItemError>;

    /// Puts the results of all items, in order of their names, together into the stage's outputs.
    fn finish(&self, config: &Self::Config, results: &Results<'_>, ctx: &Context) -> Result<Outcome, StageError>;
}

/// The results of all items of a stage, read one at a time.
pub struct Results<'a> {
    items: &'a [Item],
    read: &'a dyn Fn(&Item) -> Result<ItemOutcome, StageError>,
}

impl<'a> Results<'a> {
    /// Results that `read` looks up.
    pub fn new(items: &'a [Item], read: &'a dyn Fn(&Item) -> Result<ItemOutcome, StageError>) -> Self {
        Self { items, read }
    }

    /// Number of items, quarantined ones included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Every item with its outcome, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = Result<(&'a Item, ItemOutcome), StageError>> + '_ {
        self.items.iter().map(|item| Ok((item, (self.read)(item)?)))
    }
}

/// The item-wise face of a stage whose types are erased. Executors that cut the work into shards use it.
pub trait ErasedItems: Send + Sync {
    /// Computes and keeps the items of `todo`.
    fn compute(&self, config: &Value, todo: &[Item], ctx: &Context) -> Result<(), StageError>;
    /// Puts the kept results of `all` together.
    fn finish(&self, config: &Value, all: &[Item], ctx: &Context) -> Result<Outcome, StageError>;
}

pub(crate) struct PerItem<S>(pub S);

impl<S: ItemStage> ErasedItems for PerItem<S> {
    fn compute(&self, config: &Value, todo: &[Item], ctx: &Context) -> Result<(), StageError> {
        if todo.is_empty() {
            return Ok(());
        }
        let config: S::Config = parse_config(config)?;
        let worker = self.0.prepare(&config, ctx)?;
        ctx.items().compute(todo, self.0.items_at_once(&config), ctx, |item| self.0.item(&worker, &config, item, ctx))
    }

    fn finish(&self, config: &Value, all: &[Item], ctx: &Context) -> Result<Outcome, StageError> {
        ctx.count_quarantined(all);
        let read = |item: &Item| ctx.items().get(item.key);
        self.0.finish(&parse_config(config)?, &Results::new(all, &read), ctx)
    }
}

impl<S: ItemStage> AnyStage for PerItem<S> {
    fn descriptor(&self) -> Descriptor {
        self.0.descriptor()
    }
    fn schema(&self) -> Value {
        schemars::schema_for!(S::Config).to_value()
    }
    fn parse(&self, config: &Value) -> Result<Value, StageError> {
        parse_settings::<S::Config>(config)
    }
    fn resolve(&self, config: &Value, facts: &Facts) -> Result<(Value, Vec<String>), StageError> {
        let (config, notes) = self.0.resolve(parse_config(config)?, facts)?;
        Ok((config_value(&config), notes))
    }
    fn needs(&self, config: &Value) -> Result<Needs, StageError> {
        Ok(self.0.needs(&parse_config(config)?))
    }
    fn fingerprint(&self, config: &Value) -> Result<Value, StageError> {
        Ok(self.0.fingerprint(&parse_config(config)?))
    }
    fn run(&self, config: &Value, ctx: &Context) -> Result<Outcome, StageError> {
        let all = ctx.all_items()?;
        let todo: Vec<Item> = ctx.items().missing(&all)?;
        ctx.announce_items(all.len(), todo.len());
        self.compute(config, &todo, ctx)?;
        self.finish(config, &all, ctx)
    }
    fn items(&self) -> Option<&dyn ErasedItems> {
        Some(self)
    }
    fn item_identity(&self, config: &Value) -> Result<Option<ItemIdentity>, StageError> {
        Ok(Some(self.0.identity(&parse_config(config)?)))
    }
}

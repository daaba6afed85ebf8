//! Where the world comes from: a file that is followed, or a control plane.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use chassis::readiness::Condition;
use document::Mistakes;
use xds::local::{Event, OpenError, Watcher};
use xds::{Change, Routing};

use crate::world::World;

/// What a change holds beside the world itself, told after the world has it.
#[derive(Debug, Default)]
pub struct News {
    /// Workloads and services that are gone.
    pub removed: Arc<[Arc<str>]>,
    /// Names that were asked for and are answered.
    pub answered: Vec<Arc<str>>,
    /// Routing of services that is new or different.
    pub routing: Vec<Routing>,
    /// Keys of services whose routing is gone.
    pub removed_routing: Vec<Arc<str>>,
    /// With this change the first picture is complete.
    pub synced: bool,
}

/// Applies changes and tells who has to hear of them.
pub struct Follower {
    world: Arc<World>,
    told: Box<dyn Fn(News) + Send + Sync>,
    synced: Condition,
}

impl Follower {
    /// Keeps `world`, tells `told` what else came, and meets `synced` with the first complete picture.
    pub fn new(world: Arc<World>, synced: Condition, told: impl Fn(News) + Send + Sync + 'static) -> Self {
        Self { world, told: Box::new(told), synced }
    }

    /// Applies one change.
    pub fn apply(&self, mut change: Change) {
        let news = News {
            removed: change.removed.clone().into(),
            answered: std::mem::take(&mut change.answered),
            routing: std::mem::take(&mut change.routing),
            removed_routing: std::mem::take(&mut change.removed_routing),
            synced: change.synced,
        };
        let synced = change.synced;
        self.world.apply(change);
        (self.told)(news);
        if synced {
            self.synced.met();
        }
    }

    /// Takes a world that never changes.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub async fn text(self, text: &str) -> Result<Infallible, Mistakes> {
        let world = xds::local::parse("localText", text)?;
        self.apply(world.change());
        Ok(std::future::pending().await)
    }

    /// Follows a file for ever. A file that is broken at the start is an error; one that breaks later leaves the world
    /// as it was.
    ///
    /// # Errors
    /// When the file cannot be used at the start, or cannot be watched any more.
    pub async fn file(self, path: &Path) -> Result<Infallible, OpenError> {
        let mut watcher = Watcher::open(path).await?;
        let first = watcher.world().change();
        self.apply(Change { synced: true, ..first });
        loop {
            match watcher.next().await {
                Event::Changed { change, .. } => self.apply(*change),
                Event::Broken(mistakes) => tracing::warn!(file = %path.display(), %mistakes, "file not taken over"),
                Event::Lost(cause) => return Err(OpenError::Watch { path: path.to_owned(), cause }),
            }
        }
    }
}

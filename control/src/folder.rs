//! Objects from a folder of Kubernetes manifests, watched: the control plane without a cluster.
//!
//! Every `*.yaml`, `*.yml` and `*.json` file directly in the folder, in the order of their names; several documents in a
//! file, separated by `---`; items of a `List`. A file that becomes wrong keeps its former objects, with a warning that
//! names each mistake. Kinds that are not read are passed over, so that a folder may hold whole applications.

mod manifest;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use document::Mistakes;
use document::watch::Watcher;
use tokio::sync::mpsc;

use crate::arrival::Feed;
use crate::object::{Input, Key, Kind};

/// Why a folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A manifest is wrong at the start.
    #[error("{0}")]
    Mistakes(Mistakes),
    /// The system does not let us read or watch it.
    #[error("folder of manifests {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder that is followed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    watcher: Watcher,
    files: BTreeMap<PathBuf, Vec<Input>>,
    told: BTreeMap<Key, Input>,
}

impl Folder {
    /// Reads the folder, and watches it from then on. Must be called on a runtime with I/O.
    ///
    /// # Errors
    /// All mistakes of all files, or why the folder cannot be read.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Unreadable { path: path.to_owned(), source };
        // Watch first: a change between reading and watching would be missed otherwise.
        let watcher = Watcher::folder(path).map_err(failed)?;
        let mut made = Self { path: path.to_owned(), watcher, files: BTreeMap::new(), told: BTreeMap::new() };
        let mistakes = made.read().map_err(failed)?;
        if mistakes.0.is_empty() { Ok(made) } else { Err(FolderError::Mistakes(mistakes)) }
    }

    /// Only says what is wrong with a folder.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn check(path: &Path) -> Result<(), FolderError> {
        let failed = |source| FolderError::Unreadable { path: path.to_owned(), source };
        let mut mistakes = Vec::new();
        for file in files(path).map_err(failed)? {
            mistakes.extend(manifest::load(&file).err().map(|found| found.0).into_iter().flatten());
        }
        if mistakes.is_empty() { Ok(()) } else { Err(FolderError::Mistakes(Mistakes(mistakes))) }
    }

    /// Hands out everything, then what changes, until nobody takes it any more.
    ///
    /// # Errors
    /// When the folder cannot be watched any longer.
    pub async fn run(mut self, feed: mpsc::Sender<Feed>) -> Result<(), FolderError> {
        let first = Kind::ALL.iter().map(|kind| Feed::Begin(*kind));
        let last = Kind::ALL.iter().map(|kind| Feed::Finish(*kind));
        let mut events: Vec<Feed> = first.chain(self.differences()).chain(last).collect();
        loop {
            for event in events {
                if feed.send(event).await.is_err() {
                    return Ok(());
                }
            }
            let changed = tokio::select! {
                changed = self.watcher.changed() => changed,
                () = feed.closed() => return Ok(()),
            };
            let mistakes = changed.and_then(|()| self.read());
            let mistakes = mistakes.map_err(|source| FolderError::Unreadable { path: self.path.clone(), source })?;
            if !mistakes.0.is_empty() {
                tracing::warn!(%mistakes, "manifests not taken over; their former content stays in use");
            }
            events = self.differences();
        }
    }

    /// Reads all files. Those that are wrong keep what they had.
    fn read(&mut self) -> io::Result<Mistakes> {
        let present = files(&self.path)?;
        self.files.retain(|file, _| present.contains(file));
        let mut mistakes = Vec::new();
        for file in present {
            match manifest::load(&file) {
                Ok(objects) => {
                    self.files.insert(file, objects);
                }
                Err(found) => mistakes.extend(found.0),
            }
        }
        Ok(Mistakes(mistakes))
    }

    /// What differs from what was handed out. Of two manifests of one object the first file's counts.
    fn differences(&mut self) -> Vec<Feed> {
        let mut now: BTreeMap<Key, &Input> = BTreeMap::new();
        for (file, objects) in &self.files {
            for object in objects {
                let key = object.key();
                if now.contains_key(&key) {
                    tracing::warn!(object = %key, file = %file.display(), "a second manifest of this object is passed over");
                    continue;
                }
                now.insert(key, object);
            }
        }
        let gone = self.told.keys().filter(|key| !now.contains_key(key)).cloned().map(Feed::Remove);
        let new = now.iter().filter(|(key, object)| self.told.get(key) != Some(object));
        let events = gone.chain(new.map(|(_, object)| Feed::Upsert(Box::new((*object).clone())))).collect();
        self.told = now.into_iter().map(|(key, object)| (key, object.clone())).collect();
        events
    }
}

/// The manifests of a folder, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // A hidden file is an editor's or a ConfigMap's inner link.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if known && !hidden && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

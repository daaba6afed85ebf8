//! A value made from files, made again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What tells two versions of a file apart: device, inode, size, and time of change in nanoseconds. Kubernetes swaps a
/// symbolic link, so the inode changes; an editor changes the time.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A value that follows its files. A stat per file and use; the value is made only when a stamp differs.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    held: Mutex<Option<(Vec<Stamp>, T)>>,
}

impl<T: Clone> Reloaded<T> {
    /// A value that depends on `files`.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, held: Mutex::new(None) }
    }

    /// The value of now. When making it fails the last good one stays in use, with a warning; without a last one the
    /// failure is returned.
    ///
    /// # Errors
    /// What `make` said, when there is no good value from before.
    pub fn get<E: std::fmt::Display>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let stamps: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, value)) = &*held
            && *known == stamps
        {
            return Ok(value.clone());
        }
        match (make(), &mut *held) {
            (Ok(value), held) => {
                *held = Some((stamps, value.clone()));
                Ok(value)
            }
            (Err(error), Some((known, value))) => {
                tracing::warn!(files = ?self.files, %error, "changed files cannot be used; the former content stays in use");
                // Remembered, so that the warning comes once per change.
                *known = stamps;
                Ok(value.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn stamp(file: &Path) -> Stamp {
    let meta = fs::metadata(file).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_file_and_survives_a_bad_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let reloaded = Reloaded::new(vec![file.clone()]);
        let get = || {
            reloaded
                .get(|| fs::read_to_string(&file).map_err(|e| e.to_string())?.parse::<u32>().map_err(|e| e.to_string()))
        };
        assert!(get().is_err());
        fs::write(&file, "1").unwrap();
        assert_eq!(get(), Ok(1));
        fs::write(&file, "22").unwrap();
        assert_eq!(get(), Ok(22));
        fs::write(&file, "bad").unwrap();
        assert_eq!((get(), get()), (Ok(22), Ok(22)));
        fs::remove_file(&file).unwrap();
        assert_eq!(get(), Ok(22));
        fs::write(&file, "4444").unwrap();
        assert_eq!(get(), Ok(4444));
    }
}

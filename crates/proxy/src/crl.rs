//! Revoked certificates from a file that is followed.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use document::watch::Watcher;
use identity::{Crl, CrlError, Manager};

/// The lists of a file, in force with a manager.
pub struct Lists {
    watcher: Watcher,
    manager: Manager,
}

/// Why a file of revocation lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CrlFileError {
    /// Changes of the file would not be seen.
    #[error("{}: its folder cannot be watched: {cause}", .path.display())]
    Watch {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file cannot be read.
    #[error("{}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// What stands in it is no list.
    #[error("{}: {cause}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: CrlError,
    },
}

impl Lists {
    /// Puts the file's lists in force. A file that is not there yet is no error, because it is mounted from something
    /// optional (drop-in.md); one that cannot be used is, because starting without would honour revoked certificates.
    ///
    /// # Errors
    /// See [`CrlFileError`].
    pub fn open(path: &Path, manager: &Manager) -> Result<Self, CrlFileError> {
        // Watched first: a change between reading and watching would be missed otherwise.
        let watcher = Watcher::new(path).map_err(|cause| CrlFileError::Watch { path: path.to_owned(), cause })?;
        let made = Self { watcher, manager: manager.clone() };
        match made.load() {
            Err(CrlFileError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), "no revocation list yet; nothing counts as revoked until it comes");
            }
            result => result?,
        }
        Ok(made)
    }

    /// Follows the file for ever. One that is broken or removed later leaves the lists in force as they were.
    pub async fn follow(mut self) -> Infallible {
        loop {
            let path = self.watcher.path().to_owned();
            if let Err(error) = self.watcher.changed().await {
                tracing::warn!(file = %path.display(), %error, "revocation lists are not followed any more");
                return std::future::pending().await;
            }
            if let Err(error) = self.load() {
                tracing::warn!(%error, "revocation lists not taken over; the former ones stay in force");
            }
        }
    }

    fn load(&self) -> Result<(), CrlFileError> {
        let path = || self.watcher.path().to_owned();
        let pem = std::fs::read(self.watcher.path()).map_err(|cause| CrlFileError::Read { path: path(), cause })?;
        let crl = Crl::from_pem(&pem).map_err(|cause| CrlFileError::Content { path: path(), cause })?;
        tracing::info!(file = %self.watcher.path().display(), revoked = crl.serials().len(), "revocation lists in force");
        self.manager.set_crl(crl);
        Ok(())
    }
}

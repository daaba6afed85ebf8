//! The authority's own folder: made at first start, read at every later one.
//!
//! ```text
//! <folder>/lock                      held while the folder is looked at or made
//! <folder>/authority/root-cert.pem   0644
//! <folder>/authority/root-key.pem    0600
//! ```
//! `authority/` is filled under another name and put in place by one rename, so it is whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::KeyPair;
use zeroize::{Zeroize, Zeroizing};

use crate::authority::AuthorityFiles;
use crate::issue;
use crate::succession::Kept;

/// The folder cannot be used. The texts name the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum StoreError {
    #[error("{}: {source}; the folder must exist or be creatable, and be writable by this user", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is missing but {} is there: half an authority; restore both from a backup, or remove the folder {} to \
         begin with a new root that every workload must then get",
        missing.display(), present.display(), folder.display()
    )]
    Half { missing: PathBuf, present: PathBuf, folder: PathBuf },
    #[error("{} can be read by others (mode {mode:o}); chmod 600, and make a new root if anybody may have read it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("a new root could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{}: {why}; restore it, or remove it, which forgets every former root at once", path.display())]
    Kept { path: PathBuf, why: String },
}

const CERTIFICATE: &str = "root-cert.pem";
const KEY: &str = "root-key.pem";

/// Opens the authority in `folder`, or makes one there: a self-signed P-256 root. Safe when several processes do it at
/// once: all end up with the same root.
///
/// # Errors
/// When the folder cannot be used, holds half an authority, or shows its key to others. Nothing is repaired silently.
pub fn open_or_make(folder: &Path, trust_domain: &str, now: SystemTime) -> Result<AuthorityFiles, StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    let lock_path = folder.join("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path).map_err(at(&lock_path))?;
    // Released when the file is closed, also by a crash.
    lock.lock().map_err(at(&lock_path))?;
    let place = folder.join("authority");
    if !place.exists() {
        make(folder, &place, trust_domain, now)?;
    }
    read(&place)
}

/// What was kept beside files of somebody else.
pub(crate) fn read_kept(path: &Path) -> Result<Kept, StoreError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read(path).map_err(at(path))?);
    serde_json::from_slice(&text).map_err(|e| StoreError::Kept { path: path.to_owned(), why: e.to_string() })
}

/// Keeps it for the next start. It holds a key.
pub(crate) fn write_kept(path: &Path, kept: &Kept) -> Result<(), StoreError> {
    let wrong = |e: serde_json::Error| StoreError::Kept { path: path.to_owned(), why: e.to_string() };
    write_whole(path, &Zeroizing::new(serde_json::to_vec(kept).map_err(wrong)?), 0o600)
}

/// Writes a file so that readers see the old content or the new, never a part.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), StoreError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = write_new(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err()
        && let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %temporary.display(), %error, "left behind");
    }
    written.and_then(|()| sync(folder)).map_err(at(path))
}

fn read(place: &Path) -> Result<AuthorityFiles, StoreError> {
    let (certificate_path, key_path) = (place.join(CERTIFICATE), place.join(KEY));
    let half = |missing: &Path, present: &Path| StoreError::Half {
        missing: missing.to_owned(),
        present: present.to_owned(),
        folder: place.to_owned(),
    };
    match (certificate_path.exists(), key_path.exists()) {
        (true, true) => {}
        (true, false) => return Err(half(&key_path, &certificate_path)),
        (false, true) => return Err(half(&certificate_path, &key_path)),
        (false, false) => return Err(half(&certificate_path, place)),
    }
    let mode = fs::metadata(&key_path).map_err(at(&key_path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: key_path, mode });
    }
    let certificate = fs::read_to_string(&certificate_path).map_err(at(&certificate_path))?;
    let key = Zeroizing::new(fs::read_to_string(&key_path).map_err(at(&key_path))?);
    Ok(AuthorityFiles { roots: certificate.clone(), chain: String::new(), certificate, key })
}

fn make(folder: &Path, place: &Path, trust_domain: &str, now: SystemTime) -> Result<(), StoreError> {
    // What a crash left behind: never used by anybody, since it was never put in place. We hold the lock.
    let making = folder.join("authority.making");
    if making.exists() {
        fs::remove_dir_all(&making).map_err(at(&making))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&making).map_err(at(&making))?;
    let mut key = KeyPair::generate()?;
    let certificate = issue::root(trust_domain, now).self_signed(&key)?.pem();
    let key_pem = Zeroizing::new(key.serialize_pem());
    key.zeroize();
    write_new(&making.join(KEY), key_pem.as_bytes(), 0o600).map_err(at(&making))?;
    write_new(&making.join(CERTIFICATE), certificate.as_bytes(), 0o644).map_err(at(&making))?;
    sync(&making).map_err(at(&making))?;
    fs::rename(&making, place).map_err(at(place))?;
    sync(folder).map_err(at(folder))?;
    tracing::info!(folder = %place.display(), "made a new root; back it up");
    Ok(())
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

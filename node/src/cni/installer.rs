//! Puts the plug-in onto the node and keeps it in the chain: the I/O around [`super::conflist`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conflist::{self, OwnConfig, PLUGIN, Plan, Step};
use super::folder::Folder;

/// Longest file that is read as a network configuration; real ones have some kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// How often the chain is looked at although nothing was seen to change, and a missing folder is looked for: some file
/// systems do not tell (overlay mounts changed from below).
const LOOK: Duration = Duration::from_secs(5);

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Installer {
    /// Folder of network configurations.
    pub(crate) conf_dir: PathBuf,
    /// Folder of plug-ins.
    pub(crate) bin_dir: PathBuf,
    /// The plug-in to copy.
    pub(crate) plugin: PathBuf,
    /// Our entry.
    pub(crate) own: OwnConfig,
}

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
#[error("{}: {step}: {source}", path.display())]
pub(crate) struct InstallError {
    path: PathBuf,
    step: &'static str,
    source: io::Error,
}

/// Where the plug-in stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Last in this file.
    In { file: String, repaired: bool },
    /// The node has no network configuration yet; its CNI will write one.
    NoNetwork,
    /// It could not be put there.
    Failed(String),
}

impl Installer {
    /// Keeps the plug-in in the chain for ever, and tells where it stands whenever that changes.
    pub(crate) async fn keep(self, mut tell: impl FnMut(Chain)) {
        let mut last: Option<Chain> = None;
        loop {
            let mut folder = Folder::watch(&self.conf_dir);
            loop {
                let chain = self.install().unwrap_or_else(|error| Chain::Failed(error.to_string()));
                let repaired = matches!(&chain, Chain::In { repaired: true, .. });
                if repaired && last.is_some() {
                    tracing::warn!(folder = %self.conf_dir.display(), "the CNI plug-in was put back into the chain");
                }
                if last.as_ref() != Some(&chain) {
                    tracing::info!(?chain, "CNI plug-in");
                    tell(chain.clone());
                }
                last = Some(chain);
                if !wait(&mut folder).await {
                    break;
                }
            }
        }
    }

    /// Puts program and entry where they belong. Does nothing when they are there.
    pub(crate) fn install(&self) -> Result<Chain, InstallError> {
        self.copy()?;
        let plan = conflist::install(&self.files()?, &self.own);
        for note in &plan.notes {
            tracing::warn!(folder = %self.conf_dir.display(), "{note}");
        }
        self.carry_out(&plan)?;
        let repaired = !plan.steps.is_empty();
        Ok(plan.file.map_or(Chain::NoNetwork, |file| Chain::In { file, repaired }))
    }

    /// Takes entry and program away.
    pub(crate) fn remove(&self) -> Result<(), InstallError> {
        // The entry first: a chain that names a program which is not there fails every pod.
        self.carry_out(&conflist::remove(&self.files()?))?;
        let path = self.bin_dir.join(PLUGIN);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(InstallError { path, step: "removing", source })
            }
            _ => Ok(()),
        }
    }

    /// Copies the plug-in when the node has none or another one.
    fn copy(&self) -> Result<(), InstallError> {
        let target = self.bin_dir.join(PLUGIN);
        let read = |path: &Path| {
            fs::read(path).map_err(|source| InstallError { path: path.to_owned(), step: "reading", source })
        };
        let program = read(&self.plugin)?;
        match fs::metadata(&target) {
            Ok(meta)
                if meta.len() == program.len() as u64
                    && meta.permissions().mode() & 0o111 != 0
                    && read(&target)? == program =>
            {
                Ok(())
            }
            _ => replace(&target, &program, 0o755),
        }
    }

    /// The files that concern us, those that are text.
    fn files(&self) -> Result<BTreeMap<String, String>, InstallError> {
        let failed = |source| InstallError { path: self.conf_dir.clone(), step: "listing", source };
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.conf_dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if conflist::concerns(&name) && entry.path().is_file() {
                let mut text = String::new();
                let opened = File::open(entry.path()).map(|file| file.take(MAX_FILE));
                match opened.and_then(|mut file| file.read_to_string(&mut text)) {
                    Ok(_) => drop(files.insert(name, text)),
                    // Removed meanwhile, or no text.
                    Err(error) => tracing::debug!(name, %error, "network configuration not read"),
                }
            }
        }
        Ok(files)
    }

    fn carry_out(&self, plan: &Plan) -> Result<(), InstallError> {
        for step in &plan.steps {
            match step {
                // Readable for its owner only, as CNI's own installers write it: configurations may hold credentials.
                Step::Write { name, text } => replace(&self.conf_dir.join(name), text.as_bytes(), 0o600)?,
                Step::Rename { from, to } => {
                    let path = self.conf_dir.join(from);
                    fs::rename(&path, self.conf_dir.join(to)).map_err(|source| InstallError {
                        path,
                        step: "renaming",
                        source,
                    })?;
                }
                Step::Remove { name } => {
                    let path = self.conf_dir.join(name);
                    fs::remove_file(&path).map_err(|source| InstallError { path, step: "removing", source })?;
                }
            }
        }
        Ok(())
    }
}

/// Waits until the folder changes, or is to be looked at anyway. Says whether it is still the same one.
async fn wait(folder: &mut io::Result<Folder>) -> bool {
    match folder {
        Ok(watched) => !matches!(tokio::time::timeout(LOOK, watched.changed()).await, Ok(Err(_))),
        // It is not there yet, or cannot be watched: look now and then.
        Err(_) => {
            tokio::time::sleep(LOOK).await;
            false
        }
    }
}

/// Puts a file in place whole: a runtime that reads meanwhile sees the old one or the new one. The mode of what was there stays.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let failed = |step| move |source| InstallError { path: path.to_owned(), step, source };
    let mode = fs::metadata(path).map_or(mode, |meta| meta.permissions().mode() & 0o7777 | mode);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // No runtime takes a name of this ending for a configuration or a plug-in.
    let beside = path.with_file_name(format!(".{name}.culvert-new"));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(failed("writing beside it"))?;
    fs::rename(&beside, path).map_err(failed("moving into place"))
}

#[cfg(test)]
#[path = "installer_tests.rs"]
mod tests;

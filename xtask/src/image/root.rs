//! The files of an image, gathered in a folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const BUSYBOX: &str = "/bin/busybox";
/// Its name look-ups crash: it is static, and glibc wants to load libraries for them.
const LEFT_OUT: &[&str] = &["wget"];

/// A folder that becomes an image's root.
pub(super) struct Root {
    path: PathBuf,
}

impl Root {
    /// An empty one, with what every program may look for.
    pub(super) fn new(path: &Path, user: u32) -> Result<Self> {
        let root = Self { path: path.to_owned() };
        // Of a run that was called off.
        root.clear()?;
        root.folder("/tmp", 0o1777)?;
        let named = if user == 0 { String::new() } else { format!("culvert:x:{user}:{user}::/:/bin/false\n") };
        root.add_text("/etc/passwd", &format!("root:x:0:0::/root:/bin/false\n{named}"))?;
        let group = if user == 0 { String::new() } else { format!("culvert:x:{user}:\n") };
        root.add_text("/etc/group", &format!("root:x:0:\n{group}"))?;
        // Without it glibc asks DNS before /etc/hosts.
        root.add_text("/etc/nsswitch.conf", "hosts: files dns\n")?;
        Ok(root)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a program of ours without its debugging information, and its libraries.
    pub(super) fn add_built(&mut self, from: &Path, to: &str) -> Result<()> {
        self.add_libraries(from)?;
        let to = self.inside(to)?;
        // Names of functions stay: a panic in the field has to say where.
        let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&to).arg(from).status();
        ensure!(status.context("cannot run strip; install binutils")?.success(), "strip failed on {}", from.display());
        set_mode(&to, 0o755)
    }

    /// Adds a file of this machine under its own name; with its libraries when it is a program.
    pub(super) fn add_system(&mut self, path: &Path) -> Result<()> {
        self.add_as(path, &path.display().to_string())
    }

    /// Adds a file of this machine under another name; with its libraries when it is a program.
    pub(super) fn add_as(&mut self, from: &Path, to: &str) -> Result<()> {
        let mode = fs::metadata(from).with_context(|| format!("{} is not there", from.display()))?.permissions().mode();
        let program = mode & 0o111 != 0;
        if program {
            self.add_libraries(from)?;
        }
        let to = self.inside(to)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        set_mode(&to, if program { 0o755 } else { 0o644 })
    }

    pub(super) fn add_text(&self, path: &str, text: &str) -> Result<()> {
        let to = self.inside(path)?;
        fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        set_mode(&to, 0o644)
    }

    /// Adds busybox under the names of what it can do, beside programs that are there already.
    pub(super) fn add_busybox(&mut self) -> Result<()> {
        self.copy(Path::new(BUSYBOX), 0o755).context("install busybox-static")?;
        let output = Command::new(BUSYBOX).arg("--list").output().context("cannot run busybox")?;
        ensure!(output.status.success(), "busybox --list failed ({})", output.status);
        for name in String::from_utf8_lossy(&output.stdout).lines().filter(|n| !LEFT_OUT.contains(n)) {
            let link = self.path.join("bin").join(name);
            if !link.exists() {
                symlink("busybox", &link).with_context(|| format!("cannot make {}", link.display()))?;
            }
        }
        Ok(())
    }

    /// Removes the folder.
    pub(super) fn remove(self) -> Result<()> {
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn add_libraries(&self, program: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // It fails on a static program, which needs nothing.
        let text = if output.status.success() { said } else { String::new() };
        for library in libraries(&text).with_context(|| format!("{}: a library is missing", program.display()))? {
            // The name that the program asks for, with what it leads to.
            self.copy(&library, 0o755)?;
        }
        Ok(())
    }

    fn copy(&self, path: &Path, mode: u32) -> Result<()> {
        let to = self.inside(&path.display().to_string())?;
        fs::copy(path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
        set_mode(&to, mode)
    }

    // A path of the image in our folder, with the folders above it.
    fn inside(&self, path: &str) -> Result<PathBuf> {
        let path = Path::new(path);
        if let Some(parent) = path.parent() {
            let mut above: Vec<_> = parent.ancestors().collect();
            above.reverse();
            above.iter().try_for_each(|f| self.folder(&f.display().to_string(), 0o755))?;
        }
        Ok(self.path.join(path.strip_prefix("/").unwrap_or(path)))
    }

    fn folder(&self, path: &str, mode: u32) -> Result<()> {
        let to = self.path.join(path.trim_start_matches('/'));
        if !to.exists() {
            fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
            set_mode(&to, mode)?;
        }
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let set = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set.with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// The files that `ldd` names: `name => path (address)`, or `path (address)` for the loader.
fn libraries(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in ldd.lines() {
        ensure!(!line.contains("=> not found"), "{}", line.trim());
        let path = line.split_once("=>").map_or(line, |(_, right)| right).split_whitespace().next();
        found.extend(path.filter(|p| p.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x1)\n";
        assert_eq!(libraries(said).unwrap(), [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld.so.2")]);
        assert!(libraries("\tlibz.so.1 => not found\n").is_err());
    }
}

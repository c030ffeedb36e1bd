//! The folder of a demo: config that people edit, state, logs, and what is worth looking at.
//!
//! ```text
//! config/   the mesh's config, watched by the control plane
//! try/      policies to copy into config/
//! logs/     a log for each process, an access log for each sidecar
//! run/      <name>.pid of each process
//! state/    keys, certificates, enrolments; one folder per process
//! tokens/   join tokens
//! mesh.mmd  the diagram
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::assets;

/// How many names are tried for a temporary folder; two that collide are rare.
const MAX_TRIES: usize = 16;
/// How much of a log's end is read to show its last lines.
const TAIL_BYTES: u64 = 16 * 1024;
/// How many last lines of a log are shown.
const TAIL_LINES: usize = 12;

/// A demo's folder.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    temporary: bool,
}

impl Directory {
    /// Makes a folder with the shop's config in it. Config that is there already stays as it is.
    ///
    /// # Errors
    /// The folder or a file cannot be made.
    pub(crate) fn create(asked: Option<&Path>) -> std::io::Result<Self> {
        let directory = match asked {
            Some(path) => {
                private(true).create(path)?;
                Self { root: path.canonicalize()?, temporary: false }
            }
            None => Self { root: temporary()?, temporary: true },
        };
        for folder in ["config", "try", "logs", "run", "state", "tokens"] {
            private(true).create(directory.root.join(folder))?;
        }
        write_new(&directory.config(), assets::SHOP)?;
        write_new(&directory.root.join("try"), assets::TRY)?;
        Ok(directory)
    }

    /// The mesh's config.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// A policy to try.
    pub(crate) fn to_try(&self, name: &str) -> PathBuf {
        self.root.join("try").join(name)
    }

    /// The folder of all state, private keys among it.
    pub(crate) fn private(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The state of a process.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.private().join(name)
    }

    /// The log of a process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// The file that holds a process's id.
    pub(crate) fn pid(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    /// The diagram.
    pub(crate) fn diagram(&self) -> PathBuf {
        self.root.join("mesh.mmd")
    }

    /// The join token of a workload.
    pub(crate) fn token(&self, workload: &str) -> PathBuf {
        self.root.join("tokens").join(workload)
    }

    /// Writes a join token that only this user can read.
    pub(crate) fn write_token(&self, workload: &str, token: &str) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(self.token(workload))?.write_all(token.as_bytes())
    }

    /// The last lines of a process's log; empty where it has none.
    pub(crate) fn tail(&self, name: &str) -> String {
        tail(&self.log(name)).unwrap_or_default()
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the folder goes when the demo does.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Removes a temporary folder.
    pub(crate) fn remove(&self) -> std::io::Result<()> {
        if self.temporary { std::fs::remove_dir_all(&self.root) } else { Ok(()) }
    }
}

/// Makes folders that only this user can enter: keys lie in them.
fn private(recursive: bool) -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(recursive).mode(0o700);
    builder
}

fn temporary() -> std::io::Result<PathBuf> {
    let mut tries = 0;
    loop {
        let path = std::env::temp_dir().join(format!("meshwork-demo-{:08x}", fastrand::u32(..)));
        tries += 1;
        match private(false).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && tries < MAX_TRIES => {}
            created => return created.map(|()| path),
        }
    }
}

fn write_new(folder: &Path, files: &[(&str, &str)]) -> std::io::Result<()> {
    for (name, text) in files {
        match OpenOptions::new().write(true).create_new(true).open(folder.join(name)) {
            Ok(mut file) => file.write_all(text.as_bytes())?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_is_private_has_the_config_and_goes_away() {
        let directory = Directory::create(None).expect("a folder");
        let mode = std::fs::metadata(directory.root()).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        for (name, text) in assets::SHOP {
            assert_eq!(&std::fs::read_to_string(directory.config().join(name)).expect("config"), text);
        }
        directory.write_token("web", "secret").expect("token");
        let mode = std::fs::metadata(directory.token("web")).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        directory.remove().expect("removal");
        assert!(!directory.root().exists());
    }

    #[test]
    fn a_folder_that_is_kept_keeps_what_people_changed() {
        let temporary = Directory::create(None).expect("a folder");
        let kept = Directory::create(Some(&temporary.root().join("kept"))).expect("a folder");
        let (name, _) = assets::SHOP.first().expect("config");
        std::fs::write(kept.config().join(name), "mine").expect("written");
        let again = Directory::create(Some(kept.root())).expect("a folder");
        assert_eq!(std::fs::read_to_string(again.config().join(name)).expect("config"), "mine");
        again.remove().expect("nothing to do");
        assert!(kept.root().exists());
        temporary.remove().expect("removal");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let directory = Directory::create(None).expect("a folder");
        assert_eq!(directory.tail("web"), "");
        let lines: Vec<String> = (0..4000).map(|number| format!("line {number}")).collect();
        std::fs::write(directory.log("web"), lines.join("\n")).expect("written");
        assert_eq!(directory.tail("web"), lines[lines.len() - TAIL_LINES..].join("\n"));
        directory.remove().expect("removal");
    }
}

//! What is left of programs that have ended: processes, namespaces, mounts, sockets.
//!
//! Programs are known by a variable of their environment, which their children inherit. What they hold is noted while
//! they live ([`Trace::look`]); afterwards nothing of it may be there ([`Trace::left`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The variable that marks programs.
pub const VARIABLE: &str = "MESHWORK_E2E";

/// What marked programs have held.
#[derive(Debug, Default)]
pub struct Trace {
    mark: String,
    namespaces: BTreeSet<PathBuf>,
    sockets: BTreeSet<String>,
}

impl Trace {
    /// Of programs whose [`VARIABLE`] is this.
    pub fn new(mark: &str) -> Self {
        Self { mark: mark.to_owned(), ..Self::default() }
    }

    /// The ids of the marked processes.
    pub fn processes(&self) -> BTreeSet<u32> {
        let wanted = format!("{VARIABLE}={}", self.mark);
        let marked = |folder: &PathBuf| {
            let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|pair| pair == wanted.as_bytes())
        };
        folders().filter(marked).filter_map(|folder| id(&folder)).collect()
    }

    /// Notes what the marked processes hold now; namespaces that are ours too do not count.
    pub fn look(&mut self) {
        let own: BTreeSet<_> = namespaces(Path::new("/proc/self")).collect();
        for process in self.processes() {
            let folder = PathBuf::from(format!("/proc/{process}"));
            self.namespaces.extend(namespaces(&folder).filter(|n| !own.contains(n)));
            self.sockets.extend(links(&folder.join("fd")).filter_map(|link| {
                let link = link.to_string_lossy().into_owned();
                link.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
            }));
        }
    }

    /// How many namespaces have been noted.
    pub fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// What is still there, in words; empty is as it should be.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<_> = self.processes().into_iter().map(describe).collect();
        for folder in folders() {
            for namespace in namespaces(&folder).filter(|n| self.namespaces.contains(n)) {
                left.push(format!("{} is in {}", folder.display(), namespace.display()));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|m| m.contains(&self.mark)).map(|m| format!("mounted: {m}")));
        for table in ["tcp", "tcp6", "udp", "udp6", "unix", "packet", "raw", "netlink"] {
            let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            let held = |line: &&str| line.split_whitespace().any(|word| self.sockets.contains(word));
            // An inode's number is long; those of other columns are short, or hexadecimal.
            left.extend(text.lines().skip(1).filter(held).map(|line| format!("{table}: {line}")));
        }
        left
    }
}

fn describe(id: u32) -> String {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    format!("process {id}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| id(path).is_some())
}

fn id(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.parse().ok()
}

fn links(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok())
}

/// The namespaces that a process is in, as `net:[4026531840]`; those that its children will be in too.
fn namespaces(process: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    links(&process.join("ns"))
}

/// The TCP ports on which a process listens in our own network.
pub fn listening(process: u32) -> BTreeSet<u16> {
    let held: BTreeSet<_> = links(Path::new(&format!("/proc/{process}/fd"))).collect();
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            // Source: proc(5): local address, remote address, state (0A is LISTEN), …, inode.
            let [_, local, _, "0A", .., inode] = fields.get(..10).unwrap_or_default() else { continue };
            let port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if held.contains(Path::new(&format!("socket:[{inode}]"))) {
                ports.extend(port);
            }
        }
    }
    ports
}

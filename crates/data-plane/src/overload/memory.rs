//! How much of the memory that we may use is used. Source: Linux `Documentation/admin-guide/cgroup-v2.rst`, proc(5).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use rustix::param::page_size;

use super::Memory;

/// Where cgroups of version 2 are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Measures memory.
pub(super) struct Meter {
    memory: Memory,
    /// Our cgroup and those above it that have a limit.
    cgroups: Vec<PathBuf>,
    machine: Option<u64>,
}

impl Meter {
    pub(super) fn new(memory: Memory) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let cgroups = match memory {
            Memory::Detected => limited(&cgroups(Path::new(CGROUPS), &own)),
            Memory::Limit(_) | Memory::Told(_) => Vec::new(),
        };
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemTotal:"));
        Self { memory, cgroups, machine: machine.map(|kibibytes| kibibytes.saturating_mul(1024)) }
    }

    /// What is used, per mille of what may be; 0 where nothing tells.
    pub(super) fn per_mille(&self) -> u32 {
        match &self.memory {
            Memory::Told(told) => told.load(Relaxed),
            Memory::Limit(limit) => share(resident(), *limit),
            Memory::Detected if self.cgroups.is_empty() => {
                self.machine.map_or(0, |machine| share(resident(), machine))
            }
            Memory::Detected => self.cgroups.iter().filter_map(|group| of_cgroup(group)).max().unwrap_or(0),
        }
    }
}

fn share(used: u64, of: u64) -> u32 {
    u32::try_from(used.saturating_mul(1000) / of.max(1)).unwrap_or(u32::MAX)
}

/// Our own resident memory, bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0u64);
    pages.saturating_mul(page_size() as u64)
}

/// Our cgroup, then those above it, without the root, which has no limits; inside a container our own is the mount.
fn cgroups(mount: &Path, own: &str) -> Vec<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let deepest = mount.join(path);
    deepest.ancestors().take_while(|group| group.starts_with(mount)).map(Path::to_owned).collect()
}

fn limited(groups: &[PathBuf]) -> Vec<PathBuf> {
    groups.iter().filter(|group| limit(group).is_some()).cloned().collect()
}

/// The nearer of both limits: past `memory.high` the kernel throttles, past `memory.max` it kills.
fn limit(group: &Path) -> Option<u64> {
    let read = |name| number(&group.join(name));
    [read("memory.high"), read("memory.max")].into_iter().flatten().min()
}

fn of_cgroup(group: &Path) -> Option<u32> {
    let current = number(&group.join("memory.current"))?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    // Pages of files that nobody has used lately: the kernel drops them before it kills.
    let droppable = field(&stat, "inactive_file").unwrap_or(0);
    Some(share(current.saturating_sub(droppable), limit(group)?))
}

/// A file with one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind a name at a line's start.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).expect("a folder");
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("written");
        }
    }

    #[test]
    fn the_tightest_cgroup_decides() {
        let dir = tempfile::tempdir().expect("a folder");
        let (outer, inner) = (dir.path().join("pod"), dir.path().join("pod/proxy"));
        group(&outer, &[("memory.max", "1000\n"), ("memory.high", "max\n"), ("memory.current", "950\n")]);
        group(&inner, &[("memory.max", "500\n"), ("memory.high", "400\n"), ("memory.current", "350\n")]);
        fs::write(inner.join("memory.stat"), "anon 100\ninactive_file 150\n").expect("written");
        let groups = limited(&cgroups(dir.path(), "1:name=x:/\n0::/pod/proxy\n"));
        assert_eq!(groups, [inner.clone(), outer]);
        assert_eq!(of_cgroup(&inner), Some(500));
        let meter = Meter { memory: Memory::Detected, cgroups: groups, machine: None };
        assert_eq!(meter.per_mille(), 950);
    }

    #[test]
    fn where_nothing_limits_nothing_is_short() {
        let dir = tempfile::tempdir().expect("a folder");
        group(dir.path(), &[("memory.max", "max\n"), ("memory.current", "950\n")]);
        assert!(limited(&cgroups(dir.path(), "0::/\n")).is_empty());
        let meter = Meter { memory: Memory::Detected, cgroups: vec![], machine: None };
        assert_eq!(meter.per_mille(), 0);
    }

    #[test]
    fn our_own_memory_is_measured_against_a_limit() {
        let used = Meter::new(Memory::Limit(resident())).per_mille();
        assert!((500..2000).contains(&used), "{used}");
        assert!(Meter::new(Memory::Limit(1)).per_mille() > 1000);
        assert!(Meter::new(Memory::Limit(u64::MAX / 2000)).per_mille() < 10);
    }
}

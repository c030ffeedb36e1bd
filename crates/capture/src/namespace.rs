//! Entering namespaces: a user namespace for this process, others for a forked child.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::threads;

/// Enters a new user namespace, in which this process has every capability. No thread may have been started.
///
/// # Errors
/// The kernel, the distribution or the container forbids it.
pub(crate) fn enter_user_namespace() -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix marks unshare so, for what it does to threads")]
    // SAFETY: a user namespace shares no descriptors or memory anew; the kernel refuses it where there are threads.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?)
}

/// The maps of ids that a namespace gets: everyone's where this process may map everyone, else only its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    uids: String,
    gids: String,
    /// Whether they name the caller alone, for which no capability is needed.
    own_only: bool,
}

impl Maps {
    /// Decides on the maps, before the namespace is entered.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub(crate) fn here() -> io::Result<Self> {
        let capable = rustix::thread::capabilities(None)?
            .effective
            .contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
        if capable {
            let identity = |path| Ok::<_, io::Error>(identity(&fs::read_to_string(path)?));
            let (uids, gids) = (identity("/proc/self/uid_map")?, identity("/proc/self/gid_map")?);
            return Ok(Self { uids, gids, own_only: false });
        }
        Ok(Self::own())
    }

    fn own() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let one = |id: u32| format!("{id} {id} 1\n");
        Self { uids: one(uid.as_raw()), gids: one(gid.as_raw()), own_only: true }
    }

    /// Groups that may send pings: all of them. Source: icmp(7), `ping_group_range`.
    pub(crate) fn groups(map: &str) -> Option<(u32, u32)> {
        let mut words = map.split_ascii_whitespace().map(str::parse::<u32>);
        let (first, _, count) = (words.next()?.ok()?, words.next()?, words.next()?.ok()?);
        let last = first.saturating_add(count.saturating_sub(1)).min(u32::MAX >> 1);
        (first <= last).then_some((first, last))
    }

    fn write(&self, process: &str) -> io::Result<()> {
        if self.own_only {
            // Else a process could drop a group that it is denied something for. Source: user_namespaces(7).
            fs::write(format!("/proc/{process}/setgroups"), "deny")?;
        }
        fs::write(format!("/proc/{process}/uid_map"), &self.uids)?;
        fs::write(format!("/proc/{process}/gid_map"), &self.gids)
    }
}

/// Every id of a map as itself.
fn identity(map: &str) -> String {
    let lines = map.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    lines.collect()
}

/// Enters a user namespace and maps ids into it. `step` hears of either step's outcome.
///
/// # Errors
/// A step's; the steps after it are not tried.
pub(crate) fn enter(mut step: impl FnMut(Entering, io::Result<()>) -> io::Result<()>) -> io::Result<()> {
    let maps = Maps::here()?;
    // Those that read the control plane's store may have ended a moment ago. Of others the kernel tells.
    threads::count()?;
    if maps.own_only {
        step(Entering::Namespace, enter_user_namespace())?;
        return step(Entering::Ids, maps.write("self"));
    }
    // Only a process that still has its capabilities outside may map more than one id.
    let (ours, mut theirs) = UnixStream::pair()?;
    let parent = rustix::process::getpid().as_raw_nonzero().to_string();
    let Some(child) = fork(0)? else {
        drop(ours);
        let mut entered = [0];
        let wrote = theirs.read_exact(&mut entered).and_then(|()| maps.write(&parent));
        std::process::exit(i32::from(wrote.is_err()))
    };
    drop(theirs);
    let entered = enter_user_namespace();
    if entered.is_ok() {
        (&ours).write_all(&[1])?;
    }
    drop(ours);
    let status = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    step(Entering::Namespace, entered)?;
    let wrote = status.is_some_and(|(_, status)| status.exit_status() == Some(0));
    step(Entering::Ids, if wrote { Ok(()) } else { Maps::own().write("self") })
}

/// The steps of entering a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entering {
    /// The namespace itself.
    Namespace,
    /// Its maps of ids.
    Ids,
}

/// A child's other namespaces.
pub(crate) const CHILD_NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWNS;

/// Forks this process, the child into new namespaces as `flags` say; `None` in the child, which must end by
/// [`std::process::exit`]. No thread may have been started: in the child there would be only this one.
///
/// # Errors
/// The kernel forbids it, or there are too many processes or namespaces.
#[expect(unsafe_code, reason = "no crate has a fork into namespaces without a stack of its own")]
pub(crate) fn fork(flags: i32) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of everything. The process has no other threads,
    // so that no lock is held for ever in the child, and the C library keeps nothing by process that matters here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_that_is_mapped_here_is_mapped_as_itself() {
        let check = |map: &str, expected: &str| assert_eq!(identity(map), expected);
        check("         0          0 4294967295\n", "0 0 4294967295\n");
        check("0 100000 65536\n70000 1000 1\n", "0 0 65536\n70000 70000 1\n");
        check("", "");
        check("nonsense\n", "");
    }

    #[test]
    fn every_group_may_ping_as_far_as_the_kernel_takes_it() {
        let check = |map: &str, expected| assert_eq!(Maps::groups(map), expected, "{map}");
        check("65534 65534 1", Some((65534, 65534)));
        check("0 0 4294967295", Some((0, 2_147_483_647)));
        check("", None);
        check("a b c", None);
    }
}

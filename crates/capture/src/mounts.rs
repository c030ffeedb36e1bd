//! What the program sees of the file system, and the host does not: how names are looked up, and `/proc`.
//!
//! All of it is gone with the mount namespace. Nothing is written outside of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::resolver;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";
/// Where the files lie for a moment, before they are mounted over others: a folder that every system has, and that is
/// mounted anew afterwards.
const BENCH: &str = "/proc";
/// Sockets of those who would answer for names from the host's point of view.
const SOCKETS: [&str; 5] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/avahi-daemon/socket",
];

/// Mounts what the program looks names up by, for a workload of this mesh namespace.
///
/// # Errors
/// The system forbids mounts.
pub(crate) fn names(namespace: &str) -> io::Result<()> {
    // What the host mounts later shows here, too; nothing that is mounted here shows there.
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation)?;
    let resolv_conf = resolver::resolv_conf(&read(RESOLV_CONF), namespace);
    let nsswitch_conf = resolver::nsswitch_conf(&read(NSSWITCH_CONF));
    // Before the folder is covered: links may lead through it.
    let targets: Vec<(PathBuf, &str)> = [(RESOLV_CONF, "resolv.conf"), (NSSWITCH_CONF, "nsswitch.conf")]
        .into_iter()
        .chain(SOCKETS.map(|socket| (socket, "nothing")))
        .filter_map(|(target, source)| Some((fs::canonicalize(target).ok()?, source)))
        .collect();
    rustix::mount::mount(
        "tmpfs",
        BENCH,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"size=64k,mode=0755",
    )?;
    let mounted = cover(&targets, &resolv_conf, &nsswitch_conf);
    rustix::mount::unmount(BENCH, UnmountFlags::DETACH)?;
    mounted
}

fn cover(targets: &[(PathBuf, &str)], resolv_conf: &str, nsswitch_conf: &str) -> io::Result<()> {
    let bench = Path::new(BENCH);
    for (name, text) in [("resolv.conf", resolv_conf), ("nsswitch.conf", nsswitch_conf), ("nothing", "")] {
        fs::write(bench.join(name), text)?;
    }
    for (target, source) in targets {
        rustix::mount::mount_bind(bench.join(source), target)?;
    }
    Ok(())
}

/// A file that is not there says nothing.
fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Mounts nothing over folders and files: their owner runs the program, too, and modes would not keep it out. Whoever
/// stands in such a folder stands in the empty one then.
///
/// # Errors
/// One is not there, or the system forbids mounts.
pub(crate) fn hide(paths: &[PathBuf]) -> io::Result<()> {
    let named = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"))
    };
    // All of them are found before the first covers others.
    let found: Vec<PathBuf> =
        paths.iter().map(|path| fs::canonicalize(path).map_err(named(path))).collect::<io::Result<_>>()?;
    let here = std::env::current_dir();
    for path in &found {
        // What an earlier one covers is not there any more.
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
                rustix::mount::mount("tmpfs", path, "tmpfs", flags, c"size=4k,mode=0")?;
            }
            Ok(_) => rustix::mount::mount_bind("/dev/null", path)?,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            Err(error) => return Err(named(path)(error)),
        }
    }
    let covered = |folder: &PathBuf| found.iter().any(|path| folder.starts_with(path));
    match here.ok().filter(covered) {
        Some(folder) => {
            Err(io::Error::other(format!("{} is one of them: run it from another folder", folder.display())))
        }
        None => Ok(()),
    }
}

/// Mounts a `/proc` that shows this process namespace alone.
///
/// # Errors
/// The system forbids it: containers hide parts of theirs.
pub(crate) fn proc() -> io::Result<()> {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // One that is read-only stays so: the kernel refuses any other.
    if rustix::fs::statvfs("/proc")?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        flags |= MountFlags::RDONLY;
    }
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?)
}

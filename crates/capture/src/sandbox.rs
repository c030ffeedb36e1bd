//! The sandbox of a process that reads strangers' bytes: what somebody who took it over could still do.
//!
//! [`enter`] is called once, before there is a second thread, and holds for good, for every thread and every program that
//! is started from then on. Three walls, of which the kernel may lack one or another:
//!
//! - `no_new_privs`: no set-user-ID program and no capability of a file gives anything;
//! - Landlock: the file system is only read, but for the folders that the process [needs](Needs); nothing is executed;
//! - seccomp: system calls that no proxy makes fail, and the kernel logs them; so do sockets of other kinds than its own.
//!
//! Reading stays allowed: certificates and secrets are where config says. TCP is what a proxy does. Source:
//! landlock(7), seccomp(2), `PR_SET_NO_NEW_PRIVS` of prctl(2).

mod files;
mod system_calls;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::threads;

/// What a process still has to do once it is within.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Folders below which it makes, writes and removes files and sockets; they are there.
    pub folders: Vec<PathBuf>,
    /// Files that it appends to, and makes anew where they were moved: so it may make others beside them.
    pub appended: Vec<PathBuf>,
    /// What it starts programs for, where it does.
    pub programs: Option<&'static str>,
    /// Whether it opens Unix sockets, to serve by them or to ask others.
    pub unix_sockets: bool,
    /// What it looks at other processes for (their executables, by `/proc`), where it does: nobody may within Landlock.
    pub other_processes: Option<&'static str>,
}

/// A wall, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wall {
    /// `no_new_privs`, `landlock`, `seccomp`
    pub name: &'static str,
    /// How it stands.
    pub standing: Standing,
}

/// How a wall stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It stands: what it keeps off.
    Up(String),
    /// Not whole, since the process needs what it would keep off: what stands, and what does not.
    Gap(String),
    /// It does not stand: what the kernel lacks.
    Missing(String),
}

/// All walls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walls(pub Vec<Wall>);

/// Raises the walls that the kernel has, around this process and all that it starts.
///
/// # Errors
/// There are other threads already, or a folder that it needs is not there. What the kernel lacks is no error.
pub fn enter(needs: &Needs) -> io::Result<Walls> {
    alone()?;
    let no_new_privs = rustix::thread::set_no_new_privs(true);
    let no_new_privs = match no_new_privs {
        Ok(()) => Standing::Up("no new privileges".to_owned()),
        Err(error) => Standing::Missing(format!("no_new_privs: {error}")),
    };
    let landlock = files::close(needs)?;
    // Last: what is within makes no more rules.
    let seccomp = system_calls::refuse(needs);
    let wall = |name, standing| Wall { name, standing };
    Ok(Walls(vec![wall("no_new_privs", no_new_privs), wall("landlock", landlock), wall("seccomp", seccomp)]))
}

/// A thread that is there already would stay outside.
fn alone() -> io::Result<()> {
    match threads::count()? {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("{threads} threads run before the sandbox is closed"))),
    }
}

/// Whether this process is root of the machine, and not only of a user namespace of its own.
pub fn is_root() -> bool {
    let everybody = |map: String| {
        map.split_ascii_whitespace().map(str::parse::<u32>).collect::<Result<Vec<_>, _>>()
            == Ok(vec![0, 0, u32::MAX])
    };
    rustix::process::geteuid().is_root() && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(everybody)
}

impl Walls {
    /// What the kernel lacks.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|wall| match &wall.standing {
            Standing::Missing(why) => Some(why.as_str()),
            Standing::Up(_) | Standing::Gap(_) => None,
        })
    }
}

impl fmt::Display for Walls {
    /// One line for people; `none` where nothing stands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |wall: &Wall| match &wall.standing {
            Standing::Up(what) | Standing::Gap(what) => Some(what.clone()),
            Standing::Missing(_) => None,
        };
        let standing: Vec<String> = self.0.iter().filter_map(text).collect();
        let missing: Vec<&str> = self.missing().collect();
        match (&*standing, &*missing) {
            ([], []) => f.write_str("none"),
            ([], missing) => write!(f, "none; {}", missing.join("; ")),
            (standing, []) => f.write_str(&standing.join(", ")),
            (standing, missing) => write!(f, "{}; {}", standing.join(", "), missing.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walls_are_told_in_one_line() {
        let wall = |name, standing| Wall { name, standing };
        let up = |text: &str| Standing::Up(text.to_owned());
        let check = |walls: Vec<Wall>, expected: &str, missing: usize| {
            let walls = Walls(walls);
            assert_eq!((walls.to_string().as_str(), walls.missing().count()), (expected, missing));
        };
        check(vec![], "none", 0);
        check(vec![wall("a", up("one")), wall("b", Standing::Gap("two".to_owned()))], "one, two", 0);
        check(
            vec![wall("a", up("one")), wall("b", Standing::Missing("no two".to_owned()))],
            "one; no two",
            1,
        );
        check(vec![wall("b", Standing::Missing("no two".to_owned()))], "none; no two", 1);
    }

    #[test]
    fn a_thread_that_is_there_already_is_an_error() {
        // The test's own runner is one.
        let error = enter(&Needs::default()).expect_err("threads").to_string();
        assert!(error.contains("threads"), "{error}");
    }
}

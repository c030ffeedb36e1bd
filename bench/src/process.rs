//! Processes: pinned, measured, ended when dropped.

use std::iter::Sum;
use std::ops::{Add, Sub};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, Signal};

/// Where the proxies run.
pub(crate) const PROXY_CORE: usize = 0;
/// Where load and origin run.
pub(crate) const LOAD_CORE: usize = 1;

/// A running process and its children.
pub(crate) struct Process {
    child: Child,
}

/// CPU time.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

/// Puts this process, and what it starts, on the load's core, with as many descriptors as the system allows.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(LOAD_CORE);
    rustix::thread::sched_setaffinity(None, &cores).context("a benchmark needs two cores")?;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).context("cannot raise the limit of descriptors")
}

impl Process {
    /// Starts a program on one core; its output goes to a file.
    pub(crate) fn start(core: usize, program: &Path, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(log)?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }

    /// CPU time of the process and its children so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut sum = Cpu::default();
        for id in self.family()? {
            let cpu = cpu(id)?;
            sum = sum + cpu;
        }
        Ok(sum)
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process, its children, their children and so on.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let mut all = vec![self.id()];
        let mut at = 0;
        while let Some(id) = all.get(at).copied() {
            all.extend(children(id).unwrap_or_default());
            at += 1;
        }
        all
    }

    /// Resident memory, KiB: of the largest process of the family, which is the one that works.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<f64> {
        let all: anyhow::Result<Vec<f64>> = self.family()?.into_iter().map(memory_kib).collect();
        Ok(all?.into_iter().fold(0.0, f64::max))
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        signal(self.child.id(), Signal::TERM);
        self.child.wait()?;
        Ok(())
    }

    /// The process and its direct children (nginx works in one).
    fn family(&self) -> anyhow::Result<Vec<u32>> {
        let id = self.child.id();
        Ok(std::iter::once(id).chain(children(id)?).collect())
    }
}

fn children(id: u32) -> std::io::Result<Vec<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    Ok(text.split_whitespace().filter_map(|child| child.parse().ok()).collect())
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        for id in self.family().unwrap_or_default().into_iter().rev() {
            signal(id, Signal::KILL);
        }
        // Nobody is left to tell.
        let _ = self.child.wait();
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl Cpu {
    /// User and system time, seconds.
    pub(crate) fn seconds(self) -> f64 {
        (self.user + self.system).as_secs_f64()
    }
}

fn signal(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // A process that has ended already is as dead as asked.
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// CPU time of a process so far. Source: proc(5), `/proc/pid/stat`, fields 14 and 15, in clock ticks.
pub(crate) fn cpu(id: u32) -> anyhow::Result<Cpu> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let rest = text.rsplit_once(')').context("no name in stat")?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || -> anyhow::Result<Duration> {
        let ticks: u64 = fields.next().context("stat is short")?.parse()?;
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    };
    Ok(Cpu { user: next()?, system: next()? })
}

/// Resident memory of a process.
pub(crate) fn memory_kib(id: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

//! Processes: pinned, measured, ended when dropped.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

/// A running process and its children.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program on one core; its output goes to a file.
    pub(crate) fn start(core: u32, program: &Path, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
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

    /// User and system time of the process and its children so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.family()?.iter().map(|id| cpu(*id)).sum()
    }

    /// Resident memory of the process and its children, MiB.
    pub(crate) fn memory_mib(&self) -> anyhow::Result<f64> {
        self.family()?.iter().map(|id| memory_mib(*id)).sum()
    }

    /// The process and its direct children (nginx and HAProxy work in children).
    fn family(&self) -> anyhow::Result<Vec<u32>> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        Ok(std::iter::once(id).chain(children.split_whitespace().filter_map(|c| c.parse().ok())).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for id in self.family().unwrap_or_default().into_iter().rev() {
            // A process that has ended already is as dead as asked.
            if let Some(id) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// Source: proc(5), `/proc/pid/stat`, fields 14 and 15, in clock ticks.
fn cpu(id: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let rest = text.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

fn memory_mib(id: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

//! Commands that are run beside the program, to learn whether it is well.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::Program;
use crate::outcome::Outcome;
use crate::signals::Before;
use crate::wire::Probe;

/// Most that run at once: a readiness and a liveness probe, with one each that would not die at once.
const MOST: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Probes(BTreeMap<i32, Running>);

#[derive(Debug)]
struct Running {
    id: u64,
    deadline: Instant,
    late: bool,
}

impl Probes {
    /// Starts a command in a process group of its own.
    ///
    /// # Errors
    /// It cannot be started, in words.
    pub(super) fn start(
        &mut self,
        probe: &Probe,
        beside: &Program,
        before: Before,
        now: Instant,
    ) -> Result<(), String> {
        let [program, arguments @ ..] = probe.command.as_slice() else {
            return Err("the probe has no command".to_owned());
        };
        if self.0.len() >= MOST {
            return Err(format!("{MOST} probes run already"));
        }
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0);
        beside.dress(&mut command, before);
        let child = command.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
        let deadline = now.checked_add(Duration::from_millis(probe.timeout_ms)).unwrap_or(now);
        self.0.insert(child.id().cast_signed(), Running { id: probe.id, deadline, late: false });
        Ok(())
    }

    /// When the next one is too late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter(|running| !running.late).map(|running| running.deadline).min()
    }

    /// Kills those that are too late, with all that they started.
    pub(super) fn kill_late(&mut self, now: Instant) {
        for (pid, running) in
            self.0.iter_mut().filter(|(_, running)| !running.late && running.deadline <= now)
        {
            running.late = true;
            if let Some(pid) = Pid::from_raw(*pid) {
                // It may just have ended.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
    }

    /// Whose end that was, and why it counts as failed; `None` where it was no probe's.
    pub(super) fn ended(&mut self, pid: Pid, outcome: Outcome) -> Option<(u64, Option<String>)> {
        let running = self.0.remove(&pid.as_raw_nonzero().get())?;
        let failure = match outcome {
            _ if running.late => Some("it took too long".to_owned()),
            Outcome::Code(0) => None,
            Outcome::Code(code) => Some(format!("it ended with code {code}")),
            Outcome::Signal(signal) => Some(format!("it ended by signal {signal}")),
        };
        Some((running.id, failure))
    }
}

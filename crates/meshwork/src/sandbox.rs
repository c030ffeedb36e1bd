//! How a process that meets strangers closes itself in before it does: as far as the kernel can, in the order in which
//! it has to be done.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use meshwork_capture::sandbox::{self, Needs};
use meshwork_telemetry::Sink;
use tracing::{info, warn};

use crate::secrecy;

/// Whether, and what else it may do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Sandbox {
    /// Whether the process closes itself in before it serves (read-only files but its own, no programs, fewer system calls)
    #[arg(long, value_enum, env = "MESHWORK_SANDBOX", value_name = "WHEN", default_value = "auto")]
    sandbox: When,

    /// A folder that the process may write to, beside its own, such as that of a log which config names; may be repeated
    #[arg(long = "writable", value_name = "DIR")]
    writable: Vec<PathBuf>,
}

/// When a process closes itself in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// As far as the kernel can
    Auto,
    /// It does, or does not start
    On,
    /// It does not
    Off,
}

impl Sandbox {
    /// Closes this process in, for good. It has no other thread yet, and the folders that it needs are there. Says what
    /// stands, for whoever asks the proxy.
    ///
    /// # Errors
    /// The sandbox is demanded, and the kernel lacks something.
    pub(crate) fn enter(&self, needs: Needs) -> anyhow::Result<Arc<str>> {
        secrecy::keep();
        // Who tells other users' processes apart has to be root.
        if sandbox::is_root() && needs.other_processes.is_none() {
            warn!("this runs as root, and nothing of it takes that: run it as a user of its own");
        }
        let told = if self.sandbox == When::Off { Arc::from("off") } else { self.close(needs)? };
        info!(sandbox = %told, "closed in");
        // Its thread is within as well.
        meshwork_demo::lifeline::watch();
        Ok(told)
    }

    fn close(&self, mut needs: Needs) -> anyhow::Result<Arc<str>> {
        needs.folders.extend(self.writable.iter().cloned());
        let walls = match sandbox::enter(&needs) {
            Ok(walls) => walls,
            Err(error) if self.sandbox == When::Auto => {
                warn!(%error, "no sandbox");
                return Ok(format!("none: {error}").into());
            }
            Err(error) => return Err(error).context("cannot close the sandbox"),
        };
        let missing: Vec<&str> = walls.missing().collect();
        if self.sandbox == When::On && !missing.is_empty() {
            bail!("the sandbox is not whole, and --sandbox on demands it: {}", missing.join("; "));
        }
        Ok(walls.to_string().into())
    }

    /// The arguments that say the same to another process.
    pub(crate) fn arguments(&self) -> Vec<(&'static str, PathBuf)> {
        let when = match self.sandbox {
            When::Auto => "auto",
            When::On => "on",
            When::Off => "off",
        };
        let folders = self.writable.iter().map(|folder| ("--writable", folder.clone()));
        [("--sandbox", PathBuf::from(when))].into_iter().chain(folders).collect()
    }
}

/// The file that a log is appended to.
pub(crate) fn appended(sink: &Sink) -> Vec<PathBuf> {
    match sink {
        Sink::File(path) => vec![path.clone()],
        Sink::Off | Sink::Stdout | Sink::Stderr => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Wrapped {
        #[command(flatten)]
        sandbox: Sandbox,
    }

    #[test]
    fn another_process_is_told_the_same() {
        let line = ["x", "--sandbox", "on", "--writable", "/a", "--writable", "/b"];
        let parsed = Wrapped::try_parse_from(line).expect("valid").sandbox;
        let arguments: Vec<String> = parsed
            .arguments()
            .into_iter()
            .map(|(name, value)| format!("{name} {}", value.display()))
            .collect();
        assert_eq!(arguments, ["--sandbox on", "--writable /a", "--writable /b"]);
        assert!(Wrapped::try_parse_from(["x", "--sandbox", "maybe"]).is_err());
    }
}

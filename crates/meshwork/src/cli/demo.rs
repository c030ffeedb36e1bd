//! `meshwork demo`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{check, runtime};

/// The shortest run that carries traffic on every edge.
const MIN_RUN: Duration = Duration::from_secs(1);

/// Run a mesh with a sample shop on this machine, under load
///
/// Starts a control plane, the shop's services, a sidecar for each and a load generator, as processes of this
/// binary on free loopback ports; shows live what flows between them. Ctrl-C ends all of it.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// How long traffic flows, such as 20s or 5m; until Ctrl-C where it is left out
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    run_for: Option<Duration>,

    /// Write a report of the run as JSON to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Keep config, state and logs in this folder; a temporary one where it is left out
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Requests per second that the load generator sends
    #[arg(long, default_value_t = meshwork_demo::DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,

    /// Whether each program has a network of its own, as `meshwork run` gives it one, or is told its sidecar's ports
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,

    /// What standard output is for: a live table, or the report as JSON
    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,
}

/// What standard output is for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Shown {
    /// A live table.
    Text,
    /// The report.
    Json,
}

/// How traffic reaches the sidecars.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    /// Namespaces where this system allows them.
    Auto,
    /// A network namespace for each program.
    Namespace,
    /// Loopback ports.
    Explicit,
}

impl Mode {
    /// What it comes to on this system, and why it is not namespaces, where they were wanted. No thread may have been
    /// started.
    fn choose(self) -> anyhow::Result<(meshwork_demo::Mode, Option<String>)> {
        use meshwork_demo::Mode::{Explicit, Namespace};
        if matches!(self, Self::Explicit) {
            return Ok((Explicit, None));
        }
        match (self, check::why_not()) {
            (_, None) => Ok((Namespace, None)),
            (Self::Namespace, Some(why)) => bail!("{why}; `meshwork check` says what to do"),
            (_, Some(why)) => Ok((Explicit, Some(format!("{why} (`meshwork check` says what to do)")))),
        }
    }
}

impl Demo {
    pub(crate) fn run(self, started: Instant) -> anyhow::Result<()> {
        if self.run_for.is_some_and(|time| time < MIN_RUN) {
            bail!("a run of less than {} s shows nothing; --for 20s is a good start", MIN_RUN.as_secs());
        }
        if let Some(folder) =
            self.report.as_deref().and_then(Path::parent).filter(|f| !f.as_os_str().is_empty())
        {
            ensure!(folder.is_dir(), "the report cannot be written: there is no folder {}", folder.display());
        }
        let (mode, why_explicit) = self.mode.choose()?;
        let options = meshwork_demo::Options {
            started,
            run_for: self.run_for,
            report: self.report,
            directory: self.dir,
            rate: self.rate,
            mode,
            why_explicit,
            output: match self.output {
                Shown::Text => meshwork_demo::Output::Text,
                Shown::Json => meshwork_demo::Output::Json,
            },
        };
        runtime::on_this_thread(async {
            match meshwork_demo::run(options).await? {
                meshwork_demo::Verdict::Passed => Ok(()),
                meshwork_demo::Verdict::Failed(why) => anyhow::bail!(why),
            }
        })
    }
}

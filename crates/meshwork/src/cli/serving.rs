//! The arguments of everything that runs a data plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use meshwork_capture::sandbox::Needs;
use meshwork_data_plane::{self as data_plane, NodeLabels};
use meshwork_identity::files::create_private_dir;
use meshwork_telemetry::{AccessLog, Registry, Sink};

use crate::sandbox::{self, Sandbox};

/// How a data plane runs, whatever its config.
#[derive(clap::Args)]
pub(crate) struct Serving {
    /// Where readiness, config and metrics are served; as the config says, or nowhere, where it is left out
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,

    /// Where the access log goes, one JSON line a request: a file, `-` for standard output, or `off`
    #[arg(long, value_name = "FILE", default_value = "off", value_parser = sink)]
    access_log: Sink,

    /// Worker threads; the number of cores, two at most, where it is left out
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Resident memory near which requests are shed (90 %) and connections refused (95 %), such as 128MiB; the cgroup's
    /// limit, or the machine's memory, where it is left out
    #[arg(long, value_name = "BYTES", value_parser = super::bytes)]
    memory_limit: Option<u64>,

    /// How long what has begun may go on after the process is asked to end; a second signal ends it at once
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "10s")]
    drain_time: Duration,

    #[command(flatten)]
    sandbox: Sandbox,
}

impl Serving {
    /// Closes the process in, as far as the kernel can, and says how far: it writes to `folders` and to its log, and
    /// starts no programs but for `programs`.
    ///
    /// # Errors
    /// The sandbox is demanded and not to be had, or a folder cannot be made.
    pub(crate) fn close_in(
        &self,
        folders: Vec<PathBuf>,
        programs: Option<&'static str>,
        logs: impl IntoIterator<Item = PathBuf>,
    ) -> anyhow::Result<Arc<str>> {
        for folder in &folders {
            create_private_dir(folder)?;
        }
        let appended = sandbox::appended(&self.access_log).into_iter().chain(logs).collect();
        self.sandbox.enter(Needs { folders, appended, programs, ..Needs::default() })
    }

    /// Starts a data plane's options; `admin` is used where no argument names another address.
    ///
    /// # Errors
    /// The access log cannot be opened.
    pub(crate) fn options(
        &self,
        node: NodeLabels,
        admin: Option<SocketAddr>,
        registry: &Arc<Registry>,
    ) -> anyhow::Result<data_plane::Options> {
        Ok(data_plane::Options {
            workers: self.workers.unwrap_or_else(data_plane::default_workers),
            node,
            admin: self.admin.or(admin),
            access_log: AccessLog::open(&self.access_log, registry).context("cannot open the access log")?,
            memory: self.memory_limit.map_or(data_plane::Memory::Detected, data_plane::Memory::Limit),
            about: data_plane::About::default(),
            set_log: super::runtime::set_log(),
            workload_sockets: None,
        })
    }

    /// How long what has begun may go on.
    pub(crate) fn drain_time(&self) -> Duration {
        self.drain_time
    }
}

fn sink(text: &str) -> Result<Sink, String> {
    Ok(match text {
        "" => return Err("expected a file, `-` for standard output, or `off`".to_owned()),
        "off" => Sink::Off,
        "-" => Sink::Stdout,
        file => Sink::File(file.into()),
    })
}

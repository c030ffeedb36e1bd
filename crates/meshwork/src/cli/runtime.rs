//! Runtimes and the log.

use std::future::Future;
use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context;
use meshwork_data_plane::SetLog;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is left out unless a filter names it: the HTTP/2 library warns of frames that any peer can send without end.
const QUIET: &str = "h2=error";

/// Sends log lines to standard error, as far as the filter lets them.
///
/// # Errors
/// The filter is none.
pub(crate) fn log(filter: &str) -> anyhow::Result<()> {
    let filter = parse(filter).with_context(|| {
        format!("--log {filter:?} is no filter; write a level, such as debug, or MODULE=LEVEL,…")
    })?;
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    let lines = lines.with_writer(std::io::stderr).with_filter_reloading();
    let handle = lines.reload_handle();
    let set = move |text: &str| {
        let filter = parse(text).map_err(|error| format!("{text:?} is no filter: {error}"))?;
        handle.reload(filter).map_err(|error| error.to_string())
    };
    // Set once: the log begins once.
    let _ = SET_LOG.set(SetLog::by(set));
    lines.init();
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    // An empty one means something of its own: errors alone.
    if filter.is_empty() {
        EnvFilter::try_new(filter)
    } else {
        EnvFilter::try_new(format!("{QUIET},{filter}"))
    }
}

static SET_LOG: OnceLock<SetLog> = OnceLock::new();

/// What changes the filter while the process runs.
pub(crate) fn set_log() -> Option<SetLog> {
    SET_LOG.get().cloned()
}

/// Runs a future on this thread. Sidecars and small roles need no more: their traffic has threads of its own.
///
/// # Errors
/// The future's, or the kernel refuses the runtime's descriptors.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(future)
}

/// Runs a future on a runtime with a thread per core, with as many descriptors as the process may have: each proxy of a
/// mesh has some connections.
///
/// # Errors
/// As [`on_this_thread`].
pub(crate) fn on_all_cores<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where that is refused, connections are shed earlier.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(future)
}

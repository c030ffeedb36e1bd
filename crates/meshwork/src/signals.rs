//! When to stop: a first signal asks to end, a second one insists.

use std::time::Duration;

use anyhow::bail;
use meshwork_data_plane::Proxy;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Hears SIGINT and SIGTERM from when it is made: none is lost in between.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Begins to listen; from now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The kernel refuses the handler.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Completes when the process is asked to end, once more each time.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost but the wait.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Drains a proxy.
    ///
    /// # Errors
    /// A further signal came: what is left ends at once, with the proxy.
    pub(crate) async fn drain(&mut self, proxy: &Proxy, deadline: Duration) -> anyhow::Result<()> {
        info!(
            seconds = deadline.as_secs(),
            "draining: what has begun may end; a second signal ends it at once"
        );
        tokio::select! {
            () = proxy.drain(deadline) => Ok(()),
            () = self.asked() => bail!("asked to end a second time; what had begun was broken off"),
        }
    }
}

/// Completes when the process is asked to end, by SIGINT or SIGTERM.
///
/// # Errors
/// The kernel refuses the handler.
///
/// # Cancel safety
/// Safe: nothing is lost but the wait.
pub(crate) async fn stop() -> std::io::Result<()> {
    Stop::listen()?.asked().await;
    Ok(())
}

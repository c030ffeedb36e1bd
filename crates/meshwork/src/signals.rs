//! When to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when the process is asked to end, by SIGINT or SIGTERM.
///
/// # Errors
/// The kernel refuses the handler.
///
/// # Cancel safety
/// Safe: nothing is lost but the wait.
pub(crate) async fn stop() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

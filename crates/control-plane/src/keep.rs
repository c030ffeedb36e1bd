//! The tasks that follow the world: publishing it, keeping its leases on disk, and ending those that are over.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::Workload;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use crate::store::Store;
use crate::world::World;

/// After a failed write, the pause before the next: a full disk is not emptied in less.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Gives every change of the mesh to the proxies: endpoints at once, and everything else when no more comes.
pub(crate) async fn publish(world: &World) {
    let mut changes = world.changes();
    changes.mark_changed();
    loop {
        let due = world.next_publish();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return } else { world.publish_endpoints() },
            () = at(due) => {
                // Streams come and go in between, and have their turn.
                while world.publish_some() {
                    tokio::task::yield_now().await;
                    world.publish_endpoints();
                }
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Ends leases when their time is over.
pub(crate) async fn expire(world: &World) {
    let mut changes = world.changes();
    loop {
        changes.mark_unchanged();
        let next = world.next_expiry();
        tokio::select! {
            () = at(next) => world.expire(Instant::now()),
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Keeps on disk which workloads are there. What is written before a crash is what the next start begins with.
pub(crate) async fn leases(world: &World, store: &Arc<Store>, kept: Vec<Workload>) {
    let mut changes = world.changes();
    changes.mark_changed();
    // Of those that were there before, some are enrolled no more.
    world.note_moved(kept.into_iter().map(|workload| workload.key));
    while changes.changed().await.is_ok() {
        let (gone, new) = world.take_moved();
        if gone.is_empty() && new.is_empty() {
            continue;
        }
        let (store, ended, taken) = (Arc::clone(store), gone.clone(), new.clone());
        let written = tokio::task::spawn_blocking(move || store.move_leases(&ended, &taken)).await;
        if let Ok(Err(error)) = written {
            warn!(%error, "leases are not kept");
            sleep(WRITE_AGAIN).await;
            world.note_moved(gone.into_iter().chain(new.iter().map(|workload| workload.key.clone())));
            changes.mark_changed();
        }
    }
}

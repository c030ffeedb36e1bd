//! The tasks that follow the world: publishing it, keeping its leases on disk, and ending those that are over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{Key, Workload};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use crate::store::{Store, StoreError};
use crate::world::World;

/// After a failed write, the pause before the next: a full disk is not emptied in less.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Gives every change of the mesh to the proxies; changes that come while it publishes are one.
pub(crate) async fn publish(world: &World) {
    let mut changes = world.changes();
    while changes.changed().await.is_ok() {
        world.publish();
    }
}

/// Ends leases when their time is over.
pub(crate) async fn expire(world: &World) {
    let mut changes = world.changes();
    loop {
        changes.mark_unchanged();
        let next = world.next_expiry();
        let over = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => world.expire(Instant::now()),
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Keeps on disk which workloads are there. What is written before a crash is what the next start begins with.
pub(crate) async fn leases(world: &World, store: &Arc<Store>, kept: Vec<Workload>) {
    let mut kept: BTreeMap<Key, Workload> = kept.into_iter().map(|w| (w.key.clone(), w)).collect();
    let mut changes = world.changes();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        let now = world.mesh();
        let gone: Vec<Key> = kept.keys().filter(|key| !now.workloads.contains_key(*key)).cloned().collect();
        let new: Vec<Workload> = now
            .workloads
            .values()
            .filter(|workload| kept.get(&workload.key) != Some(workload))
            .map(|workload| (**workload).clone())
            .collect();
        if gone.is_empty() && new.is_empty() {
            continue;
        }
        let (store, ended, taken) = (Arc::clone(store), gone.clone(), new.clone());
        let written = tokio::task::spawn_blocking(move || write(&store, &ended, &taken)).await;
        if let Ok(Err(error)) = written {
            warn!(%error, "leases are not kept");
            sleep(WRITE_AGAIN).await;
            changes.mark_changed();
            continue;
        }
        kept.retain(|key, _| !gone.contains(key));
        kept.extend(new.into_iter().map(|workload| (workload.key.clone(), workload)));
    }
}

fn write(store: &Store, ended: &[Key], taken: &[Workload]) -> Result<(), StoreError> {
    ended.iter().try_for_each(|key| store.end_lease(key))?;
    taken.iter().try_for_each(|workload| store.keep_lease(workload))
}

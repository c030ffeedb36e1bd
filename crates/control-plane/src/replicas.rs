//! Other control planes of the same store: their workloads, whom they enrol, and whether they are there.
//!
//! Each tells from time to time that it is there, by a key of its own. One that was silent for long is gone: whoever
//! notices takes its workloads over for some minutes, in which their proxies may come back. Who cannot read its own words in the
//! store judges nobody: it is the one that is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::Key;
use tokio::time::{Instant, interval, sleep};
use tracing::{info, warn};

use crate::addresses;
use crate::run::give_addresses;
use crate::store::kv::{Keys, Kv, Operation, Revision, Transaction};
use crate::store::{KvError, Shared, Store};
use crate::world::World;

/// Where control planes tell that they are there, by name.
const REPLICAS: &str = "/meshwork/replicas/";
/// How often.
const BEAT: Duration = Duration::from_secs(5);
/// How long one may be silent: an election of etcd and some lost beats are within it.
const SILENCE: Duration = Duration::from_secs(20);
/// After the store failed, the pause before it is followed again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// Follows and is followed, for as long as it is polled. Where nobody shares the store, there is nothing to do.
pub(crate) async fn follow(kv: Arc<dyn Kv>, store: Arc<Store>, world: Arc<World>) {
    if !kv.is_shared() {
        return std::future::pending().await;
    }
    tokio::join!(leases_and_enrolments(&kv, &store, &world), beat(&kv, &store), judge(&kv, &store, &world));
}

/// Takes in what others write of workloads.
async fn leases_and_enrolments(kv: &Arc<dyn Kv>, store: &Arc<Store>, world: &Arc<World>) {
    loop {
        let read = {
            let (store, world) = (Arc::clone(store), Arc::clone(world));
            tokio::task::spawn_blocking(move || take_all(&store, &world)).await
        };
        match read {
            Ok(Ok(revision)) => {
                let error = take_changes(kv, store, world, revision + 1).await;
                warn!(%error, "other control planes cannot be followed; what was read last stays");
            }
            Ok(Err(error)) => warn!(%error, "other control planes cannot be followed"),
            Err(error) => warn!(%error, "other control planes cannot be followed"),
        }
        sleep(FOLLOW_AGAIN).await;
    }
}

/// Reads all, and tells the world what is there no more; gives the revision of which it is.
fn take_all(store: &Store, world: &World) -> Result<Revision, KvError> {
    let (shared, revision) = store.shared()?;
    let leased: BTreeSet<Key> = shared.iter().filter_map(Shared::leased).collect();
    for key in world.mesh().workloads.keys().filter(|key| !leased.contains(*key)) {
        world.unleased(key);
    }
    for one in shared {
        take(one, store, world);
    }
    Ok(revision)
}

async fn take_changes(kv: &Arc<dyn Kv>, store: &Arc<Store>, world: &Arc<World>, from: Revision) -> KvError {
    let mut watch = kv.watch(crate::store::SHARED, from);
    loop {
        let changes = match watch.next().await {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        let (store, world) = (Arc::clone(store), Arc::clone(world));
        let took = tokio::task::spawn_blocking(move || {
            for one in changes.iter().filter_map(Shared::of) {
                take(one, &store, &world);
            }
        });
        if let Err(error) = took.await {
            return KvError::Unavailable(error.to_string());
        }
    }
}

fn take(one: Shared, store: &Store, world: &World) {
    match one {
        Shared::Enrolled(enrolment) => {
            give_addresses(world, store, &addresses::of_enrolment(&enrolment));
            world.enrolled(enrolment);
        }
        Shared::Leased(lease) => {
            let is_own = store.is_own(&lease);
            world.leased(*lease, is_own, Instant::now());
        }
        Shared::Unleased(key) => world.unleased(&key),
    }
}

/// The names of the control planes that are there, or were a moment ago.
///
/// # Errors
/// The store fails.
pub(crate) fn names(kv: &dyn Kv) -> Result<BTreeSet<String>, KvError> {
    let found = kv.read(Keys::Under(REPLICAS), None)?;
    Ok(found.entries.iter().filter_map(|entry| entry.key.strip_prefix(REPLICAS).map(str::to_owned)).collect())
}

/// Tells that this one is there.
async fn beat(kv: &Arc<dyn Kv>, store: &Arc<Store>) {
    let key = format!("{REPLICAS}{}", store.replica());
    let mut times = interval(BEAT);
    for beat in 0_u64.. {
        times.tick().await;
        let (kv, put) = (Arc::clone(kv), Operation::Put { key: key.clone(), value: beat.to_string() });
        let write = move || kv.commit(&Transaction { operations: vec![put], ..Transaction::default() });
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            warn!(%error, "other control planes are not told that this one is there");
        }
    }
}

/// Finds out who is gone.
async fn judge(kv: &Arc<dyn Kv>, store: &Arc<Store>, world: &Arc<World>) {
    let mut heard: BTreeMap<String, (Revision, Instant)> = BTreeMap::new();
    let mut times = interval(BEAT);
    loop {
        times.tick().await;
        let reader = Arc::clone(kv);
        let read = tokio::task::spawn_blocking(move || reader.read(Keys::Under(REPLICAS), None)).await;
        let Ok(Ok(found)) = read else { continue };
        let now = Instant::now();
        let told: BTreeMap<&str, Revision> =
            found.entries.iter().filter_map(|e| Some((e.key.strip_prefix(REPLICAS)?, e.modified))).collect();
        heard.retain(|name, _| told.contains_key(&**name));
        for (name, modified) in told {
            let last = heard.entry(name.to_owned()).or_insert((modified, now));
            if last.0 != modified {
                *last = (modified, now);
            }
        }
        let is_silent = |(_, at): &(Revision, Instant)| now.duration_since(*at) > SILENCE;
        if heard.get(store.replica()).is_none_or(is_silent) {
            continue;
        }
        let silent: Vec<String> =
            heard.iter().filter(|(_, last)| is_silent(last)).map(|(name, _)| name.clone()).collect();
        for name in silent {
            info!(replica = %name, "another control plane is gone; its workloads are waited for here");
            world.replica_gone(&name, now);
            forget(kv, &name, heard.remove(&name)).await;
        }
    }
}

/// Takes a control plane's key out, unless it has told anything since.
async fn forget(kv: &Arc<dyn Kv>, name: &str, last: Option<(Revision, Instant)>) {
    let Some((modified, _)) = last else { return };
    let (kv, key) = (Arc::clone(kv), format!("{REPLICAS}{name}"));
    let transaction =
        Transaction { expected: vec![(key.clone(), modified)], operations: vec![Operation::Delete { key }] };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kv.commit(&transaction)).await {
        warn!(%error, "a control plane that is gone is not forgotten");
    }
}

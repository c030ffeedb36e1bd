//! Workloads whose streams other control planes of the same store have.
//!
//! The store says who has which lease. What it says of workloads that have a stream here is told by ourselves, or old.
//! A lease of ours without a stream here, from before a restart, lasts until its proxy had the time to reconnect; those of
//! a control plane that is silent last longer: it may be cut off, and its workloads well.

use std::sync::Arc;

use meshwork_model::mesh::{Key, Workload};
use tokio::time::Instant;
use tracing::info;

use super::{State, World};
use crate::store::Lease;

impl World {
    /// The store has a lease: ours, or another control plane's.
    pub(crate) fn leased(&self, lease: Lease, is_own: bool, now: Instant) {
        let mut state = self.lock();
        let enrolled = state.enrolments.get(&lease.workload.key);
        let enrolled = enrolled.and_then(|e| e.identity(&state.mesh.trust_domain));
        if enrolled.as_ref() != Some(&lease.workload.identity) {
            return;
        }
        let key = lease.workload.key.clone();
        if is_own {
            state.elsewhere.remove(&key);
            if state.leases.is_held(&key) {
                return;
            }
            state.leases.restore(key, now);
        } else {
            state.elsewhere.insert(key.clone(), (lease.replica, Arc::new(lease.workload.clone())));
            if state.leases.has_stream(&key) {
                return;
            }
            state.leases.end(&key);
        }
        state.put_told(lease.workload);
        drop(state);
        self.changed();
    }

    /// The store has a workload's lease no more.
    pub(crate) fn unleased(&self, key: &Key) {
        let mut state = self.lock();
        state.elsewhere.remove(key);
        if state.leases.has_stream(key) {
            // It was taken for gone elsewhere: it is told of again.
            state.moved.insert(key.clone());
        } else if !state.leases.is_held(key) && state.mesh.workloads.contains_key(key) {
            info!(workload = %key, "is gone");
            state.take_out(std::slice::from_ref(key));
            state.moved.remove(key);
        }
        drop(state);
        self.changed();
    }

    /// A control plane is silent: its workloads are ours for a while, in which their proxies may come here.
    pub(crate) fn replica_gone(&self, replica: &str, now: Instant) {
        let mut state = self.lock();
        let theirs = state.elsewhere.iter().filter(|(_, (holder, _))| holder == replica);
        let theirs: Vec<Key> = theirs.map(|(key, _)| key.clone()).collect();
        for key in theirs {
            state.elsewhere.remove(&key);
            state.leases.adopt(key.clone(), now);
            state.moved.insert(key);
        }
        drop(state);
        self.changed();
    }
}

impl State {
    /// Puts in a workload as the store tells of it.
    fn put_told(&mut self, workload: Workload) {
        let (key, is_to_be_told) = (workload.key.clone(), self.moved.contains(&workload.key));
        self.put(workload);
        if !is_to_be_told {
            self.moved.remove(&key);
        }
    }

    /// Goes back to what other control planes say of workloads that have no stream here any more; gives the others.
    pub(super) fn hand_back(&mut self, keys: Vec<Key>) -> Vec<Key> {
        let mut gone = Vec::new();
        for key in keys {
            match self.elsewhere.get(&key).map(|(_, workload)| (**workload).clone()) {
                Some(workload) => self.put_told(workload),
                None => gone.push(key),
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{REPLICA_GRACE, RESTART_GRACE};
    use crate::store::Enrolment;
    use meshwork_model::mesh::{Config, Labels};
    use meshwork_model::proxy::Locality;
    use meshwork_model::spiffe::SpiffeId;

    fn lease(replica: &str) -> Lease {
        let workload = Workload {
            key: Key::new("shop", "cart-1"),
            identity: SpiffeId::workload("mesh.local", "shop", "cart").expect("valid"),
            labels: Labels::default(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            capture: None,
            gateway: None,
            unready: None,
            locality: Locality::default(),
        };
        Lease { workload, replica: replica.to_owned() }
    }

    fn world() -> World {
        let enrolment = Enrolment {
            workload: Key::new("shop", "cart-1"),
            service_account: "cart".to_owned(),
            labels: Labels::default(),
        };
        World::new("mesh.local", Config::default(), vec![enrolment])
    }

    fn is_there(world: &World) -> bool {
        world.mesh().workloads.contains_key(&Key::new("shop", "cart-1"))
    }

    #[test]
    fn what_another_control_plane_holds_is_there_as_long_as_it_says() {
        let (world, now) = (world(), Instant::now());
        world.leased(lease("b"), false, now);
        assert!(is_there(&world));
        // It is theirs: nothing is written of it here, and no time ends it.
        assert_eq!((world.take_moved(), world.next_expiry()), ((vec![], vec![]), None));
        world.unleased(&Key::new("shop", "cart-1"));
        assert!(!is_there(&world));
        assert_eq!(world.take_moved(), (vec![], vec![]));
    }

    #[test]
    fn workloads_of_one_that_is_gone_are_waited_for_and_ours() {
        let (world, now) = (world(), Instant::now());
        world.leased(lease("b"), false, now);
        world.replica_gone("c", now);
        assert_eq!(world.next_expiry(), None);
        world.replica_gone("b", now);
        assert!(is_there(&world));
        assert_eq!(world.take_moved().1.len(), 1);
        world.leased(lease("here"), true, now);
        assert_eq!(world.next_expiry(), Some(now + REPLICA_GRACE));
        world.expire(now + REPLICA_GRACE);
        assert!(!is_there(&world));
        assert_eq!(world.take_moved().0.len(), 1);
    }

    #[test]
    fn who_takes_a_lease_over_ends_the_wait_for_it_here() {
        let (world, now) = (world(), Instant::now());
        world.leased(lease("here"), true, now);
        assert_eq!(world.next_expiry(), Some(now + RESTART_GRACE));
        world.leased(lease("b"), false, now);
        assert_eq!(world.next_expiry(), None);
        world.expire(now + RESTART_GRACE);
        assert!(is_there(&world));
        // Whom nobody enrolled is not there, whoever says so.
        let mut other = lease("b");
        other.workload.key = Key::new("shop", "evil");
        world.leased(other, false, now);
        assert_eq!(world.mesh().workloads.len(), 1);
    }
}

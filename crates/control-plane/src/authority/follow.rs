//! Takes in what is not done here: what other control planes and commands write to the store, and to the authority's
//! files; and looks after what wears out, by the wall clock of now.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{interval, sleep};
use tracing::{error, warn};

use super::record::{self, CA, Intermediate, Read};
use super::{Authority, seconds};
use crate::replicas;
use crate::store::KvError;
use crate::store::kv::Revision;

/// How often files and certificates are looked at: another control plane may have changed the one, and a clock that
/// jumped ended the other.
const LOOK: Duration = Duration::from_secs(5);
/// Every which time is looked for control planes that are gone.
const LOOKS_PER_ROUND: u32 = 12;
/// After the store failed, the pause before it is followed again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

impl Authority {
    /// Takes in what is written to the store, for as long as it is polled.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            match self.read_again().await {
                Ok(revision) => {
                    let error = self.follow_from(revision + 1).await;
                    warn!(%error, "the watch of the authority begins anew");
                }
                Err(error) => {
                    warn!(%error, "the authority's records cannot be read; what was read last stays");
                }
            }
            sleep(FOLLOW_AGAIN).await;
        }
    }

    async fn follow_from(self: &Arc<Self>, from: Revision) -> KvError {
        let mut watch = self.kv.watch(CA, from);
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
            if let Err(error) = self.read_again().await {
                return error;
            }
        }
    }

    async fn read_again(self: &Arc<Self>) -> Result<Revision, KvError> {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || this.take_in());
        read.await.map_err(|error| KvError::Unavailable(error.to_string()))?
    }

    /// Reads the store, and acts on what differs. Blocks.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn take_in(&self) -> Result<Revision, KvError> {
        let read = Read::all(&*self.kv)?;
        let revision = read.revision;
        let (is_stepped, is_revoked) = {
            let mut state = self.lock();
            if revision < state.read.revision {
                return Ok(state.read.revision);
            }
            let differs = (state.read.rotation != read.rotation, state.read.revoked != read.revoked);
            state.read = read;
            differs
        };
        if is_stepped {
            self.look();
        } else if is_revoked {
            self.note_trouble(self.publish().err().map(|error| error.to_string()));
        }
        self.news.notify_one();
        Ok(revision)
    }

    /// Looks after files and certificates, for as long as it is polled.
    pub(super) async fn keep_current(self: Arc<Self>) {
        let mut times = interval(LOOK);
        for round in 0_u32.. {
            times.tick().await;
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                this.look();
                if this.kv.is_shared() {
                    this.tell_intermediate(round % LOOKS_PER_ROUND == 0)
                } else {
                    Ok(())
                }
            });
            if let Ok(Err(error)) = looked.await {
                warn!(%error, "other control planes are not told what this one signs with");
            }
        }
    }

    /// Reads the authority's files again, and tells of what differs. Blocks.
    pub(super) fn look(&self) {
        let refreshed = self.signing.refresh();
        let published = self.publish();
        self.note_trouble(refreshed.map(drop).and(published).err().map(|error| error.to_string()));
    }

    /// Keeps why something with the files could not be done; tells it once.
    fn note_trouble(&self, trouble: Option<String>) {
        let mut state = self.lock();
        if state.trouble != trouble {
            if let Some(trouble) = &trouble {
                error!(%trouble, "the certificate authority's files; what was read last is used");
            }
            state.trouble = trouble;
        }
    }

    /// What this control plane signs with.
    pub(super) fn intermediate(&self) -> Intermediate {
        let issuer = self.signing.issuer();
        Intermediate {
            serial: issuer.serial,
            ends: seconds(issuer.not_after),
            root: issuer.root,
            plugged: issuer.plugged,
        }
    }

    fn tell_intermediate(&self, is_round: bool) -> Result<(), KvError> {
        let own = self.intermediate();
        let told = self.lock().read.intermediates.clone();
        if told.get(&self.replica) != Some(&own) {
            record::put_intermediate(&*self.kv, &self.replica, &own)?;
        }
        if is_round {
            // One that is there after all tells of itself again.
            let there = replicas::names(&*self.kv)?;
            let is_gone = |name: &&String| **name != self.replica && !there.contains(*name);
            let gone: Vec<String> = told.keys().filter(is_gone).cloned().collect();
            record::forget_intermediates(&*self.kv, &gone)?;
        }
        Ok(())
    }

    /// Tells agents when what is registered with them may have changed, for as long as it is polled.
    pub(super) async fn follow_config(self: Arc<Self>) {
        let mut changes = self.world.changes();
        let mut last = self.world.mesh().config.registrations.clone();
        while changes.changed().await.is_ok() {
            let registrations = self.world.mesh().config.registrations.clone();
            if !registrations.is_same(&last) {
                self.lock().peers.tell_agents();
            }
            last = registrations;
        }
    }
}

//! Does the steps of a rotation, in the background, as [`super::rotation`] says.
//!
//! Of control planes that share a store one drives: it says so in the store, again and again, and another takes over
//! where it falls silent. All of them tell how far their peers are, so that whoever drives, and whoever is asked,
//! knows it of everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::IdentityError;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::facts::{Known, Story, facts};
use super::held::Holding;
use super::record::{self, Driver, Kept, Summary};
use super::rotation::{Action, End, Facts, Next, Presence, Replica, Rotation, Said, Step};
use super::{Authority, State, now, short};
use crate::replicas;
use crate::store::KvError;
use crate::world::Enrolled;

/// How often it is looked where nothing tells of anything.
const LOOK: Duration = Duration::from_secs(1);
/// The least time between two looks; where one took long, as in a large mesh, so many times as long as that.
const PAUSE: Duration = Duration::from_millis(200);
const REST: u32 = 10;
/// The pause before a step is tried again that could not be done.
const AGAIN: Duration = Duration::from_secs(2);
/// How often control planes say that they are there while a rotation runs, and the least time between two that say more.
const BEAT: Duration = Duration::from_secs(2);
const TELL: Duration = Duration::from_secs(1);
/// How long one may be silent, be it the one that drives: some beats are within it.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a proof is to hold before it is acted upon: Envoy and gRPC read, some seconds later, what the process beside them has
/// acknowledged already.
const SETTLE: Duration = Duration::from_secs(5);
/// How long one is to hold that everybody has a certificate under the root that stays, before the other is taken away: in
/// that time our own proxies retire connections that were proven under it. It takes two times 5 s and something
/// (`RETIRED_WITHIN` of the data plane: one round may just have begun).
const RETIRE: Duration = Duration::from_secs(15);
/// How old a decision may be when it is acted upon: well within the time after which another one drives.
const STALE: Duration = Duration::from_secs(3);

/// What a control plane keeps in mind while a rotation runs.
#[derive(Debug, Default)]
struct Driving {
    /// The beats of others, and when each changed last.
    heard: BTreeMap<String, (u64, Instant)>,
    beat: u64,
    /// What was told last, and when.
    told: Option<(Summary, Instant)>,
    /// When it was said last that this one drives.
    drove: Option<Instant>,
    names: Vec<String>,
    /// The step whose proof is complete, and since when.
    proven: Option<(Step, Instant)>,
    /// What was logged last of a step that could not be done.
    trouble: Option<String>,
}

/// How long a proof is to hold before the step that it allows.
fn hold(step: Step) -> Duration {
    match step {
        Step::Switched | Step::SwitchedBack => RETIRE,
        Step::Starting | Step::Added | Step::Removed | Step::Aborted | Step::Lost => SETTLE,
    }
}

/// Why a step is not done.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Store(#[from] KvError),
    #[error(transparent)]
    Authority(#[from] IdentityError),
}

impl Authority {
    /// Does the steps of rotations, for as long as it is polled.
    pub(super) async fn drive(self: Arc<Self>) {
        let mut driving = Driving::default();
        loop {
            // That nobody has told of anything is no reason not to look.
            let _ = timeout(LOOK, self.news.notified()).await;
            if self.running().is_none() {
                driving = Driving::default();
                continue;
            }
            let (this, began) = (Arc::clone(&self), Instant::now());
            let stepped = tokio::task::spawn_blocking(move || {
                let done = this.step(&mut driving);
                (driving, done)
            });
            match stepped.await {
                Ok((kept, done)) => {
                    driving = kept;
                    let trouble = done.err().map(|error| error.to_string());
                    if let Some(error) = trouble.as_ref().filter(|_| driving.trouble != trouble) {
                        warn!(error, "the rotation does not go on yet");
                    }
                    driving.trouble = trouble;
                }
                Err(error) => {
                    warn!(%error, "the rotation does not go on yet");
                    driving = Driving::default();
                }
            }
            let least = if driving.trouble.is_some() { AGAIN } else { PAUSE };
            sleep(least.max(began.elapsed() * REST).min(SILENCE / 2)).await;
        }
    }

    /// The rotation that runs.
    pub(super) fn running(&self) -> Option<Kept<Rotation>> {
        self.lock().read.running().cloned()
    }

    fn step(&self, driving: &mut Driving) -> Result<(), StepError> {
        let began = Instant::now();
        let Some(kept) = self.running() else { return Ok(()) };
        let own = self.story();
        if self.kv.is_shared() {
            driving.names = replicas::names(&*self.kv)?.into_iter().collect();
            driving.listen(&self.lock().read.replicas, began);
            self.say(driving, &own, kept.value.number)?;
            if !self.drives(driving)? {
                return Ok(());
            }
        }
        let facts = self.facts(own, kept.value.number, &driving.names, |name| driving.is_silent(name));
        let roots = self.roots();
        let Next::Do(action) = kept.value.next(&roots, &facts) else {
            driving.proven = None;
            return Ok(());
        };
        let is_settled = driving.is_settled(kept.value.step(&roots), began);
        let must_settle = kept.value.proof(&roots).is_some() && facts.has_connected();
        if must_settle && !is_settled || began.elapsed() > STALE {
            return Ok(());
        }
        if driving.trouble.is_none() {
            info!(rotation = kept.value.number, ?action, "a step of the rotation");
        }
        let done = self.act(&kept, action);
        if let Err(StepError::Authority(error)) = &done {
            self.note_step_trouble(&kept, &error.to_string())?;
        }
        self.take_in()?;
        done
    }

    fn act(&self, kept: &Kept<Rotation>, action: Action) -> Result<(), StepError> {
        let rotation = kept.value.clone();
        match action {
            Action::Note(to) => return self.put(kept, Rotation { to: Some(to), ..rotation }),
            Action::NoteSwitch => return self.put(kept, Rotation { is_switched: true, ..rotation }),
            Action::End(end) => return self.end(kept, Rotation { end: Some(end), ..rotation }),
            Action::Add => drop(self.signing.add_root()?),
            Action::Switch(to) => self.signing.switch(&to)?,
            Action::SwitchBack(to) => self.signing.switch_back(&to)?,
            Action::Remove(root) => self.signing.remove_previous(&root)?,
            Action::Withdraw(root) => {
                self.signing.withdraw_next(&root)?;
                if self.roots().next.contains(&root) {
                    // It came with a file of the user's, who decides; nothing is signed under it.
                    return self.end(kept, Rotation { end: Some(End::Aborted), ..rotation });
                }
            }
        }
        self.signing.refresh()?;
        self.publish()?;
        // Others read the files again when they see this.
        self.put(kept, rotation)
    }

    /// Writes the record, if it is as it was read. Where it is not, the next look is at what it is now.
    fn put(&self, kept: &Kept<Rotation>, rotation: Rotation) -> Result<(), StepError> {
        let rotation = Rotation { changed_at: now(), trouble: None, ..rotation };
        record::put_rotation(&*self.kv, Some(kept), &rotation)?;
        Ok(())
    }

    fn end(&self, kept: &Kept<Rotation>, rotation: Rotation) -> Result<(), StepError> {
        let root = match rotation.end {
            Some(End::Removed) => rotation.to.as_deref(),
            _ => Some(&*rotation.from),
        };
        info!(number = rotation.number, end = ?rotation.end, root = root.map(short), "the rotation has ended");
        self.put(kept, rotation)?;
        let read = record::Read::all(&*self.kv)?;
        record::clear(&*self.kv, &read, now())?;
        Ok(())
    }

    fn note_step_trouble(&self, kept: &Kept<Rotation>, trouble: &str) -> Result<(), KvError> {
        if kept.value.trouble.as_deref() != Some(trouble) {
            let rotation = Rotation { trouble: Some(trouble.to_owned()), ..kept.value.clone() };
            record::put_rotation(&*self.kv, Some(kept), &rotation)?;
        }
        Ok(())
    }

    /// Tells others how far the peers of this one are.
    fn say(&self, driving: &mut Driving, own: &Story, number: u64) -> Result<(), KvError> {
        let said = own.replica.said.clone().unwrap_or_default();
        let summary = Summary { started: self.started, ..Summary::new(number, &said, &own.known) };
        let is_due = driving.told.as_ref().is_none_or(|(told, at)| {
            let is_new = Summary { beat: 0, ..told.clone() } != summary;
            at.elapsed() >= if is_new { TELL } else { BEAT }
        });
        if is_due {
            driving.beat += 1;
            let summary = Summary { beat: driving.beat, ..summary };
            record::put_summary(&*self.kv, &self.replica, &summary)?;
            driving.told = Some((summary, Instant::now()));
        }
        Ok(())
    }

    /// Whether this one drives; where nobody does, it says so from now on.
    fn drives(&self, driving: &mut Driving) -> Result<bool, KvError> {
        let told = self.lock().read.driver.clone();
        let now = Instant::now();
        let is_own = told.as_ref().is_some_and(|kept| kept.value.replica == self.replica);
        if let Some(kept) = told.as_ref().filter(|_| !is_own) {
            let name = format!("driver {}", kept.value.replica);
            driving.hear(name.clone(), kept.value.beat, now);
            let is_gone = !driving.names.contains(&kept.value.replica);
            if !is_gone && !driving.is_silent(&name) {
                return Ok(false);
            }
        }
        if is_own && driving.drove.is_some_and(|at| at.elapsed() < BEAT) {
            return Ok(true);
        }
        // Of one that was driven before a restart, the beats go on.
        let beat = told.as_ref().map_or(0, |kept| kept.value.beat) + 1;
        let driver = Driver { replica: self.replica.clone(), beat };
        let is_ours = record::put_driver(&*self.kv, told.as_ref(), &driver)?;
        driving.drove = is_ours.then_some(now);
        // Until it is read back, nobody knows whether it was in time.
        Ok(false)
    }

    /// What this control plane knows.
    pub(super) fn story(&self) -> Story {
        let enrolled = self.world.enrolled_workloads();
        let trust = Arc::clone(&self.published.borrow().trust);
        let mut trusts: BTreeSet<String> = trust.own().fingerprints().into_iter().collect();
        if !self.is_known_to_others() {
            // Federated meshes are to know a root before it signs.
            let next = self.roots().next;
            trusts.retain(|root| !next.contains(root));
        }
        let said = Said { trusts, issuer: self.signing.issuer().root };
        let mut state = self.lock();
        state.held.forget(now());
        let state = &*state;
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        for one in &enrolled {
            let known = known(state, one);
            let is_theirs = one.is_elsewhere && matches!(known.presence, Presence::Offline { .. });
            if is_theirs { elsewhere.push(known) } else { here.push(known) }
        }
        let delegated = state.held.delegated().filter(|(_, id, _)| !trust.revoked().revokes(id, ""));
        here.extend(delegated.map(|(agent, id, holding)| Known {
            name: format!("{agent} for {id}"),
            presence: Presence::Delegated,
            trusts: BTreeSet::new(),
            holding: Some(holding),
        }));
        let replica = Replica { name: self.replica.clone(), said: Some(said) };
        Story { replica, started: self.started, known: here, elsewhere }
    }

    /// What all control planes know; `is_silent` says of one by name whether it has said nothing for long.
    pub(super) fn facts(
        &self,
        own: Story,
        number: u64,
        names: &[String],
        is_silent: impl Fn(&str) -> bool,
    ) -> Facts {
        let told = self.lock().read.replicas.clone();
        let mut stories = vec![own];
        for name in names.iter().filter(|name| **name != self.replica) {
            let summary = told.get(name).filter(|told| told.rotation == number && !is_silent(name));
            let replica = Replica { name: name.clone(), said: summary.map(Summary::said) };
            let (started, known) =
                summary.map_or((0, Vec::new()), |summary| (summary.started, summary.known().collect()));
            stories.push(Story { replica, started, known, elsewhere: Vec::new() });
        }
        Facts { tokens: self.tokens(), ..facts(stories, self.lifetime, now()) }
    }
}

/// What is known of somebody who is enrolled.
fn known(state: &State, one: &Enrolled) -> Known {
    let follower = state.peers.of(&one.workload).filter(|peer| peer.identity == one.identity);
    let held = state.held.of(&one.workload);
    let name = one.workload.to_string();
    if let Some(peer) = follower {
        // What its stream shows is what it holds, whatever was signed for it since.
        let earlier = held.unwrap_or(Holding { root: None, ends: 0, shown: 0, issued: 0 });
        let holding = Some(Holding { root: peer.root.clone(), ..earlier });
        let presence = Presence::Follows { refusal: peer.refusal.clone() };
        return Known { name, presence, trusts: peer.trusts.clone(), holding };
    }
    let gone = state.peers.gone(&one.workload);
    let trusts = gone.map(|gone| gone.trusts.clone()).unwrap_or_default();
    let presence = match one.connected {
        Some(_) => Presence::Unfollowing,
        None => Presence::Offline { since: gone.map(|gone| gone.at) },
    };
    let stray = state.held.stray(&one.identity);
    let stray = (stray > 0).then_some(Holding { root: None, ends: stray, shown: 0, issued: 0 });
    Known { name, presence, trusts, holding: held.or(stray) }
}

impl Driving {
    fn listen(&mut self, told: &BTreeMap<String, Summary>, now: Instant) {
        for (name, summary) in told {
            self.hear(name.clone(), summary.beat, now);
        }
        let names = &self.names;
        self.heard.retain(|name, _| names.contains(name) || name.starts_with("driver "));
    }

    fn hear(&mut self, name: String, beat: u64, now: Instant) {
        let last = self.heard.entry(name).or_insert((beat, now));
        if last.0 != beat {
            *last = (beat, now);
        }
    }

    /// Whether a step's proof has been complete for some time.
    fn is_settled(&mut self, step: Step, now: Instant) -> bool {
        let (proven, since) = *self.proven.get_or_insert((step, now));
        if proven != step {
            self.proven = Some((step, now));
            return false;
        }
        now.duration_since(since) >= hold(step)
    }

    /// Whether somebody who was heard has not been for long.
    fn is_silent(&self, name: &str) -> bool {
        self.heard.get(name).is_none_or(|(_, at)| at.elapsed() > SILENCE)
    }
}

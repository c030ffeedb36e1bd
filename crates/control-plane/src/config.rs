//! The one writer of config, and its history.
//!
//! Config has two sources: the files of a folder, and the resources of the store, which the API writes. A file owns its
//! resources: the API refuses to change them. Whatever changes, the whole of both is read anew, and applied only where
//! nothing in it is an error: first to the store, with a revision and a record of who changed what, then to the world.
//! What the API acknowledged is on disk.
//!
//! Where several control planes share a store, each follows what the others write. All calls may block.

mod claims;
mod compact;
mod record;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use meshwork_model::mesh::Key;
use meshwork_model::problem::Problem;
use serde_json::Value as Json;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::addresses;
use crate::ingest::{self, Loaded, ResourceId};
use crate::last_good::LastGood;
use crate::run::{give_addresses, tell};
use crate::store::Store;
use crate::store::kv::{Keys, Kv, KvError, Operation, Outcome, Revision, Transaction};
use crate::world::World;
pub(crate) use compact::compact;
pub(crate) use record::{Action, Change, HEAD, Record};
use record::{CONFIG, Head};
use state::{Plan, State, Stored};

/// The register of all config.
#[derive(Debug)]
pub(crate) struct Register {
    kv: Arc<dyn Kv>,
    world: Arc<World>,
    store: Arc<Store>,
    last_good: LastGood,
    /// Held by who writes, through all of it.
    turn: Mutex<()>,
    current: Mutex<Arc<State>>,
    /// The newest revision.
    revisions: watch::Sender<u64>,
}

/// A text of resources, as somebody named it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: Arc<str>,
}

/// What is to change.
#[derive(Clone, Debug)]
pub(crate) enum Edits {
    /// These resources are to be so.
    Apply(Vec<Source>),
    /// These are to be gone.
    Delete(Vec<ResourceId>),
    /// All are to be as they were at a revision.
    Rollback(u64),
}

/// Who may write which resources.
pub(crate) trait Rights: Send + Sync {
    /// Whether they may write this one.
    fn may_write(&self, id: &ResourceId) -> bool;

    /// Whether they may write all that is in a namespace, and so have the word for it; `None` is every one.
    fn may_speak_for(&self, namespace: Option<&str>) -> bool;
}

/// A change that somebody asks for.
pub(crate) struct Proposal {
    pub(crate) edits: Edits,
    pub(crate) by: String,
    pub(crate) note: String,
    pub(crate) rights: Arc<dyn Rights>,
    /// Only to tell what would come of it.
    pub(crate) dry_run: bool,
}

/// What came of it, or would.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The revision since; the one before where nothing changes.
    pub(crate) revision: u64,
    pub(crate) changes: Vec<Change>,
    /// Warnings of what was written.
    pub(crate) problems: Vec<Problem>,
    /// Whose proxies run something else by it.
    pub(crate) proxies: Vec<Key>,
}

/// Why nothing was changed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It has errors.
    Invalid(Vec<Problem>),
    /// Files own some of it.
    Owned(Vec<Problem>),
    /// It was made for another state than there is.
    Raced(String),
    Forbidden(String),
    NotFound(String),
    /// What it needs of history is forgotten.
    Forgotten(String),
    /// There is no room for it.
    TooMuch(String),
    Failed(KvError),
}

/// Why there is no config to begin with.
#[derive(Debug)]
pub(crate) enum OpenError {
    Config(Vec<Problem>),
    Failed(KvError),
}

/// A resource as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) id: ResourceId,
    pub(crate) json: Json,
}

/// How often a change is tried anew that another control plane came before.
const MAX_TRIES: u32 = 12;
/// The longest pause before the first of these; each may be twice as long as the one before it, up to the longest of all.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// After the store failed, the pause before it is followed again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// What a register is made of.
pub(crate) struct Parts {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) world: Arc<World>,
    pub(crate) store: Arc<Store>,
    pub(crate) last_good: LastGood,
}

/// The files of the folder, and what is wrong with those that cannot be read.
#[derive(Default)]
struct Folder {
    files: BTreeMap<String, Arc<str>>,
    problems: Vec<Problem>,
}

impl Register {
    /// Reads the store and the folder, and gives the world the config of both. Where the folder is broken, its last good
    /// files stand in for it.
    ///
    /// # Errors
    /// The store fails, or there are errors and no good files of before.
    pub(crate) fn open(parts: Parts, folder: Option<&Path>) -> Result<Self, OpenError> {
        let stored = load(&*parts.kv).map_err(OpenError::Failed)?;
        let (has_folder, folder) = (folder.is_some(), folder.map(Folder::read).unwrap_or_default());
        let state = stored.with_files(folder.files.clone());
        let loaded = with(state.library.loaded(), folder.problems);
        let (state, loaded, refused) = if loaded.is_accepted() {
            (state, loaded, None)
        } else {
            let earlier = parts.last_good.read().map(|files| stored.with_files(files));
            let earlier = earlier.map(|state| (state.library.loaded(), state));
            let earlier = earlier.filter(|(loaded, _)| loaded.is_accepted());
            let Some((good, state)) = earlier else { return Err(OpenError::Config(loaded.problems)) };
            tell(&loaded.problems);
            warn!("the config folder has errors; begins with its last files that were good");
            (state, good, Some(loaded.problems))
        };
        let Parts { kv, world, store, last_good } = parts;
        let revisions = watch::Sender::new(state.head.revision);
        let current = Mutex::new(Arc::new(State::default()));
        let register = Self { kv, world, store, last_good, turn: Mutex::new(()), current, revisions };
        if has_folder {
            register.keep_files(&state);
        }
        register.put_in_place(state, loaded);
        if let Some(problems) = refused {
            register.world.refuse(problems);
        }
        Ok(register)
    }

    /// Changes config as is asked, or tells why not.
    ///
    /// # Errors
    /// Nothing is changed then; but where the store does not answer, it may be.
    pub(crate) fn propose(&self, proposal: &Proposal) -> Result<Answer, Refusal> {
        let _turn = self.turn();
        if self.kv.is_shared() {
            // What somebody saw at another control plane is not to be unknown here.
            self.catch_up().map_err(Refusal::Failed)?;
        }
        for tries in 1..=MAX_TRIES {
            let state = self.state();
            let undone = match proposal.edits {
                Edits::Rollback(revision) => self.undone(&state, revision)?,
                _ => BTreeMap::new(),
            };
            let plan = state.plan(proposal, undone)?;
            let (revision, at) = (state.head.revision + 1, now());
            let checked = state.check(&plan, revision, &at)?;
            claims::check(&plan.changes, &checked.loaded.config, &*proposal.rights)
                .map_err(|why| Refusal::Forbidden(format!("{} {why}", proposal.by)))?;
            if matches!(proposal.edits, Edits::Delete(_)) {
                state.check_left(&checked)?;
            }
            let proxies = self.world.concerned(&checked.loaded.config);
            let answer = |revision, plan: Plan, problems| {
                Ok(Answer { revision, changes: plan.changes, problems, proxies })
            };
            if proposal.dry_run || plan.changes_nothing() {
                return answer(state.head.revision, plan, checked.problems);
            }
            let record = Record {
                revision,
                at,
                by: proposal.by.clone(),
                note: proposal.note.clone(),
                changes: plan.changes.iter().filter(|c| c.before != c.after).cloned().collect(),
            };
            if let Some((head, modified)) = self.write(&state, &record, &checked.next)? {
                let next = State { head, head_modified: modified, ..checked.next };
                info!(revision, by = %record.by, changes = record.changes.len(), "config is written");
                self.put_in_place(next, checked.loaded);
                return answer(revision, plan, checked.problems);
            }
            std::thread::sleep(pause(tries));
            self.catch_up().map_err(Refusal::Failed)?;
        }
        Err(Refusal::Raced("others change config at the same time; try again".to_owned()))
    }

    /// Takes in the folder as it is now, or refuses it as a whole.
    pub(crate) fn read_folder(&self, path: &Path) {
        let _turn = self.turn();
        let folder = Folder::read(path);
        let state = self.state().with_files(folder.files);
        let loaded = with(state.library.loaded(), folder.problems);
        if loaded.is_accepted() {
            self.keep_files(&state);
            self.put_in_place(state, loaded);
        } else {
            tell(&loaded.problems);
            error!("the config folder has errors and is refused; what was applied last stays");
            self.world.refuse(loaded.problems);
        }
    }

    /// Follows what other control planes write to the store, for as long as it is polled.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            // Also behind a compaction or a failure: what is there now is all that counts.
            match self.caught_up().await {
                Ok(revision) => {
                    let error = self.follow_from(revision + 1).await;
                    warn!(%error, "the watch of the store begins anew");
                }
                Err(error) => warn!(%error, "the store cannot be followed; what was read last stays"),
            }
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    }

    async fn follow_from(self: &Arc<Self>, revision: Revision) -> KvError {
        let mut watch = self.kv.watch(HEAD, revision);
        loop {
            let told = watch.next().await;
            if let Err(error) = told {
                return error;
            }
            if let Err(error) = self.caught_up().await {
                return error;
            }
        }
    }

    async fn caught_up(self: &Arc<Self>) -> Result<Revision, KvError> {
        let this = Arc::clone(self);
        let caught_up = tokio::task::spawn_blocking(move || {
            let _turn = this.turn();
            this.catch_up()
        });
        caught_up.await.map_err(|error| KvError::Unavailable(error.to_string()))?
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.state().head.revision
    }

    /// The oldest revision that history has.
    pub(crate) fn oldest(&self) -> u64 {
        self.state().head.oldest()
    }

    /// Wakes on every new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.subscribe()
    }

    /// The resources of a kind, of a namespace or of all, with the revision of which they are.
    pub(crate) fn objects(&self, kind: &str, namespace: Option<&str>) -> (Vec<Object>, u64) {
        let state = self.state();
        let is_meant = |id: &ResourceId| {
            id.kind == kind && namespace.is_none_or(|namespace| &*id.key.namespace == namespace)
        };
        let owned = state.owned.iter().filter(|(id, _)| is_meant(id));
        let stored = state.stored.iter().filter(|(id, _)| is_meant(id));
        let owned = owned.map(|(id, owned)| (id, owned.object()));
        let both: BTreeMap<_, _> = owned.chain(stored.map(|(id, stored)| (id, stored.object()))).collect();
        let objects = both.into_iter().map(|(id, json)| Object { id: id.clone(), json }).collect();
        (objects, state.head.revision)
    }

    /// One resource.
    pub(crate) fn object(&self, id: &ResourceId) -> Option<Json> {
        let state = self.state();
        let stored = state.stored.get(id).map(Stored::object);
        stored.or_else(|| state.owned.get(id).map(|owned| owned.object()))
    }

    /// What is made of the newest records, the newest first. Together they may be large: one is held at a time.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn records<T>(&self, limit: usize, make: impl Fn(Record) -> T) -> Result<Vec<T>, Refusal> {
        let head = &self.state().head;
        let all = (head.oldest()..=head.revision).rev().take(limit);
        // One that is forgotten in this moment ends the list.
        let records = all.map_while(|revision| self.record(revision).transpose());
        records.map(|record| record.map(&make)).collect::<Result<_, _>>().map_err(Refusal::Failed)
    }

    /// A revision's record; `None` where there is none, or none any more.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn record(&self, revision: u64) -> Result<Option<Record>, KvError> {
        let found = self.kv.read(Keys::One(&record::history_key(revision)), None)?;
        let Some(entry) = found.entries.first() else { return Ok(None) };
        let record = serde_json::from_str(&entry.value);
        record.map(Some).map_err(|error| KvError::Unavailable(format!("{} is no record: {error}", entry.key)))
    }

    /// Records from a revision on, up to some number.
    ///
    /// # Errors
    /// The first of them is forgotten, or the store fails.
    pub(crate) fn records_from(&self, revision: u64, limit: u64) -> Result<Vec<Record>, Refusal> {
        let head = &self.state().head;
        if revision < head.oldest() && revision <= head.revision {
            return Err(forgotten(head));
        }
        let last = head.revision.min(revision.saturating_add(limit - 1));
        let one = |revision| self.record(revision).map_err(Refusal::Failed)?.ok_or_else(|| forgotten(head));
        (revision..=last).map(one).collect()
    }

    /// Writes a record, its resources and the new head; `None` where another writer came first.
    fn write(
        &self,
        state: &State,
        record: &Record,
        next: &State,
    ) -> Result<Option<(Head, Revision)>, Refusal> {
        let text = serde_json::to_string(record).unwrap_or_default();
        let (head, mut operations) = state.head.next(text.len());
        for change in &record.changes {
            let id = change.id();
            let key = record::config_key(&id);
            operations.push(match next.stored.get(&id) {
                Some(stored) => Operation::Put { key, value: stored.to_text() },
                None => Operation::Delete { key },
            });
        }
        operations.push(Operation::Put { key: record::history_key(record.revision), value: text });
        let value = serde_json::to_string(&head).unwrap_or_default();
        operations.push(Operation::Put { key: HEAD.to_owned(), value });
        let expected = vec![(HEAD.to_owned(), state.head_modified)];
        match self.kv.commit(&Transaction { expected, operations }).map_err(Refusal::Failed)? {
            Outcome::Committed(modified) => Ok(Some((head, modified))),
            Outcome::Conflict => Ok(None),
        }
    }

    /// Each resource that differs between now and a revision, as it was then.
    fn undone(&self, state: &State, revision: u64) -> Result<BTreeMap<ResourceId, Option<Json>>, Refusal> {
        if revision > state.head.revision {
            return Err(Refusal::NotFound(format!("there is no revision {revision}")));
        }
        let head = &state.head;
        if revision + 1 < head.oldest() {
            return Err(forgotten(head));
        }
        let mut undone = BTreeMap::new();
        for later in (revision + 1..=head.revision).rev() {
            let record = self.record(later).map_err(Refusal::Failed)?.ok_or_else(|| forgotten(head))?;
            undone.extend(record.changes.into_iter().map(|change| (change.id(), change.before)));
        }
        Ok(undone)
    }

    /// Takes in what others wrote to the store, as of the revision that it gives. The caller has the turn.
    fn catch_up(&self) -> Result<Revision, KvError> {
        let state = self.state();
        let (head, modified, at) = read_head(&*self.kv)?;
        if modified == state.head_modified {
            return Ok(at);
        }
        let missed = (head.revision > state.head.revision)
            .then(|| self.records_of(state.head.revision + 1, head.revision))
            .transpose()?;
        let next = match missed.flatten() {
            Some(records) => {
                let step = |next: State, r: &Record| next.with_changes(&r.changes, r.revision, &r.at);
                let next = records.iter().fold((*state).clone(), step);
                State { head, head_modified: modified, ..next }
            }
            None => load(&*self.kv)?.with_files(state.files.clone()),
        };
        let loaded = next.library.loaded();
        info!(revision = next.head.revision, "another control plane has written config");
        if loaded.is_accepted() {
            self.put_in_place(next, loaded);
        } else {
            tell(&loaded.problems);
            error!(
                "the config of the store does not go together with this folder; what was applied last stays"
            );
            self.world.refuse(loaded.problems);
            self.set(next);
        }
        Ok(at)
    }

    /// All of these records, or none where one of them is forgotten.
    fn records_of(&self, first: u64, last: u64) -> Result<Option<Vec<Record>>, KvError> {
        (first..=last).map(|revision| self.record(revision)).collect()
    }

    fn put_in_place(&self, state: State, loaded: Loaded) {
        tell(&loaded.problems);
        let config = &loaded.config;
        // Before the config: a name that is told without an address would be told twice.
        give_addresses(&self.world, &self.store, &addresses::of_config(config));
        let policies = config.peer_authentications.len() + config.authorization_policies.len();
        let (services, routes, revision) = (config.services.len(), config.routes.len(), state.head.revision);
        info!(revision, services, routes, policies, "config is applied");
        self.world.apply(loaded.config, loaded.problems, revision);
        self.set(state);
    }

    fn keep_files(&self, state: &State) {
        if let Err(error) = self.last_good.keep(&state.files) {
            warn!(%error, "the folder is applied, but would not survive a restart once it is broken");
        }
    }

    fn set(&self, state: State) {
        let revision = state.head.revision;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        self.revisions.send_replace(revision);
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // Who panicked changed nothing: the state is replaced as a whole.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Folder {
    fn read(path: &Path) -> Self {
        let loaded = ingest::read_dir(path);
        // Those of texts are found again, together with the store's.
        let problems =
            loaded.problems.into_iter().filter(|p| !loaded.sources.contains_key(&p.file)).collect();
        Self { files: loaded.sources, problems }
    }
}

/// What was loaded, with problems of files that could not be read.
fn with(mut loaded: Loaded, mut problems: Vec<Problem>) -> Loaded {
    problems.append(&mut loaded.problems);
    Loaded { problems, ..loaded }
}

fn forgotten(head: &Head) -> Refusal {
    Refusal::Forgotten(format!("the history begins with revision {}", head.oldest()))
}

/// The head, when it was changed last, and the store's revision.
fn read_head(kv: &dyn Kv) -> Result<(Head, Revision, Revision), KvError> {
    let found = kv.read(Keys::One(HEAD), None)?;
    let Some(entry) = found.entries.first() else { return Ok((Head::default(), 0, found.revision)) };
    let head = serde_json::from_str(&entry.value);
    let head = head.map_err(|error| KvError::Unavailable(format!("{HEAD} is not understood: {error}")))?;
    Ok((head, entry.modified, found.revision))
}

/// All of the store, as of one moment.
fn load(kv: &dyn Kv) -> Result<State, KvError> {
    let (head, head_modified, at) = read_head(kv)?;
    let mut stored = BTreeMap::new();
    for entry in kv.read(Keys::Under(CONFIG), Some(at))?.entries {
        let Some((id, resource)) = Stored::from_text(&entry.value) else {
            return Err(KvError::Unavailable(format!("{} is no resource", entry.key)));
        };
        stored.insert(id, resource);
    }
    Ok(State { head, head_modified, ..State::default().with_all_stored(stored) })
}

/// A pause of a length that others do not have at the same time.
fn pause(tries: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << tries.min(10)).min(LONGEST_PAUSE);
    let chance = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    longest.mul_f64(f64::from(chance % 1_000) / 1_000.0)
}

/// RFC 3339, in UTC.
fn now() -> String {
    jiff::Timestamp::try_from(SystemTime::now())
        .map(|now| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

//! What changes config: apply, delete, rollback; and what was changed: revisions.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::{ALL, Caller};
use super::answers::ProblemAnswer;
use super::failure::Failure;
use super::secrets::without_secrets;
use super::{Api, audit};
use crate::config::{Action, Answer, Change, Edits, Proposal, Record, Source};
use crate::ingest::{ResourceId, documents};

/// The most texts of one apply: a large folder has some hundred.
const MAX_SOURCES: usize = 10_000;
/// The most resources of one delete.
const MAX_DELETED: usize = 10_000;
/// The longest note: a commit message.
const MAX_NOTE_BYTES: usize = 4096;
/// The longest name of a text: a path.
const MAX_NAME_BYTES: usize = 4096;
/// The largest text, as of a file.
pub(super) const MAX_TEXT_BYTES: usize = 4 << 20;
/// Answers of many resources that are made at once: each may take some times the memory of the store.
const LARGE_AT_ONCE: usize = 4;
/// How many revisions are told of where nobody says how many.
const SOME_REVISIONS: usize = 20;
/// The most at once.
const MAX_REVISIONS: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyBody {
    sources: Vec<SourceBody>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceBody {
    name: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    resources: Vec<Named>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RollbackBody {
    revision: u64,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    note: String,
}

/// Whether it is only to be told what would come of it, as in Kubernetes.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DryRun {
    dry_run: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

/// What came of a change, or would.
#[derive(Serialize)]
pub(super) struct ChangeAnswer {
    revision: u64,
    changes: Vec<Change>,
    problems: Vec<ProblemAnswer>,
    /// Whose proxies run something else by it.
    proxies: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct RevisionsAnswer {
    items: Vec<RevisionAnswer>,
}

/// A revision without what was in its resources.
#[derive(Serialize)]
struct RevisionAnswer {
    revision: u64,
    at: String,
    by: String,
    note: String,
    changes: Vec<ChangedAnswer>,
}

#[derive(Serialize)]
struct ChangedAnswer {
    action: Action,
    kind: String,
    namespace: String,
    name: String,
}

pub(super) async fn apply(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    dry_run: Result<Query<DryRun>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ChangeAnswer>, Failure> {
    let body: ApplyBody = read(body)?;
    check_size("sources", body.sources.len(), MAX_SOURCES)?;
    let sources = body.sources.into_iter().map(source).collect::<Result<Vec<_>, _>>()?;
    propose(&api, caller, "apply", Edits::Apply(sources), body.note, is_dry(dry_run)?).await
}

pub(super) async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    dry_run: Result<Query<DryRun>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ChangeAnswer>, Failure> {
    let body: DeleteBody = read(body)?;
    check_size("resources", body.resources.len(), MAX_DELETED)?;
    let id = |named: &Named| ResourceId::new(&named.kind, &named.namespace, &named.name);
    let ids = body.resources.iter().map(id).collect();
    propose(&api, caller, "delete", Edits::Delete(ids), body.note, is_dry(dry_run)?).await
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    dry_run: Result<Query<DryRun>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ChangeAnswer>, Failure> {
    let body: RollbackBody = read(body)?;
    let dry_run = body.dry_run || is_dry(dry_run)?;
    propose(&api, caller, "rollback", Edits::Rollback(body.revision), body.note, dry_run).await
}

pub(super) async fn revisions(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    limit: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<RevisionsAnswer>, Failure> {
    let Query(Limit { limit }) = limit.map_err(|error| Failure::bad(error.body_text()))?;
    let limit = limit.unwrap_or(SOME_REVISIONS).min(MAX_REVISIONS);
    let register = Arc::clone(&api.register);
    let answer = move |record| RevisionAnswer::of(record, &caller);
    let items = large(move || register.records(limit, answer).map_err(Failure::from)).await?;
    Ok(Json(RevisionsAnswer { items }))
}

pub(super) async fn revision(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(revision): Path<String>,
) -> Result<Json<Record>, Failure> {
    let revision: u64 = revision.parse().map_err(|_| Failure::bad("a revision is a number"))?;
    let register = Arc::clone(&api.register);
    let record =
        large(move || register.record(revision).map_err(|e| crate::config::Refusal::Failed(e).into()));
    let record = record.await?.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, format!("there is no revision {revision}, or none any more"))
    })?;
    Ok(Json(shown_record(record, &caller)))
}

/// Asks for a change, and writes down that somebody did.
pub(super) async fn propose(
    api: &Api,
    caller: Caller,
    action: &'static str,
    edits: Edits,
    note: String,
    dry_run: bool,
) -> Result<Json<ChangeAnswer>, Failure> {
    caller.demand_name()?;
    check_size("bytes in the note", note.len(), MAX_NOTE_BYTES)?;
    if note.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return Err(Failure::bad("a note has no control characters: others read it on their terminals"));
    }
    let _room = room(api)?;
    let by = caller.name.clone();
    let rights = Arc::new(caller.clone());
    let proposal = Proposal { edits, by, note, rights, dry_run };
    let api = api.clone();
    blocking(move || {
        let outcome = api.register.propose(&proposal).map_err(Failure::from);
        if !dry_run {
            write_down(&api, action, &proposal, &outcome);
        }
        match outcome {
            Ok(answer) => Ok(Json(ChangeAnswer::of(answer, &caller))),
            Err(failure) => Err(failure.shown(&caller)),
        }
    })
    .await
}

/// Room for a change that waits, or whose text is looked at.
pub(super) fn room(api: &Api) -> Result<OwnedSemaphorePermit, Failure> {
    Arc::clone(&api.writes).try_acquire_owned().map_err(|_| {
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "many changes wait to be made; try again in a moment")
    })
}

fn write_down(api: &Api, action: &str, proposal: &Proposal, outcome: &Result<Answer, Failure>) {
    let (resources, result) = match outcome {
        Ok(answer) => {
            let changed = answer.changes.iter().filter(|change| change.action != Action::Unchanged);
            let line = |change: &Change| format!("{} {}", verb(change.action), change.id());
            (changed.map(line).collect(), format!("revision {}", answer.revision))
        }
        Err(failure) => (named(&proposal.edits), format!("refused: {failure}")),
    };
    let line =
        audit::Line { at: audit::now(), by: &proposal.by, action, note: &proposal.note, resources, result };
    match outcome {
        Ok(_) => api.audit.write(&line),
        Err(_) => api.audit.write_refused(line),
    }
}

/// How many resources the audit log names of what was refused: enough to know what it was.
const MAX_NAMED: usize = 20;

fn named(edits: &Edits) -> Vec<String> {
    match edits {
        Edits::Apply(sources) => {
            let ids = sources.iter().flat_map(|source| documents(&source.text));
            ids.map(|document| document.id.to_string()).take(MAX_NAMED).collect()
        }
        Edits::Delete(ids) => ids.iter().map(ToString::to_string).take(MAX_NAMED).collect(),
        Edits::Rollback(revision) => vec![format!("revision {revision}")],
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Created => "created",
        Action::Changed => "changed",
        Action::Unchanged => "left",
        Action::Deleted => "deleted",
    }
}

fn source(body: SourceBody) -> Result<Source, Failure> {
    check_size("bytes in a source's name", body.name.len(), MAX_NAME_BYTES)?;
    check_size("bytes in a source", body.text.len(), MAX_TEXT_BYTES)?;
    if body.name.is_empty() {
        return Err(Failure::bad("a source needs a name: problems are told by it"));
    }
    Ok(Source { name: body.name, text: body.text.into() })
}

pub(super) fn check_size(what: &str, size: usize, most: usize) -> Result<(), Failure> {
    if size > most {
        let message = format!("there are {size} {what}, and at most {most} are taken at once");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(())
}

/// A body of JSON.
pub(super) fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Failure> {
    let bytes = bytes(body)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::bad(format!("the body is not understood: {error}")))
}

/// A body, where it is not too large.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Failure> {
    body.map_err(|error| Failure::new(error.status(), error.body_text()))
}

pub(super) fn is_dry(query: Result<Query<DryRun>, QueryRejection>) -> Result<bool, Failure> {
    let Query(DryRun { dry_run }) = query.map_err(|error| Failure::bad(error.body_text()))?;
    match dry_run.as_deref() {
        None | Some("") => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(Failure::bad(format!("dryRun is `All` or absent, not \"{other}\""))),
    }
}

/// Does what waits for a disk where nobody else has to.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let failed =
        |error: tokio::task::JoinError| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Makes an answer that may be large: some at once, and others in their turn, beside all else that this process does.
pub(super) async fn large<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    static ROOM: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);
    // It is never closed.
    let room = ROOM.acquire().await;
    let made = blocking(work).await;
    drop(room);
    made
}

/// Changes as somebody may see them.
fn shown(changes: Vec<Change>, caller: &Caller) -> Vec<Change> {
    let visible = changes.into_iter().filter(|change| caller.may_read(&change.namespace));
    let show = |mut change: Change| {
        let id = change.id();
        change.before = change.before.map(|json| without_secrets(&id, json, caller));
        change.after = change.after.map(|json| without_secrets(&id, json, caller));
        change
    };
    visible.map(show).collect()
}

/// A record as somebody may see it: of one that concerns nothing that they may read, only that there was one.
fn shown_record(mut record: Record, caller: &Caller) -> Record {
    record.changes = shown(record.changes, caller);
    if record.changes.is_empty() && !caller.may_read(ALL) {
        record.by.clear();
        record.note.clear();
    }
    record
}

impl ChangeAnswer {
    fn of(answer: Answer, caller: &Caller) -> Self {
        let proxies = answer.proxies.iter().filter(|key| caller.may_read(&key.namespace));
        Self {
            revision: answer.revision,
            changes: shown(answer.changes, caller),
            // Those of what was written, which is theirs; whom it does not go together with may be others'.
            problems: answer.problems.iter().map(|one| ProblemAnswer::of(one).shown(caller)).collect(),
            proxies: proxies.map(ToString::to_string).collect(),
        }
    }

    /// A resource as it would be.
    pub(super) fn after(&self, id: &ResourceId) -> Option<Value> {
        self.changes.iter().find(|change| change.id() == *id)?.after.clone()
    }
}

impl RevisionAnswer {
    fn of(record: Record, caller: &Caller) -> Self {
        let record = shown_record(record, caller);
        let changed = |change: Change| ChangedAnswer {
            action: change.action,
            kind: change.kind,
            namespace: change.namespace,
            name: change.name,
        };
        Self {
            revision: record.revision,
            at: record.at,
            by: record.by,
            note: record.note,
            changes: record.changes.into_iter().map(changed).collect(),
        }
    }
}

//! Resources in the Kubernetes style: get, list, watch, put, delete, by group, version, namespace and plural.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use super::access::Caller;
use super::changes::{DryRun, MAX_TEXT_BYTES, blocking, bytes, check_size, is_dry, large, propose, room};
use super::failure::Failure;
use super::secrets::without_secrets;
use super::{Api, MAX_WATCHES};
use crate::config::{Action, Change, Edits, Object, Record, Source};
use crate::ingest::{ResourceId, documents, kinds, plural};

/// Lines of a watch that wait to be read; a reader that is slower is waited for.
const WAITING_LINES: usize = 16;
/// How many revisions a watch reads at once: each may be as large as a request.
const REVISIONS_AT_ONCE: u64 = 4;
/// The longest watch, and that of one which does not say: clients begin anew where they were.
const MAX_WATCH: Duration = Duration::from_hours(1);
/// How often a watch tells where it is, where it is asked to: it also finds out that nobody listens.
const BOOKMARK: Duration = Duration::from_secs(30);

/// A kind of resource as its path names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plural {
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListQuery {
    watch: Option<String>,
    resource_version: Option<String>,
    allow_watch_bookmarks: Option<String>,
    timeout_seconds: Option<u64>,
}

type Parts = Path<BTreeMap<String, String>>;

/// All kinds, by each of their API versions.
pub(super) fn plurals() -> impl Iterator<Item = Plural> {
    kinds().flat_map(|(kind, versions)| versions.iter().map(move |api_version| Plural { kind, api_version }))
}

fn of_path(parts: &BTreeMap<String, String>) -> Result<Plural, Failure> {
    let part = |name: &str| parts.get(name).map(String::as_str).unwrap_or_default();
    let api_version = match part("group") {
        "" => "v1".to_owned(),
        group => format!("{group}/{}", part("version")),
    };
    // Without a namespace in between, the path of namespaces themselves is like that of a kind.
    let asked = if part("plural").is_empty() { "namespaces" } else { part("plural") };
    let found = plurals().find(|p| p.api_version == api_version && plural(p.kind) == asked);
    found.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, format!("there is no kind {asked} of {api_version}"))
    })
}

fn id(parts: &BTreeMap<String, String>) -> Result<(Plural, ResourceId), Failure> {
    let plural = of_path(parts)?;
    let part = |name: &str| parts.get(name).map(String::as_str).unwrap_or_default();
    Ok((plural, ResourceId::new(plural.kind, part("namespace"), part("name"))))
}

pub(super) async fn get(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(parts): Parts,
) -> Result<Json<Value>, Failure> {
    let (plural, id) = id(&parts)?;
    demand_read(&caller, &id.key.namespace)?;
    let object = api.register.object(&id).ok_or_else(|| absent(&id))?;
    Ok(Json(shown(&api, plural, &id, object, &caller)))
}

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(parts): Parts,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::bad(error.body_text()))?;
    let (plural, namespace) = (of_path(&parts)?, parts.get("namespace").cloned());
    if let Some(namespace) = &namespace {
        demand_read(&caller, namespace)?;
    }
    let view = View { api, plural, namespace, caller };
    if query.watch.as_deref().is_some_and(|watch| watch == "true" || watch == "1") {
        return view.watch(&query);
    }
    large(move || {
        let (items, revision) = view.items();
        Ok(Json(json!({
            "apiVersion": plural.api_version,
            "kind": format!("{}List", plural.kind),
            "metadata": {"resourceVersion": revision.to_string()},
            "items": items,
        }))
        .into_response())
    })
    .await
}

pub(super) async fn put(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(parts): Parts,
    dry_run: Result<Query<DryRun>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Failure> {
    let (plural, id) = id(&parts)?;
    let text = String::from_utf8(bytes(body)?.into());
    let text = text.map_err(|_| Failure::bad("the body is not UTF-8"))?;
    check_size("bytes in a resource", text.len(), MAX_TEXT_BYTES)?;
    let room = room(&api)?;
    let (text, found) = blocking(move || {
        let found: Vec<ResourceId> = documents(&text).into_iter().map(|document| document.id).collect();
        drop(room);
        Ok((text, found))
    })
    .await?;
    // Where there is none, reading the text tells why.
    if let Some(other) = found.iter().find(|other| **other != id) {
        return Err(Failure::bad(format!("the body is of {other}, and the path of {id}")));
    }
    let dry_run = is_dry(dry_run)?;
    let edits = Edits::Apply(vec![Source { name: id.to_string(), text: text.into() }]);
    let Json(answer) = propose(&api, caller.clone(), "put", edits, String::new(), dry_run).await?;
    let object = if dry_run { answer.after(&id) } else { api.register.object(&id) };
    let object = object.filter(|_| !found.is_empty());
    let object = object.ok_or_else(|| Failure::bad(format!("the body is one resource, {id}")))?;
    Ok(Json(shown(&api, plural, &id, object, &caller)))
}

pub(super) async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(parts): Parts,
    dry_run: Result<Query<DryRun>, QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let (_, id) = id(&parts)?;
    let Json(_) =
        propose(&api, caller, "delete", Edits::Delete(vec![id.clone()]), String::new(), is_dry(dry_run)?)
            .await?;
    Ok(Json(json!({
        "kind": "Status", "apiVersion": "v1", "status": "Success", "code": 200,
        "details": {"name": &*id.key.name, "kind": id.kind},
    })))
}

/// The resources of a kind that somebody looks at.
struct View {
    api: Api,
    plural: Plural,
    namespace: Option<String>,
    caller: Caller,
}

impl View {
    fn items(&self) -> (Vec<Value>, u64) {
        let (objects, revision) = self.api.register.objects(self.plural.kind, self.namespace.as_deref());
        let visible = objects.into_iter().filter(|object| self.caller.may_read(&object.id.key.namespace));
        let show = |Object { id, json }| shown(&self.api, self.plural, &id, json, &self.caller);
        (visible.map(show).collect(), revision)
    }

    /// Tells of changes, a line of JSON each: from the revision that is named, or from all that is there.
    fn watch(self, query: &ListQuery) -> Result<Response, Failure> {
        // Who does not say who they are leaves room for those who do.
        let left = if self.caller.is_anonymous { MAX_WATCHES / 2 } else { 0 };
        let has_room = self.api.watches.available_permits() > left;
        let room = Arc::clone(&self.api.watches).try_acquire_owned().ok().filter(|_| has_room);
        let room = room.ok_or_else(|| Failure::new(StatusCode::TOO_MANY_REQUESTS, "many watch already"))?;
        let seen = match query.resource_version.as_deref() {
            None | Some("" | "0") => None,
            Some(text) => Some(text.parse().map_err(|_| Failure::bad("resourceVersion is a number"))?),
        };
        // What is forgotten already is told by the status; what is forgotten later, by a line.
        if let Some(seen) = seen {
            self.demand_kept(seen)?;
        }
        let length = query.timeout_seconds.map_or(MAX_WATCH, Duration::from_secs).min(MAX_WATCH);
        let bookmarks = query.allow_watch_bookmarks.as_deref() == Some("true");
        let (lines, told) = mpsc::channel(WAITING_LINES);
        let follower = Follower { view: self, lines, bookmarks, end: Instant::now() + length };
        // It ends with its reader, or with its time.
        tokio::spawn(follower.run(seen, room));
        let content = [(header::CONTENT_TYPE, "application/json")];
        Ok((content, Body::from_stream(ReceiverStream::new(told))).into_response())
    }

    fn demand_kept(&self, seen: u64) -> Result<(), Failure> {
        let oldest = self.api.register.oldest();
        if seen + 1 < oldest {
            let message = format!("the history begins with revision {oldest}; list anew");
            return Err(Failure::new(StatusCode::GONE, message));
        }
        Ok(())
    }

    /// What a record tells of these resources.
    fn events(&self, record: &Record) -> Vec<Value> {
        let is_meant = |change: &&Change| {
            change.kind == self.plural.kind
                && self.namespace.as_ref().is_none_or(|namespace| *namespace == change.namespace)
                && self.caller.may_read(&change.namespace)
        };
        let event = |change: &Change| {
            let (kind, object) = match (change.action, &change.before, &change.after) {
                (Action::Created, _, Some(after)) => ("ADDED", after),
                (_, _, Some(after)) => ("MODIFIED", after),
                (_, Some(before), None) => ("DELETED", before),
                (_, None, None) => return None,
            };
            let mut object = object.clone();
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".to_owned(), record.revision.to_string().into());
            }
            let object = shown(&self.api, self.plural, &change.id(), object, &self.caller);
            Some(json!({"type": kind, "object": object}))
        };
        record.changes.iter().filter(is_meant).filter_map(event).collect()
    }
}

/// A watch that runs.
struct Follower {
    view: View,
    lines: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
    bookmarks: bool,
    end: Instant,
}

/// The reader is gone, or the time is over.
struct Over;

impl Follower {
    async fn run(self, seen: Option<u64>, _room: OwnedSemaphorePermit) {
        // How it ends is of no more interest: there is nobody to tell.
        let _ = self.follow(seen).await;
    }

    async fn follow(&self, seen: Option<u64>) -> Result<(), Over> {
        let mut revisions = self.view.api.register.revisions();
        let mut seen = match seen {
            Some(seen) => seen,
            None => self.all().await?,
        };
        loop {
            let newest = *revisions.borrow_and_update();
            while seen < newest {
                seen = self.step(seen).await?;
            }
            let pause = self.end.min(Instant::now() + BOOKMARK);
            tokio::select! {
                changed = revisions.changed() => changed.map_err(|_| Over)?,
                () = sleep_until(pause) => self.bookmark(seen).await?,
                () = self.lines.closed() => return Err(Over),
            }
        }
    }

    async fn all(&self) -> Result<u64, Over> {
        let (items, revision) = self.view.items();
        for item in items {
            self.tell(&json!({"type": "ADDED", "object": item})).await?;
        }
        Ok(revision)
    }

    /// Tells of some revisions; gives the last.
    async fn step(&self, seen: u64) -> Result<u64, Over> {
        let register = Arc::clone(&self.view.api.register);
        let read =
            blocking(move || register.records_from(seen + 1, REVISIONS_AT_ONCE).map_err(Failure::from));
        let looked = self.view.api.access.look_again(&self.view.caller).await;
        let records = match read.await.and_then(|records| looked.map(|()| records)) {
            Ok(records) => records,
            Err(failure) => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": failure.status.as_u16(), "message": failure.message,
                });
                self.tell(&json!({"type": "ERROR", "object": status})).await?;
                return Err(Over);
            }
        };
        for record in &records {
            for event in self.view.events(record) {
                self.tell(&event).await?;
            }
        }
        Ok(records.last().map_or(seen, |record| record.revision))
    }

    async fn bookmark(&self, seen: u64) -> Result<(), Over> {
        let looked = self.view.api.access.look_again(&self.view.caller).await;
        if Instant::now() >= self.end || looked.is_err() {
            return Err(Over);
        }
        if !self.bookmarks {
            return Ok(());
        }
        let Plural { kind, api_version } = self.view.plural;
        let metadata = json!({"resourceVersion": seen.to_string()});
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        self.tell(&json!({"type": "BOOKMARK", "object": object})).await
    }

    async fn tell(&self, event: &Value) -> Result<(), Over> {
        let line = Bytes::from(format!("{event}\n"));
        match timeout_at(self.end, self.lines.send(Ok(line))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over),
        }
    }
}

/// A resource as it is answered: with its status, without secrets that are not for the asker.
fn shown(api: &Api, plural: Plural, id: &ResourceId, mut object: Value, caller: &Caller) -> Value {
    if let Some(root) = object.as_object_mut() {
        // All versions of a kind have one schema.
        root.insert("apiVersion".to_owned(), plural.api_version.into());
        if let Some(status) = super::status::of_object(api, id) {
            root.insert("status".to_owned(), status);
        }
    }
    without_secrets(id, object, caller)
}

fn demand_read(caller: &Caller, namespace: &str) -> Result<(), Failure> {
    if caller.may_read(namespace) {
        return Ok(());
    }
    let message = format!("{} may not read the namespace {namespace}", caller.name);
    Err(Failure::new(StatusCode::FORBIDDEN, message))
}

fn absent(id: &ResourceId) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("there is no {id}"))
}

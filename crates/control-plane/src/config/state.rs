//! The config of a moment: the folder's files, the resources of the store, and both as one library. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::problem::{Code, Problem, Severity};
use serde_json::Value as Json;

use super::record::{Change, Head};
use super::{Edits, Proposal, Refusal, Source};
use crate::ingest::{Document, Library, Loaded, ResourceId, documents};
use crate::store::kv;

/// The most values of all that is applied at once, with aliases written out: more than plain YAML of a request's size has. Each
/// takes some 100 bytes for a moment.
const MAX_APPLIED_VALUES: usize = 2_000_000;
/// The most bytes of all resources of the store, as JSON: a hundred thousand of them, of the usual size. Each takes its
/// memory some times over. One namespace has half of it at most.
const MAX_STORED_BYTES: usize = 256 << 20;

/// Each resource that is named as it is to be; `None` where it is to be gone.
pub(super) type Wanted = BTreeMap<ResourceId, Option<Json>>;

/// The config of a moment. A new one is made for each change.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<String, Arc<str>>,
    /// The resources of the files.
    pub(super) owned: BTreeMap<ResourceId, Arc<Owned>>,
    /// The resources of the store.
    pub(super) stored: BTreeMap<ResourceId, Stored>,
    pub(super) head: Head,
    /// When the head was changed, by the store's own count.
    pub(super) head_modified: kv::Revision,
    /// Files and stored resources.
    pub(super) library: Library,
}

/// A resource of the folder.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) json: Json,
}

/// A resource of the store.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// As its writer wrote it.
    json: Packed,
    /// The revision of config that changed it last.
    pub(super) revision: u64,
    /// When it came to be, RFC 3339.
    pub(super) created: Arc<str>,
}

/// A JSON object as text: its tree takes ten times the memory, and most resources are looked at seldom.
#[derive(Clone, Debug)]
struct Packed(Arc<str>);

impl Packed {
    fn of(json: &Json) -> Self {
        Self(json.to_string().into())
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// What a proposal would do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Every resource that it names, changed or not.
    pub(super) changes: Vec<Change>,
    /// The texts to show problems in; where there are none, those of the resources themselves.
    sources: Vec<(String, Arc<str>)>,
}

/// A plan that was found good.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) next: State,
    pub(super) loaded: Loaded,
    /// Its warnings, and those only.
    pub(super) problems: Vec<Problem>,
}

impl Stored {
    /// The resource, with what the store knows of it.
    pub(super) fn object(&self) -> Json {
        let mut object = self.json.json();
        if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
            metadata.insert("creationTimestamp".to_owned(), (*self.created).into());
        }
        object
    }

    /// Reads it as it is kept.
    pub(super) fn from_text(text: &str) -> Option<(ResourceId, Self)> {
        let object: Json = serde_json::from_str(text).ok()?;
        let metadata = object.get("metadata")?;
        let revision = metadata.get("resourceVersion")?.as_str()?.parse().ok()?;
        let created = metadata.get("creationTimestamp").and_then(Json::as_str).unwrap_or_default().into();
        let mut found = documents(text);
        let document = found.pop().filter(|_| found.is_empty())?;
        Some((document.id, Self { json: Packed::of(&document.json), revision, created }))
    }

    /// As it is kept, and as the library has it.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string_pretty(&self.object()).unwrap_or_default()
    }
}

impl Owned {
    /// The resource, with a word on where it is.
    pub(super) fn object(&self) -> Json {
        let mut object = self.json.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
            let annotations =
                metadata.entry("annotations").or_insert_with(|| Json::Object(serde_json::Map::new()));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations
                    .insert("meshwork.dev/file".to_owned(), format!("{}:{}", self.file, self.line).into());
            }
        }
        object
    }
}

impl State {
    /// The state with the resources of the store in the place of all that were there.
    pub(super) fn with_all_stored(&self, stored: BTreeMap<ResourceId, Stored>) -> Self {
        let gone = self.stored.keys().filter(|id| !stored.contains_key(id)).map(|id| (id.to_string(), None));
        let text = |(id, stored): (&ResourceId, &Stored)| (id.to_string(), Some(stored.to_text().into()));
        let library = self.library.with(gone.chain(stored.iter().map(text)));
        Self { stored, library, ..self.clone() }
    }

    /// The state with other files.
    pub(super) fn with_files(&self, files: BTreeMap<String, Arc<str>>) -> Self {
        let gone =
            self.files.keys().filter(|name| !files.contains_key(*name)).map(|name| (name.clone(), None));
        let new = files.iter().filter(|(name, text)| self.files.get(*name) != Some(text));
        let new = new.map(|(name, text)| (name.clone(), Some(Arc::clone(text))));
        let library = self.library.with(gone.chain(new));
        let mut owned = BTreeMap::new();
        for (file, text) in &files {
            for document in documents(text) {
                let place = Owned { file: file.clone(), line: document.place.line, json: document.json };
                owned.entry(document.id).or_insert_with(|| Arc::new(place));
            }
        }
        Self { files, owned, library, ..self.clone() }
    }

    /// The state behind a revision's changes.
    pub(super) fn with_changes(&self, changes: &[Change], revision: u64, at: &str) -> Self {
        let mut next = self.clone();
        let mut texts = Vec::new();
        for change in changes {
            let id = change.id();
            match &change.after {
                Some(json) if change.before.as_ref() != Some(json) => {
                    let created = self.stored.get(&id).map_or_else(|| at.into(), |s| Arc::clone(&s.created));
                    let stored = Stored { json: Packed::of(json), revision, created };
                    texts.push((id.to_string(), Some(stored.to_text().into())));
                    next.stored.insert(id, stored);
                }
                Some(_) => {}
                None => {
                    texts.push((id.to_string(), None));
                    next.stored.remove(&id);
                }
            }
        }
        next.library = self.library.with(texts);
        next
    }

    /// What a proposal would do; `undone` is each resource as it is to be, for one that goes back.
    pub(super) fn plan(&self, proposal: &Proposal, undone: Wanted) -> Result<Plan, Refusal> {
        let mut sources = Vec::new();
        let (wanted, seen) = match &proposal.edits {
            Edits::Apply(texts) => {
                sources = self.named_apart(texts);
                applied(texts, MAX_APPLIED_VALUES)?
            }
            Edits::Delete(ids) => (ids.iter().map(|id| (id.clone(), None)).collect(), Vec::new()),
            Edits::Rollback(_) => (undone, Vec::new()),
        };
        // First of all: whether a resource is there, and of which revision, is told to who may write it.
        self.check_rights(proposal, &wanted)?;
        self.check_owners(wanted.keys())?;
        self.check_seen(&seen)?;
        if matches!(proposal.edits, Edits::Delete(_)) {
            self.check_there(wanted.keys())?;
        }
        let change = |(id, after): (&ResourceId, &Option<Json>)| {
            let before = self.stored.get(id).map(|stored| stored.json.json());
            Change::of(id, before.as_ref(), after.as_ref())
        };
        Ok(Plan { changes: wanted.iter().filter_map(change).collect(), sources })
    }

    /// Looks whether the mesh would accept a plan.
    pub(super) fn check(&self, plan: &Plan, revision: u64, at: &str) -> Result<Checked, Refusal> {
        let next = self.with_changes(&plan.changes, revision, at);
        next.check_size(self, MAX_STORED_BYTES)?;
        let mut problems = Vec::new();
        if !plan.sources.is_empty() {
            // The same in its writer's words: problems then name their files and lines.
            let named = plan.changes.iter().map(|change| (change.id().to_string(), None));
            let texts = plan.sources.iter().map(|(name, text)| (name.clone(), Some(Arc::clone(text))));
            let loaded = self.library.with(named.chain(texts)).loaded();
            if !loaded.is_accepted() {
                return Err(Refusal::Invalid(errors_and_own(loaded.problems, plan)));
            }
            problems = loaded.problems.into_iter().filter(|p| plan.shows(&p.file)).collect();
        }
        let loaded = next.library.loaded();
        if !loaded.is_accepted() {
            return Err(Refusal::Invalid(errors_and_own(loaded.problems, plan)));
        }
        if plan.sources.is_empty() {
            problems = loaded.problems.iter().filter(|p| plan.shows(&p.file)).cloned().collect();
        }
        Ok(Checked { next, loaded, problems })
    }

    /// Refuses to take away what others refer to: what stays would lead nowhere.
    pub(super) fn check_left(&self, checked: &Checked) -> Result<(), Refusal> {
        let before = self.library.loaded().problems;
        let is_new = |problem: &&Problem| {
            let same = |one: &Problem| (&one.resource, &one.field) == (&problem.resource, &problem.field);
            problem.code == Code::LeadsNowhere && !before.iter().any(same)
        };
        let refuse = |problem: &Problem| Problem {
            severity: Severity::Error,
            fix: "Delete this too, in the same call, or let it lead elsewhere first".to_owned(),
            ..problem.clone()
        };
        let left: Vec<Problem> = checked.loaded.problems.iter().filter(is_new).map(refuse).collect();
        if left.is_empty() { Ok(()) } else { Err(Refusal::Invalid(left)) }
    }

    /// Looks whether there is room for what is more here than in the state before: these bytes, and half of them for a
    /// namespace, so that others have room, too.
    fn check_size(&self, before: &Self, most: usize) -> Result<(), Refusal> {
        let (now, before) = (self.sizes(), before.sizes());
        let too_much = |what: &str, bytes: usize, most: usize| {
            let message = format!("{what} would have {bytes} bytes of resources, and {most} is the most");
            Err(Refusal::TooMuch(message))
        };
        let (all, all_before): (usize, usize) = (now.values().sum(), before.values().sum());
        if all > most && all > all_before {
            return too_much("the store", all, most);
        }
        let grown = now.iter().find(|(namespace, bytes)| {
            **bytes > most / 2 && before.get(*namespace).is_none_or(|before| *bytes > before)
        });
        match grown {
            Some((namespace, bytes)) => too_much(&format!("the namespace {namespace}"), *bytes, most / 2),
            None => Ok(()),
        }
    }

    /// The bytes of the resources of the store by their namespace, as JSON.
    fn sizes(&self) -> BTreeMap<&str, usize> {
        let mut sizes = BTreeMap::new();
        for (id, stored) in &self.stored {
            *sizes.entry(&*id.key.namespace).or_default() += stored.json.0.len();
        }
        sizes
    }

    /// Looks whether whoever proposes this may write all of it. What goes back to what it is already is not written.
    fn check_rights(&self, proposal: &Proposal, wanted: &Wanted) -> Result<(), Refusal> {
        let mut foreign = wanted.iter().filter(|(id, _)| !proposal.rights.may_write(id));
        let by = &proposal.by;
        let refusal = match proposal.edits {
            Edits::Rollback(revision) => {
                let now = |id: &ResourceId| self.stored.get(id).map(|stored| stored.json.json());
                // Whose they are is not said: they may not even read them.
                foreign
                    .any(|(id, after)| now(id) != *after)
                    .then(|| format!("{by} may not write all that has changed since the revision {revision}"))
            }
            Edits::Apply(_) | Edits::Delete(_) => {
                foreign.next().map(|(id, _)| format!("{by} may not write {id}"))
            }
        };
        refusal.map_or(Ok(()), |why| Err(Refusal::Forbidden(why)))
    }

    /// An apply may tell which revision it has seen, as in Kubernetes.
    fn check_seen(&self, seen: &[(ResourceId, String)]) -> Result<(), Refusal> {
        for (id, seen) in seen {
            let now = self.stored.get(id).map_or(0, |stored| stored.revision);
            if *seen != now.to_string() {
                return Err(Refusal::Raced(format!(
                    "{id} has changed since: it is of revision {now}; read it again and apply your change to that"
                )));
            }
        }
        Ok(())
    }

    fn check_there<'i>(&self, mut ids: impl Iterator<Item = &'i ResourceId>) -> Result<(), Refusal> {
        match ids.find(|id| !self.stored.contains_key(*id)) {
            Some(absent) => Err(Refusal::NotFound(format!("there is no {absent}"))),
            None => Ok(()),
        }
    }

    fn check_owners<'i>(&self, ids: impl Iterator<Item = &'i ResourceId>) -> Result<(), Refusal> {
        let owned = |id: &ResourceId| {
            let owned = self.owned.get(id)?;
            let message = format!("this resource belongs to the file {}:{}", owned.file, owned.line);
            let fix = "Change it there, or take it out of the config folder first";
            let resource = format!("{} {}", id.kind, id.key);
            Some(Problem::error(resource, "", message, fix).of(Code::Duplicate))
        };
        let problems: Vec<Problem> = ids.filter_map(owned).collect();
        if problems.is_empty() { Ok(()) } else { Err(Refusal::Owned(problems)) }
    }

    /// The texts under names that the library has not.
    fn named_apart(&self, texts: &[Source]) -> Vec<(String, Arc<str>)> {
        let mut taken: Vec<String> = Vec::new();
        for source in texts {
            let mut name = source.name.clone();
            while self.files.contains_key(&name) || taken.contains(&name) {
                name.push_str(" (applied)");
            }
            taken.push(name);
        }
        taken.into_iter().zip(texts.iter().map(|source| Arc::clone(&source.text))).collect()
    }
}

impl Plan {
    /// Whether a file of problems is one of this plan's texts.
    fn shows(&self, file: &str) -> bool {
        self.sources.iter().any(|(name, _)| name == file)
            || self.changes.iter().any(|change| change.id().to_string() == file)
    }

    /// Whether it changes anything.
    pub(super) fn changes_nothing(&self) -> bool {
        self.changes.iter().all(|change| change.before == change.after)
    }
}

/// Each resource of these texts, and which revisions of it their writer has seen.
fn applied(texts: &[Source], most_values: usize) -> Result<(Wanted, Vec<(ResourceId, String)>), Refusal> {
    let (mut wanted, mut seen, mut values) = (Wanted::new(), Vec::new(), 0);
    for Document { id, json, resource_version, .. } in texts.iter().flat_map(|one| documents(&one.text)) {
        values += values_in(&json);
        if values > most_values {
            return Err(Refusal::TooMuch(format!(
                "these texts have more than {most_values} values with their aliases written out: apply fewer at once, or \
                 without aliases"
            )));
        }
        seen.extend(resource_version.map(|version| (id.clone(), version)));
        wanted.insert(id, Some(json));
    }
    Ok((wanted, seen))
}

fn values_in(json: &Json) -> usize {
    1 + match json {
        Json::Array(items) => items.iter().map(values_in).sum::<usize>(),
        Json::Object(fields) => fields.values().map(values_in).sum::<usize>(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

/// Errors wherever they are, and the warnings of the plan's own texts.
fn errors_and_own(problems: Vec<Problem>, plan: &Plan) -> Vec<Problem> {
    problems.into_iter().filter(|p| p.severity == Severity::Error || plan.shows(&p.file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_not_kept_but_may_shrink() {
        let state = |of: &[(&str, usize)]| {
            let stored = of.iter().map(|(namespace, bytes)| {
                let json = Packed("x".repeat(*bytes).into());
                (
                    ResourceId::new("ConfigMap", namespace, "x"),
                    Stored { json, revision: 1, created: "".into() },
                )
            });
            State { stored: stored.collect(), ..State::default() }
        };
        let check = |now: &[(&str, usize)], before: &[(&str, usize)], is_good: bool| {
            assert_eq!(state(now).check_size(&state(before), 100).is_ok(), is_good, "{now:?} {before:?}");
        };
        check(&[("a", 50)], &[], true);
        check(&[("a", 51)], &[("b", 1)], false);
        check(&[("a", 51)], &[("a", 52)], true);
        check(&[("a", 50), ("b", 50)], &[], true);
        check(&[("a", 50), ("b", 50), ("c", 1)], &[("a", 50), ("b", 50)], false);
        check(&[("a", 50), ("b", 50), ("c", 1)], &[("a", 100), ("b", 2)], true);
    }

    #[test]
    fn aliases_of_many_texts_count_together() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME, annotations: &a {b: c, d: e}}\ndata: {a: *a}\n";
        let source = |name: &str| Source { name: name.to_owned(), text: text.replace("NAME", name).into() };
        let texts = [source("a"), source("b")];
        let (wanted, seen) = applied(&texts, 26).expect("few");
        assert_eq!((wanted.len(), seen.len()), (2, 0));
        assert!(matches!(applied(&texts, 25), Err(Refusal::TooMuch(_))));
        assert!(applied(&texts[..1], 13).is_ok());
    }
}

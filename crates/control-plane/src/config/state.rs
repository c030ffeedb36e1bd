//! The config of a moment: the folder's files, the resources of the store, and both as one library. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::problem::{Code, Problem, Severity};
use serde_json::Value as Json;

use super::record::{Change, Head};
use super::{Edits, Proposal, Refusal, Source};
use crate::ingest::{Library, Loaded, ResourceId, documents};
use crate::store::kv;

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
        let document = documents(text).pop()?;
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
    pub(super) fn plan(
        &self,
        proposal: &Proposal,
        undone: BTreeMap<ResourceId, Option<Json>>,
    ) -> Result<Plan, Refusal> {
        let mut sources = Vec::new();
        let wanted = match &proposal.edits {
            Edits::Apply(texts) => {
                sources = self.named_apart(texts);
                self.applied(texts)?
            }
            Edits::Delete(ids) => self.deleted(ids)?,
            Edits::Rollback(_) => undone,
        };
        self.check_owners(wanted.keys())?;
        let change = |(id, after): (&ResourceId, &Option<Json>)| {
            let before = self.stored.get(id).map(|stored| stored.json.json());
            Change::of(id, before.as_ref(), after.as_ref())
        };
        Ok(Plan { changes: wanted.iter().filter_map(change).collect(), sources })
    }

    /// Looks whether the mesh would accept a plan.
    pub(super) fn check(&self, plan: &Plan, revision: u64, at: &str) -> Result<Checked, Refusal> {
        let next = self.with_changes(&plan.changes, revision, at);
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

    /// Each resource of these texts, as it is to be.
    fn applied(&self, texts: &[Source]) -> Result<BTreeMap<ResourceId, Option<Json>>, Refusal> {
        let mut wanted = BTreeMap::new();
        for document in texts.iter().flat_map(|source| documents(&source.text)) {
            let now = self.stored.get(&document.id).map_or(0, |stored| stored.revision);
            // An apply may tell which revision it has seen, as in Kubernetes.
            if document.resource_version.as_ref().is_some_and(|seen| *seen != now.to_string()) {
                return Err(Refusal::Raced(format!(
                    "{} has changed since: it is of revision {now}; read it again and apply your change to that",
                    document.id
                )));
            }
            wanted.insert(document.id, Some(document.json));
        }
        Ok(wanted)
    }

    fn deleted(&self, ids: &[ResourceId]) -> Result<BTreeMap<ResourceId, Option<Json>>, Refusal> {
        self.check_owners(ids.iter())?;
        match ids.iter().find(|id| !self.stored.contains_key(*id)) {
            Some(absent) => Err(Refusal::NotFound(format!("there is no {absent}"))),
            None => Ok(ids.iter().map(|id| (id.clone(), None)).collect()),
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

/// Errors wherever they are, and the warnings of the plan's own texts.
fn errors_and_own(problems: Vec<Problem>, plan: &Plan) -> Vec<Problem> {
    problems.into_iter().filter(|p| p.severity == Severity::Error || plan.shows(&p.file)).collect()
}

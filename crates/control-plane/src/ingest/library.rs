//! The library: every text of config that is known, each read once, and what all of them say together.
//!
//! A change reads the texts that changed and no other. Where nothing but endpoint slices changed, which is most of what
//! changes in a large mesh, the rest of the config is taken over as it is, checks of references included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{Config, Key, PeerAuthentication, Table};
use meshwork_model::problem::{Code, Place, Problem};

use super::reader::Room;
use super::references::{self, Reference};
use super::{Kind, Loaded, MAX_RESOURCES, checks, locate, sidecar, traffic_policy};

/// Every text of config that is known, by name: a file's path, or a resource that was applied by the API. A candidate is
/// a changed copy, which shares what did not change.
#[derive(Clone, Debug, Default)]
pub struct Library {
    pieces: BTreeMap<Arc<str>, Arc<Piece>>,
    together: Together,
}

/// What one text says.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// `None` where it could not be read at all.
    pub(super) text: Option<Arc<str>>,
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    pub(super) references: Vec<Reference>,
    pub(super) accounts: BTreeSet<Key>,
    /// Each resource, by kind and key, with the place of its name.
    pub(super) origins: Vec<(&'static str, Key, Place)>,
    pub(super) resources: usize,
    /// It could not be read to its end: what refers to its resources is not to blame.
    pub(super) is_incomplete: bool,
}

/// What all pieces say together.
#[derive(Clone, Debug, Default)]
struct Together {
    config: Config,
    /// What is wrong between pieces.
    problems: Vec<Problem>,
    has_duplicates: bool,
    resources: usize,
}

impl Library {
    /// The library with these texts in the place of those of the same name; `None` takes one out.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (String, Option<Arc<str>>)>) -> Self {
        let mut room = Room::default();
        let read = |(name, text): (String, Option<Arc<str>>)| {
            let known = text.as_ref().and_then(|text| {
                self.pieces.get(&*name).filter(|piece| piece.text.as_ref() == Some(text)).cloned()
            });
            let piece = known.or_else(|| text.map(|text| Arc::new(Piece::read(&name, text, &mut room))));
            (name, piece)
        };
        self.with_pieces(changes.into_iter().map(read).collect())
    }

    pub(super) fn with_pieces(&self, changes: Vec<(String, Option<Arc<Piece>>)>) -> Self {
        let mut pieces = self.pieces.clone();
        let mut changed = Vec::new();
        for (name, new) in changes {
            let old = match &new {
                Some(new) => pieces.insert(name.into(), Arc::clone(new)),
                None => pieces.remove(&*name),
            };
            let is_same = |(old, new): (&Arc<Piece>, &Arc<Piece>)| Arc::ptr_eq(old, new);
            if !old.as_ref().zip(new.as_ref()).is_some_and(is_same) {
                changed.push((old, new));
            }
        }
        let together = match self.together.with_slices(&changed) {
            Some(together) => together,
            None => Together::of(&pieces),
        };
        Self { pieces, together }
    }

    /// What all of it says together.
    pub fn loaded(&self) -> Loaded {
        let (mut room, mut problems) = (Room::default(), Vec::new());
        for piece in self.pieces.values() {
            room.take(&mut problems, piece.problems.iter().cloned());
        }
        room.take(&mut problems, self.together.problems.iter().cloned());
        problems.sort_by(|a, b| place_of(a).cmp(&place_of(b)));
        let source = |(name, piece): (&Arc<str>, &Arc<Piece>)| {
            piece.text.as_ref().map(|text| (name.to_string(), Arc::clone(text)))
        };
        let sources = self.pieces.iter().filter_map(source).collect();
        Loaded { config: self.together.config.clone(), problems, sources }
    }
}

fn place_of(problem: &Problem) -> (&str, usize, usize) {
    let place = problem.place.unwrap_or_default();
    (&problem.file, place.line, place.column)
}

impl Piece {
    /// A text that cannot be had.
    pub(super) fn unreadable(problem: Problem) -> Self {
        Self { problems: vec![problem], is_incomplete: true, ..Self::default() }
    }

    /// Nothing, of which something is said.
    pub(super) fn empty(problem: Problem) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }

    fn is_slices_only(&self) -> bool {
        let rest = Config { endpoint_slices: Table::default(), ..self.config.clone() };
        !self.is_incomplete
            && self.references.is_empty()
            && self.accounts.is_empty()
            && self.origins.len() == self.config.endpoint_slices.len()
            && rest == Config::default()
    }
}

/// The services that slices are behind, each as often as it is named.
fn sliced<'p>(pieces: impl Iterator<Item = &'p Arc<Piece>>) -> Vec<Key> {
    let slices = pieces.flat_map(|piece| &piece.config.endpoint_slices);
    let mut sliced: Vec<Key> = slices
        .filter_map(|(key, slice)| Some(Key::new(Arc::clone(&key.namespace), slice.service.clone()?)))
        .collect();
    sliced.sort();
    sliced
}

type Changed = (Option<Arc<Piece>>, Option<Arc<Piece>>);

impl Together {
    /// What is said where nothing but what is in endpoint slices changed; `None` where anything else did.
    fn with_slices(&self, changed: &[Changed]) -> Option<Self> {
        let old = || changed.iter().filter_map(|(old, _)| old.as_ref());
        let new = || changed.iter().filter_map(|(_, new)| new.as_ref());
        let resources = self.resources - old().map(|piece| piece.resources).sum::<usize>()
            + new().map(|piece| piece.resources).sum::<usize>();
        let is_alike = old().chain(new()).all(|piece| piece.is_slices_only())
            && sliced(old()) == sliced(new())
            && self.resources.max(resources) <= MAX_RESOURCES;
        if self.has_duplicates || !is_alike {
            return None;
        }
        let mut together = Self { resources, ..self.clone() };
        let slices = &mut together.config.endpoint_slices;
        for key in old().flat_map(|piece| piece.config.endpoint_slices.keys()) {
            slices.remove(key);
        }
        for (key, slice) in new().flat_map(|piece| &piece.config.endpoint_slices) {
            if slices.insert(key.clone(), Arc::clone(slice)).is_some() {
                return None;
            }
        }
        Some(together)
    }

    fn of(pieces: &BTreeMap<Arc<str>, Arc<Piece>>) -> Self {
        let mut draft = Draft::default();
        for (name, piece) in pieces {
            draft.take(name, piece);
        }
        let mut together = draft.finish();
        locate::at_fields(&mut together.problems, pieces);
        together
    }
}

/// All pieces while they are put together.
#[derive(Default)]
struct Draft<'p> {
    config: Config,
    problems: Vec<Problem>,
    references: Vec<&'p Reference>,
    accounts: BTreeSet<Key>,
    /// Where each resource was first seen, by kind and key.
    origins: BTreeMap<(&'static str, &'p Key), (&'p str, Place)>,
    resources: usize,
    has_duplicates: bool,
    is_incomplete: bool,
}

impl<'p> Draft<'p> {
    fn take(&mut self, file: &'p str, piece: &'p Piece) {
        let before = self.resources;
        self.resources += piece.resources;
        if self.resources > MAX_RESOURCES {
            if before <= MAX_RESOURCES {
                let message = format!("there are more than {MAX_RESOURCES} resources");
                let problem = Problem::error("", "", message, "").of(Code::OverLimit);
                self.problems.push(problem.at(file, None));
            }
            return;
        }
        for (kind, key, place) in &piece.origins {
            self.note_origin(file, kind, key, *place);
        }
        self.config.absorb(&piece.config, before as u64);
        self.references.extend(&piece.references);
        self.accounts.extend(piece.accounts.iter().cloned());
        self.is_incomplete |= piece.is_incomplete;
    }

    fn note_origin(&mut self, file: &'p str, kind: &'static str, key: &'p Key, place: Place) {
        use std::collections::btree_map::Entry;
        match self.origins.entry((kind, key)) {
            Entry::Vacant(entry) => {
                entry.insert((file, place));
            }
            Entry::Occupied(entry) => {
                let (first, line) = (entry.get().0, entry.get().1.line);
                let message = format!("this resource is at {first}:{line} already");
                let fix = "Rename or remove one of them";
                let problem = Problem::error(format!("{kind} {key}"), "metadata.name", message, fix);
                self.problems.push(problem.of(Code::Duplicate).at(file, Some(place)));
                self.has_duplicates = true;
            }
        }
    }

    fn finish(mut self) -> Together {
        references::forbid(&mut self.config);
        traffic_policy::attach_faults(&mut self.config);
        sidecar::settle(&mut self.config);
        if !self.is_incomplete {
            let found = references::check(&self.references, &self.config, &self.accounts);
            self.problems.extend(found);
        }
        let mut found = self.check_peer_authentications();
        found.extend(self.check_hosts());
        found.extend(self.check_selectors());
        if !self.is_incomplete {
            let together = checks::check(&self.config).into_iter();
            found.extend(together.map(|(kind, key, problem)| self.at_origin(kind, &key, problem)));
        }
        self.problems.extend(found);
        let Self { config, problems, has_duplicates, resources, .. } = self;
        Together { config, problems, has_duplicates, resources }
    }

    /// Two resources for the same workloads would leave it to chance which one counts.
    fn check_peer_authentications(&self) -> Vec<Problem> {
        let mut seen: BTreeMap<_, (&Key, &PeerAuthentication)> = BTreeMap::new();
        let mut problems = Vec::new();
        for (key, peer) in &self.config.peer_authentications {
            let (first, earlier) = *seen.entry((&key.namespace, &peer.selector)).or_insert((key, peer));
            if earlier.contradicts(peer) {
                let message = format!("{first} selects the same workloads and says otherwise");
                let problem =
                    Problem::error(format!("PeerAuthentication {key}"), "spec.mtls.mode", message, "")
                        .of(Code::Conflict);
                problems.push(self.at_origin(Kind::PeerAuthentication, key, problem));
            }
        }
        problems
    }

    /// A host has one virtual address, so one entry says where it is.
    fn check_hosts(&self) -> Vec<Problem> {
        let mut seen: BTreeMap<&str, &Key> = BTreeMap::new();
        let mut problems = Vec::new();
        for (key, entry) in &self.config.service_entries {
            for (i, host) in entry.hosts.iter().enumerate() {
                let first = *seen.entry(host).or_insert(key);
                if first != key || entry.hosts[..i].contains(host) {
                    let message = format!("the ServiceEntry {first} has the host {host} already");
                    let field = format!("spec.hosts[{i}]");
                    let fix = "Leave it out of one of them";
                    let within = first.namespace == key.namespace;
                    let code = if within { Code::Duplicate } else { Code::ClaimedTwice };
                    let problem = Problem::error(format!("ServiceEntry {key}"), field, message, fix).of(code);
                    problems.push(self.at_origin(Kind::ServiceEntry, key, problem));
                }
            }
        }
        problems
    }

    /// A service that selects nothing has its endpoints by slices, or none.
    fn check_selectors(&self) -> Vec<Problem> {
        let slices = self.config.endpoint_slices.iter();
        let sliced: BTreeSet<(&str, &str)> =
            slices.filter_map(|(key, slice)| Some((&*key.namespace, slice.service.as_deref()?))).collect();
        let idle = self.config.services.iter().filter(|(key, service)| {
            service.selector.is_empty() && !sliced.contains(&(&*key.namespace, &*key.name))
        });
        idle.map(|(key, _)| {
            let message = "the service selects no workload";
            let fix = "Give it the labels of its workloads";
            let problem = Problem::error(format!("Service {key}"), "spec.selector", message, fix);
            self.at_origin(Kind::Service, key, problem.of(Code::SelectsNothing).warning())
        })
        .collect()
    }

    fn at_origin(&self, kind: Kind, key: &Key, problem: Problem) -> Problem {
        match self.origins.get(&(kind.name(), key)) {
            Some((file, place)) => problem.at(*file, Some(*place)),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, service: &str, address: &str) -> String {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, labels: \
             {{ kubernetes.io/service-name: {service} }} }}\naddressType: IPv4\nendpoints: \
             [{{ addresses: [{address}] }}]\nports: [{{ name: http, port: 80 }}]\n"
        )
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: cart }\nspec: { ports: [{ name: http, port: \
                           80 }] }\n";

    fn put(name: &str, text: impl Into<Arc<str>>) -> (String, Option<Arc<str>>) {
        (name.to_owned(), Some(text.into()))
    }

    /// Candidates and a library that reads everything anew say the same.
    #[test]
    fn changes_of_any_kind_say_what_all_texts_say_together() {
        let mut library = Library::default();
        let mut check = |name: &str, text: Option<String>, problems: usize| {
            library = library.with([(name.to_owned(), text.map(Into::into))]);
            let all = library.loaded();
            let texts = all.sources.iter().map(|(name, text)| put(name, Arc::clone(text)));
            let anew = Library::default().with(texts).loaded();
            assert_eq!(all.problems, anew.problems, "{name}");
            assert_eq!(all.config, anew.config, "{name}");
            assert_eq!(all.problems.len(), problems, "{:?}", all.problems);
        };
        check("a", Some(SERVICE.to_owned()), 1);
        check("b", Some(slice("one", "cart", "10.0.0.1")), 0);
        check("b", Some(slice("one", "cart", "10.0.0.2")), 0);
        check("c", Some(slice("one", "cart", "10.0.0.3")), 1);
        check("c", Some(slice("two", "cart", "10.0.0.3")), 0);
        check("c", Some(slice("one", "cart", "10.0.0.3")), 1);
        check("c", None, 0);
        check("b", None, 1);
        check("b", Some(slice("one", "cart", "10.0.0.2")), 0);
        check("b", Some(slice("one", "tart", "10.0.0.2")), 1);
        check("b", Some("{".to_owned()), 2);
        check("b", None, 1);
    }

    #[test]
    fn a_slice_may_come_from_another_text() {
        let library =
            Library::default().with([put("a", SERVICE), put("b", slice("one", "cart", "10.0.0.1"))]);
        let moved = library.with([("b".to_owned(), None), put("c", slice("one", "cart", "10.0.0.2"))]);
        assert!(library.together.config.services.is_same(&moved.together.config.services));
        let anew = Library::default().with([put("a", SERVICE), put("c", slice("one", "cart", "10.0.0.2"))]);
        assert_eq!(moved.loaded().config, anew.loaded().config);
    }

    #[test]
    fn what_did_not_change_is_not_read_again() {
        let library =
            Library::default().with([put("a", SERVICE), put("b", slice("one", "cart", "10.0.0.1"))]);
        let next = library.with([put("a", SERVICE), put("b", slice("one", "cart", "10.0.0.2"))]);
        assert!(Arc::ptr_eq(&library.pieces["a"], &next.pieces["a"]));
        assert!(library.together.config.services.is_same(&next.together.config.services));
        assert!(library.together.config.endpoint_slices != next.together.config.endpoint_slices);
    }
}

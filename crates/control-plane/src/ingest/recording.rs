//! What a kind's reader asks for: which fields, of which types. The schemas are made of that.
//!
//! The reader's own code is the only list of fields there is. So it is run over a node that gives whatever it is asked
//! for, many times, with other answers each time, so that it comes through all of its branches; the cursor notes each
//! question here. While config is read, nothing is noted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use meshwork_model::problem::Place;

use super::reader::Item;
use super::yaml::{Node, Value};

/// The line of what is only asked for: no text has it.
const LINE: usize = usize::MAX;

/// What is whatever it is asked to be.
static ANYTHING: Node =
    Node { place: Place { line: LINE, column: 0, start: 0, end: 0 }, value: Value::Map(Vec::new()) };

/// Texts of which readers take one or another: names, numbers, paths, durations, addresses, hosts, regular expressions.
const SAMPLES: &[&str] = &[
    "a",
    "1",
    "/a",
    "1s",
    "10.0.0.1",
    "a.example",
    "GET",
    "*",
    "Service",
    "10.0.0.0/8",
    "https://a.example/b",
    "200",
];

/// What a reader takes a node for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    Mapping,
    List,
    Text,
    Boolean,
    /// From, to.
    Integer(i64, i64),
    Number,
    /// A mapping of texts.
    Texts,
    /// A mapping of ports.
    Ports,
    /// A mapping whose keys people choose; what is below stands at the path with `.*`.
    Named,
}

/// What was asked of one path.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) shapes: BTreeSet<Shape>,
    /// The values of a text that has only some.
    pub(crate) values: BTreeSet<&'static str>,
    /// Whether the text's case does not count.
    pub(crate) is_any_case: bool,
    /// The fields of a mapping, and how often each had to be there.
    pub(crate) fields: BTreeMap<&'static str, u64>,
    /// How often it was opened as a mapping.
    pub(crate) opened: u64,
    /// Whether a field that was not asked for is an error.
    pub(crate) is_closed: bool,
}

/// All that was asked, by path.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    run: u64,
    pub(crate) seen: BTreeMap<String, Seen>,
    /// Whether this run asked for something that none did before.
    has_news: bool,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// What is whatever it is asked to be.
pub(crate) fn anything() -> &'static Node {
    &ANYTHING
}

/// Runs a reader again and again until nothing new is asked for; gives all that was.
pub(crate) fn record(mut read: impl FnMut()) -> Recording {
    /// Runs without anything new, after which no more is expected.
    const IDLE: u64 = 400;
    /// The most runs.
    const MOST: u64 = 20_000;
    RECORDING.set(Some(Recording::default()));
    let mut last_news = 0;
    for run in 0..MOST {
        note(|recording| (recording.run, recording.has_news) = (run, false));
        read();
        if note(|recording| recording.has_news).unwrap_or_default() {
            last_news = run;
        }
        if run - last_news > IDLE {
            break;
        }
    }
    RECORDING.take().unwrap_or_default()
}

fn note<T>(what: impl FnOnce(&mut Recording) -> T) -> Option<T> {
    RECORDING.with_borrow_mut(|recording| recording.as_mut().map(what))
}

/// Whether this is only asked for.
pub(crate) fn is_on(place: Place) -> bool {
    place.line == LINE
}

/// Notes what an item is taken for, where it is only asked for; whether it is.
pub(crate) fn saw(item: &Item<'_>, shape: Shape) -> bool {
    saw_at(item.node.place, &item.path, shape)
}

/// The same by place and path.
pub(crate) fn saw_at(place: Place, path: &str, shape: Shape) -> bool {
    if !is_on(place) {
        return false;
    }
    note(|recording| {
        let seen = recording.seen.entry(path.to_owned()).or_default();
        seen.opened += u64::from(shape == Shape::Mapping);
        recording.has_news |= seen.shapes.insert(shape);
    });
    true
}

/// Notes a field of a mapping that is only asked for; whether it is there this time.
pub(crate) fn field(path: &str, name: &'static str, is_required: bool) -> bool {
    note(|recording| {
        let seen = recording.seen.entry(path.to_owned()).or_default();
        recording.has_news |= !seen.fields.contains_key(name);
        *seen.fields.entry(name).or_default() += u64::from(is_required);
        is_required || recording.draws(path, name)
    })
    .unwrap_or_default()
}

/// Notes that a text's case does not count.
pub(crate) fn any_case(place: Place, path: &str) {
    if is_on(place) {
        note(|recording| recording.seen.entry(path.to_owned()).or_default().is_any_case = true);
    }
}

/// Notes that a mapping has no other fields.
pub(crate) fn closed(place: Place, path: &str) {
    if is_on(place) {
        note(|recording| recording.seen.entry(path.to_owned()).or_default().is_closed = true);
    }
}

/// Notes the values that a text may have; gives the index of the one that it has this time.
pub(crate) fn values(path: &str, values: impl ExactSizeIterator<Item = &'static str>) -> usize {
    let count = values.len().max(1);
    let chosen = note(|recording| {
        recording.seen.entry(path.to_owned()).or_default().values.extend(values);
        recording.number("value", path, "")
    });
    usize::try_from(chosen.unwrap_or_default()).unwrap_or_default() % count
}

/// A text for a path.
pub(crate) fn sample(path: &str) -> &'static str {
    let chosen = note(|recording| recording.number("sample", path, "")).unwrap_or_default();
    SAMPLES[usize::try_from(chosen).unwrap_or_default() % SAMPLES.len()]
}

impl Recording {
    /// A number that follows from the run and the question, the same in every build: FNV-1a, mixed once more, since its
    /// low bits alone would repeat from run to run.
    fn number(&self, question: &str, path: &str, name: &str) -> u64 {
        let run = self.run.to_le_bytes();
        let bytes =
            run.iter().chain(question.as_bytes()).chain(path.as_bytes()).chain(b".").chain(name.as_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
    }

    /// Whether a field is there: all are in the first run, and fewer in some runs than in others.
    fn draws(&self, path: &str, name: &str) -> bool {
        self.run == 0 || self.number("there", path, name) % 4 >= self.run % 4
    }
}

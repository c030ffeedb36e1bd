//! Which rules could apply to a request, by what it has.
//!
//! Each rule stands under keys of which a request that it applies to has one (`need`); of several ways to choose them the
//! one by which the fewest rules are found. What has no key is looked at for every request.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Facts;
use super::affix::{Affixes, End};
use super::judge::{applies, each_name};
use super::need::{Counts, Key, Need, Place, Shape, Side, each_text, of_rule};
use crate::cidr::Cidr;
use crate::head::RequestHead;
use crate::proxy::{Rbac, Rule};

/// Rules by what they need.
#[derive(Debug, Default)]
pub struct Index {
    /// Whether they are so few that looking at each is less than looking them up; then the rest is empty.
    is_idle: bool,
    /// Those that need nothing.
    always: Box<[u32]>,
    peer: Texts,
    path: Texts,
    target: Texts,
    host: Texts,
    method: Texts,
    server_name: Texts,
    fields: HashMap<Box<[u8]>, Texts>,
    found: Vec<Found>,
    ports: HashMap<u16, Box<[u32]>>,
    direct: Networks,
    remote: Networks,
    source: Networks,
    destination: Networks,
}

/// Rules by a text that they need.
#[derive(Debug, Default)]
struct Texts {
    /// Those that need any text.
    any: Box<[u32]>,
    exact: HashMap<Box<[u8]>, Box<[u32]>>,
    starts: Option<Affixes>,
    ends: Option<Affixes>,
}

/// Rules by what a filter found out.
#[derive(Debug)]
struct Found {
    filter: Arc<str>,
    path: Arc<[Arc<str>]>,
    texts: Texts,
}

/// Rules by a range that an address needs to be in: for each length that occurs, by network.
#[derive(Debug, Default)]
struct Networks(Vec<(u8, ByNetwork)>);

type ByNetwork = HashMap<IpAddr, Box<[u32]>>;

/// The first rule that applies, of those that were looked at.
struct Search<'r> {
    rules: &'r [Rule],
    facts: &'r Facts<'r>,
    best: u32,
}

/// So many rules are looked at one by one.
pub(super) const FEW: usize = 6;
/// Authorities up to this length are put into lowercase on the stack: all that name a host of DNS and a port.
const SHORT: usize = 264;
/// Up to so many header fields are looked for by name; with more, each field of the request is looked up.
const FEW_FIELDS: usize = 4;
/// The most places among what filters found out that are looked at; what stands elsewhere is no key.
const MOST_FOUND: usize = 8;
/// More rules than there can be: what only keys with this count would find is looked at for every request.
const MANY: u32 = u32::MAX;

/// In how many rules each key occurs.
fn count(needs: &[Need]) -> Counts {
    let mut counts = Counts::new();
    let mut places: Vec<&Place> = Vec::new();
    for need in needs {
        let mut keys = HashSet::new();
        need.each_key(&mut |key| {
            keys.insert(key);
        });
        for key in keys {
            *counts.entry(key.clone()).or_default() += 1;
            if let Key::Text(place @ Place::Found(..), ..) = key
                && !places.contains(&place)
            {
                places.push(place);
            }
        }
    }
    let spare = places.split_at(places.len().min(MOST_FOUND)).1;
    for (key, count) in &mut counts {
        if let Key::Text(place, ..) = key
            && spare.contains(&place)
        {
            *count = MANY;
        }
    }
    counts
}

// === impl Index ===

impl Index {
    /// Looks at rules once, for all requests.
    pub fn of(rbac: &Rbac) -> Self {
        let rules = &rbac.rules;
        if rules.len() <= FEW {
            return Self { is_idle: true, ..Self::default() };
        }
        let needs: Vec<_> = rules.iter().map(of_rule).collect();
        let counts = count(&needs);
        let mut always = Vec::new();
        let mut by_key: HashMap<Key, Vec<u32>> = HashMap::new();
        for (need, at) in needs.iter().zip(0..) {
            let Some((_, keys)) = need.cover(&counts).filter(|(cost, _)| *cost < MANY.into()) else {
                always.push(at);
                continue;
            };
            for key in keys {
                let rules = by_key.entry(key).or_default();
                if rules.last() != Some(&at) {
                    rules.push(at);
                }
            }
        }
        let mut building = Building::default();
        for (key, rules) in by_key {
            building.put(key, rules);
        }
        building.finish(always)
    }

    /// How many rules every request is judged by, since nothing says ahead which requests they could match.
    pub(super) fn unindexed(&self, rules: &[Rule]) -> usize {
        if self.is_idle { rules.len() } else { self.always.len() }
    }

    /// The first rule that applies.
    pub(super) fn first<'r>(&self, rules: &'r [Rule], facts: &Facts<'_>) -> Option<&'r Rule> {
        if self.is_idle || facts.head.is_some_and(|head| head.authority().len() > SHORT) {
            return rules.iter().find(|rule| applies(rule, facts, &mut ()));
        }
        let mut search = Search { rules, facts, best: u32::MAX };
        self.visit(facts, &mut |found| search.look_at(found));
        search.look_at(&self.always);
        rules.get(usize::try_from(search.best).ok()?)
    }

    /// Visits the rules of every key that is there.
    fn visit(&self, facts: &Facts<'_>, visit: &mut impl FnMut(&[u32])) {
        if !self.peer.is_empty() {
            each_name(facts, |name| self.peer.visit(name, visit));
        }
        if !self.server_name.is_empty() {
            self.server_name.visit(facts.server_name.unwrap_or_default().as_bytes(), visit);
        }
        if let Some(rules) = self.ports.get(&facts.destination_port) {
            visit(rules);
        }
        self.direct.visit(facts.direct, visit);
        self.remote.visit(facts.remote, visit);
        self.source.visit(facts.source, visit);
        self.destination.visit(facts.destination, visit);
        for Found { filter, path, texts } in &self.found {
            if let Some(value) = facts.metadata.and_then(|metadata| metadata.find(filter, path)) {
                each_text(value, &mut |text| texts.visit(text, visit));
            }
        }
        if let Some(head) = facts.head {
            self.visit_head(head, visit);
        }
    }

    fn visit_head(&self, head: &RequestHead, visit: &mut impl FnMut(&[u32])) {
        self.path.visit(head.path(), visit);
        self.method.visit(head.method(), visit);
        if !head.path_and_query().is_empty() {
            self.target.visit(head.path_and_query(), visit);
        }
        let mut lower = [0; SHORT];
        if let Some(host) = lower.get_mut(..head.authority().len()).filter(|_| !self.host.is_empty()) {
            host.copy_from_slice(head.authority());
            host.make_ascii_lowercase();
            self.host.visit(host, visit);
        }
        if self.fields.len() <= FEW_FIELDS {
            for (name, texts) in &self.fields {
                head.fields.all(name).for_each(|value| texts.visit(value, visit));
            }
        } else {
            for (name, value) in head.fields.iter() {
                if let Some(texts) = self.fields.get(name) {
                    texts.visit(value, visit);
                }
            }
        }
    }
}

impl Search<'_> {
    /// Looks at rules in their order, up to the best one so far.
    fn look_at(&mut self, found: &[u32]) {
        for at in found.iter().copied().take_while(|at| *at < self.best) {
            let rule = usize::try_from(at).ok().and_then(|at| self.rules.get(at));
            if rule.is_some_and(|rule| applies(rule, self.facts, &mut ())) {
                self.best = at;
                return;
            }
        }
    }
}

// === impl Texts ===

impl Texts {
    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.exact.is_empty() && self.starts.is_none() && self.ends.is_none()
    }

    fn visit(&self, text: &[u8], visit: &mut impl FnMut(&[u32])) {
        if !self.any.is_empty() {
            visit(&self.any);
        }
        if let Some(rules) = self.exact.get(text) {
            visit(rules);
        }
        for affixes in [&self.starts, &self.ends].into_iter().flatten() {
            affixes.visit(text, visit);
        }
    }
}

// === impl Networks ===

impl Networks {
    fn visit(&self, address: Option<IpAddr>, visit: &mut impl FnMut(&[u32])) {
        let Some(address) = address.map(|address| address.to_canonical()) else { return };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        for (length, networks) in self.0.iter().filter(|(length, _)| *length <= bits) {
            let network = Cidr::new(address, u32::from(*length)).network();
            if let Some(rules) = networks.get(&network) {
                visit(rules);
            }
        }
    }

    fn put(&mut self, range: Cidr, rules: Vec<u32>) {
        let at = self.0.iter().position(|(length, _)| *length == range.length()).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((range.length(), HashMap::new()));
        }
        self.0[at].1.insert(range.network(), rules.into());
    }
}

// === building ===

/// An index, while keys come in any order.
#[derive(Default)]
struct Building {
    index: Index,
    texts: HashMap<Place, Gathered>,
}

/// The texts of a place.
#[derive(Default)]
struct Gathered {
    texts: Texts,
    starts: Vec<(Box<[u8]>, Vec<u32>)>,
    ends: Vec<(Box<[u8]>, Vec<u32>)>,
}

impl Building {
    /// Puts rules, sorted, under a key that was not there.
    fn put(&mut self, key: Key, rules: Vec<u32>) {
        let index = &mut self.index;
        match key {
            Key::Port(port) => drop(index.ports.insert(port, rules.into())),
            Key::Address(Side::Direct, range) => index.direct.put(range, rules),
            Key::Address(Side::Remote, range) => index.remote.put(range, rules),
            Key::Address(Side::Source, range) => index.source.put(range, rules),
            Key::Address(Side::Destination, range) => index.destination.put(range, rules),
            Key::Text(place, shape, text) => {
                let gathered = self.texts.entry(place).or_default();
                match shape {
                    Shape::Any => gathered.texts.any = rules.into(),
                    Shape::Exact => drop(gathered.texts.exact.insert(text, rules.into())),
                    Shape::Start => gathered.starts.push((text, rules)),
                    Shape::End => gathered.ends.push((text, rules)),
                }
            }
        }
    }

    fn finish(self, always: Vec<u32>) -> Index {
        let Self { mut index, texts } = self;
        index.always = always.into();
        for (place, gathered) in texts {
            let texts = gathered.finish();
            match place {
                Place::Peer => index.peer = texts,
                Place::Path => index.path = texts,
                Place::Target => index.target = texts,
                Place::Host => index.host = texts,
                Place::Method => index.method = texts,
                Place::ServerName => index.server_name = texts,
                Place::Field(name) => drop(index.fields.insert(name.as_bytes().into(), texts)),
                Place::Found(filter, path) => index.found.push(Found { filter, path, texts }),
            }
        }
        index
    }
}

impl Gathered {
    fn finish(self) -> Texts {
        let affixes = |end, texts: Vec<_>| (!texts.is_empty()).then(|| Affixes::of(end, texts));
        let (starts, ends) = (affixes(End::Start, self.starts), affixes(End::Back, self.ends));
        Texts { starts, ends, ..self.texts }
    }
}

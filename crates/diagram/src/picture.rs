//! What is drawn of a topology: a bounded number of nodes and lines, in a fixed order.
//!
//! A large mesh folds: replicas of one application and version into a node, then the pods of a namespace into a node,
//! then the smallest namespaces into a node. Written by [`Picture::of`], read by the writers of text.

use std::collections::{BTreeMap, BTreeSet};

use crate::measure::Sum;
use crate::topology::{Edge, End, Pod, Protocol, Topology, Traffic};

/// Pods, or what they are folded into, that are drawn at most: with more, a README's width leaves no room for names.
pub(crate) const NODES: usize = 24;

/// Services and outsiders that are drawn one by one at most; the rest share a node.
pub(crate) const OTHERS: usize = 12;

/// Lines of traffic that are drawn at most, the busiest: more than this nobody can follow, and GitHub draws no picture
/// of more than 500 lines.
pub(crate) const LINES: usize = 60;

/// What is drawn.
pub(crate) struct Picture<'a> {
    /// The nodes, in the order to be written; lines name them by index.
    pub(crate) nodes: Vec<Node<'a>>,
    /// The lines of traffic, in the order to be written.
    pub(crate) lines: Vec<Line>,
    /// How many lines were left out.
    pub(crate) left_out: usize,
}

/// A node of the data plane.
pub(crate) struct Node<'a> {
    /// The namespace it stands in; empty for none.
    pub(crate) namespace: &'a str,
    /// Whether it stands within the trust boundary.
    pub(crate) trusted: bool,
    /// What it is.
    pub(crate) shape: Shape<'a>,
    /// The traffic among the pods that are folded into it.
    pub(crate) inside: Sum,
}

/// What a node stands for.
pub(crate) enum Shape<'a> {
    /// One pod.
    Pod(&'a Pod),
    /// Several pods of one application and version.
    Replicas { app: &'a str, version: &'a str, pods: usize, proxies: usize },
    /// The pods of a namespace.
    Namespace { pods: usize, proxies: usize },
    /// The pods of several namespaces.
    Namespaces { namespaces: usize, pods: usize, proxies: usize },
    /// A service of several pods, or of none.
    Service { name: &'a str, pods: usize },
    /// Somebody outside the mesh.
    Outsider(&'a str),
    /// Services and outsiders past the limit.
    Others(usize),
}

/// A line between two nodes.
pub(crate) struct Line {
    /// The caller's index.
    pub(crate) from: usize,
    /// The called one's index.
    pub(crate) to: usize,
    /// What it carries.
    pub(crate) kind: LineKind,
}

/// What a line carries.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum LineKind {
    /// Calls.
    Calls { protocol: Protocol, mtls: bool, denied: bool, weight: Option<u32>, traffic: Option<Traffic> },
    /// A service's choice among its pods.
    Choice,
}

/// Where a pod is drawn; the order is that of the picture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seat<'a> {
    trusted: bool,
    namespace: &'a str,
    fold: Fold<'a>,
}

/// What a pod is drawn with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fold<'a> {
    Pod(&'a str),
    Replicas(&'a str, &'a str),
    Namespace,
    Rest,
}

/// An end of an edge that is no pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Other<'a> {
    Service(&'a str, &'a str),
    Outsider(&'a str),
}

/// The lines that are one: between the same nodes, of the same look.
type LineKey = (usize, usize, Protocol, bool, bool);

impl<'a> Picture<'a> {
    /// Decides what is drawn of a topology.
    pub(crate) fn of(topology: &'a Topology) -> Self {
        let pods: BTreeSet<&Pod> = topology.pods.iter().collect();
        let mut places = Places::default();
        for (seat, pods) in seats(&pods) {
            places.seat_pods(seat, &pods);
        }
        places.seat_others(topology);
        let (lines, left_out) = lines(topology, &mut places);
        Self { nodes: places.nodes, lines, left_out }
    }
}

/// Groups pods by what they are drawn with: the finest fold that keeps to the limit.
fn seats<'a>(pods: &BTreeSet<&'a Pod>) -> BTreeMap<Seat<'a>, Vec<&'a Pod>> {
    let alone = grouped(pods, |pod| Fold::Pod(&pod.name));
    if alone.len() <= NODES {
        return alone;
    }
    let replicas = grouped(pods, |pod| match pod.app.as_str() {
        "" => Fold::Pod(&pod.name),
        app => Fold::Replicas(app, &pod.version),
    });
    if replicas.len() <= NODES {
        return replicas;
    }
    with_rest(grouped(pods, |_| Fold::Namespace))
}

fn grouped<'a>(
    pods: &BTreeSet<&'a Pod>,
    fold: impl Fn(&'a Pod) -> Fold<'a>,
) -> BTreeMap<Seat<'a>, Vec<&'a Pod>> {
    let mut groups: BTreeMap<Seat<'a>, Vec<&'a Pod>> = BTreeMap::new();
    for &pod in pods {
        let seat = Seat { trusted: !pod.identity.is_empty(), namespace: &pod.namespace, fold: fold(pod) };
        groups.entry(seat).or_default().push(pod);
    }
    groups
}

/// Folds the smallest namespaces into one node (one on each side of the trust boundary) where they are too many.
fn with_rest<'a>(groups: BTreeMap<Seat<'a>, Vec<&'a Pod>>) -> BTreeMap<Seat<'a>, Vec<&'a Pod>> {
    if groups.len() <= NODES {
        return groups;
    }
    let mut by_size: Vec<(Seat<'a>, Vec<&'a Pod>)> = groups.into_iter().collect();
    by_size.sort_by(|(a_seat, a), (b_seat, b)| b.len().cmp(&a.len()).then(a_seat.cmp(b_seat)));
    let rest = by_size.split_off(NODES - 2);
    let mut kept: BTreeMap<Seat<'a>, Vec<&'a Pod>> = by_size.into_iter().collect();
    for (seat, pods) in rest {
        kept.entry(Seat { namespace: "", fold: Fold::Rest, ..seat }).or_default().extend(pods);
    }
    kept
}

/// The nodes, and which of them draws whom.
#[derive(Default)]
struct Places<'a> {
    nodes: Vec<Node<'a>>,
    pods: BTreeMap<(&'a str, &'a str), usize>,
    others: BTreeMap<Other<'a>, usize>,
    choices: Vec<Line>,
}

impl<'a> Places<'a> {
    fn seat_pods(&mut self, seat: Seat<'a>, pods: &[&'a Pod]) {
        let count = pods.len();
        let proxies = pods.iter().filter(|pod| pod.proxy.is_beside()).count();
        let shape = match (seat.fold, pods) {
            (Fold::Pod(_) | Fold::Replicas(..), [pod]) => Shape::Pod(pod),
            (Fold::Pod(app), _) => Shape::Replicas { app, version: "", pods: count, proxies },
            (Fold::Replicas(app, version), _) => Shape::Replicas { app, version, pods: count, proxies },
            (Fold::Namespace, _) => Shape::Namespace { pods: count, proxies },
            (Fold::Rest, _) => {
                let namespaces: BTreeSet<&str> = pods.iter().map(|pod| pod.namespace.as_str()).collect();
                Shape::Namespaces { namespaces: namespaces.len(), pods: count, proxies }
            }
        };
        let index = self.add(seat.namespace, seat.trusted, shape);
        for pod in pods {
            self.pods.entry((&pod.namespace, &pod.name)).or_insert(index);
        }
    }

    fn add(&mut self, namespace: &'a str, trusted: bool, shape: Shape<'a>) -> usize {
        self.nodes.push(Node { namespace, trusted, shape, inside: Sum::default() });
        self.nodes.len() - 1
    }

    /// Seats the services and outsiders that edges name.
    fn seat_others(&mut self, topology: &'a Topology) {
        let services = service_nodes(topology, &self.pods);
        let mut others: BTreeSet<Other<'a>> = BTreeSet::new();
        for end in topology.edges.iter().flat_map(|edge| [&edge.from, &edge.to]) {
            let Some(other) = self.other(end) else { continue };
            let chosen = match other {
                Other::Service(namespace, name) => services.get(&(namespace, name)),
                Other::Outsider(_) => None,
            };
            // A service whose pods are one node is that node.
            match chosen.map(|nodes| nodes.iter().collect::<Vec<_>>()).as_deref() {
                Some([only]) => drop(self.others.insert(other, **only)),
                _ => drop(others.insert(other)),
            }
        }
        let shared = others.len().saturating_sub(OTHERS);
        for &other in others.iter().take(OTHERS) {
            let index = self.add_other(other, &services);
            self.others.insert(other, index);
        }
        if shared > 0 {
            let index = self.add("", false, Shape::Others(shared));
            self.others.extend(others.into_iter().skip(OTHERS).map(|other| (other, index)));
        }
    }

    fn add_other(
        &mut self,
        other: Other<'a>,
        services: &BTreeMap<(&'a str, &'a str), BTreeSet<usize>>,
    ) -> usize {
        let (namespace, name) = match other {
            Other::Service(namespace, name) => (namespace, name),
            Other::Outsider(name) => return self.add("", false, Shape::Outsider(name)),
        };
        let nodes = services.get(&(namespace, name)).cloned().unwrap_or_default();
        let index = self.add(namespace, true, Shape::Service { name, pods: nodes.len() });
        self.choices.extend(nodes.into_iter().map(|to| Line { from: index, to, kind: LineKind::Choice }));
        index
    }

    /// Returns an end that is no pod.
    fn other(&self, end: &'a End) -> Option<Other<'a>> {
        match end {
            End::Pod { namespace, name } if self.pods.contains_key(&(namespace.as_str(), name.as_str())) => {
                None
            }
            End::Pod { name, .. } | End::Outside(name) => Some(Other::Outsider(name)),
            End::Service { namespace, name } => Some(Other::Service(namespace, name)),
        }
    }

    /// Returns the node that draws an end.
    fn node(&self, end: &'a End) -> Option<usize> {
        match (self.other(end), end) {
            (Some(other), _) => self.others.get(&other).copied(),
            (None, End::Pod { namespace, name }) => {
                self.pods.get(&(namespace.as_str(), name.as_str())).copied()
            }
            (None, _) => None,
        }
    }
}

/// Returns which nodes draw the pods of each service.
fn service_nodes<'a>(
    topology: &'a Topology,
    pods: &BTreeMap<(&'a str, &'a str), usize>,
) -> BTreeMap<(&'a str, &'a str), BTreeSet<usize>> {
    let mut found: BTreeMap<(&str, &str), BTreeSet<usize>> = BTreeMap::new();
    for service in &topology.services {
        let nodes =
            service.pods.iter().filter_map(|pod| pods.get(&(service.namespace.as_str(), pod.as_str())));
        found.entry((&service.namespace, &service.name)).or_default().extend(nodes);
    }
    found
}

/// Returns the lines to be drawn, and how many are left out.
fn lines<'a>(topology: &'a Topology, places: &mut Places<'a>) -> (Vec<Line>, usize) {
    let mut drawn: BTreeMap<LineKey, Vec<&Edge>> = BTreeMap::new();
    for edge in in_order(&topology.edges) {
        let (Some(from), Some(to)) = (places.node(&edge.from), places.node(&edge.to)) else { continue };
        if from != to {
            drawn.entry((from, to, edge.protocol, edge.mtls, edge.denied)).or_default().push(edge);
        } else if let Some(traffic) = &edge.traffic {
            places.nodes[from].inside.add(traffic);
        }
    }
    let mut lines: Vec<Line> = drawn.iter().map(|(key, edges)| line(key, edges)).collect();
    lines.append(&mut places.choices);
    let left_out = lines.len().saturating_sub(LINES);
    if left_out > 0 {
        lines.sort_by(|a, b| b.importance().total_cmp(&a.importance()));
        lines.truncate(LINES);
    }
    lines.sort_by_key(|line| (line.from, line.to));
    (lines, left_out)
}

/// Sorts edges, by their measurements too: a sum of floating-point numbers depends on the order.
fn in_order(edges: &[Edge]) -> Vec<&Edge> {
    let measured =
        |edge: &Edge| edge.traffic.map_or((-1.0, 0.0), |traffic| (traffic.per_second, traffic.success));
    let mut sorted: Vec<&Edge> = edges.iter().collect();
    sorted.sort_by(|a, b| {
        let ((a_rate, a_success), (b_rate, b_success)) = (measured(a), measured(b));
        (&a.from, &a.to)
            .cmp(&(&b.from, &b.to))
            .then(a_rate.total_cmp(&b_rate))
            .then(a_success.total_cmp(&b_success))
    });
    sorted
}

fn line(&(from, to, protocol, mtls, denied): &LineKey, edges: &[&Edge]) -> Line {
    let mut sum = Sum::default();
    edges.iter().filter_map(|edge| edge.traffic.as_ref()).for_each(|traffic| sum.add(traffic));
    let weight = if let [edge] = edges { edge.weight } else { None };
    Line { from, to, kind: LineKind::Calls { protocol, mtls, denied, weight, traffic: sum.traffic() } }
}

impl Line {
    /// What is denied is always worth a line, then what is busiest.
    fn importance(&self) -> f64 {
        match self.kind {
            LineKind::Calls { denied: true, .. } => f64::INFINITY,
            LineKind::Calls { traffic, .. } => traffic.map_or(0.0, |traffic| traffic.per_second),
            LineKind::Choice => f64::MAX,
        }
    }
}

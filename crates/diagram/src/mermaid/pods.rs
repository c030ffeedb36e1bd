//! The data plane: pods within the trust boundary, who stands outside, and the calls between them.

use std::collections::BTreeSet;

use super::escape::label;
use super::sheet::{Length, Sheet, Stroke};
use super::{MONITORED, counted, frames};
use crate::measure::{duration, rate, share};
use crate::picture::{LineKind, Node, Picture, Shape};
use crate::topology::{Pod, Protocol, Proxy, Sync, Topology};

/// A line is drawn as failing when fewer succeed: past it something is wrong, not just unlucky.
const HEALTHY: f64 = 0.99;

/// Characters of a config version that are shown; as many as of a commit.
const VERSION_CHARACTERS: usize = 8;

/// What was drawn, for the legend.
#[derive(Default)]
pub(super) struct Drawn {
    /// The looks of the lines of calls.
    pub(super) strokes: BTreeSet<Stroke>,
    /// Whether any monitoring point is drawn.
    pub(super) monitored: bool,
}

/// Whether names say their namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// All nodes are of one namespace.
    Alone,
    /// Several namespaces are drawn. They have no frames: a frame's title would be crossed by the calls that enter it.
    WithNamespace,
}

impl Names {
    fn of(picture: &Picture<'_>) -> Self {
        let namespaces = picture.nodes.iter().map(|node| node.namespace).filter(|name| !name.is_empty());
        if namespaces.collect::<BTreeSet<_>>().len() > 1 { Self::WithNamespace } else { Self::Alone }
    }

    /// Returns the namespace where it is to be said, else nothing.
    fn namespace<'a>(self, node: &Node<'a>) -> &'a str {
        if self == Self::WithNamespace { node.namespace } else { "" }
    }
}

/// Where a node's lines end.
struct Port {
    id: String,
    /// Whether it is a proxy with its application below.
    framed: bool,
}

/// Writes the data plane.
pub(super) fn data_plane(sheet: &mut Sheet, topology: &Topology, picture: &Picture<'_>) -> Drawn {
    let mut drawn = Drawn::default();
    let ports: Vec<Port> = picture.nodes.iter().map(|node| port(sheet, node)).collect();
    let names = Names::of(picture);
    let nodes: Vec<(&Node<'_>, &Port)> = picture.nodes.iter().zip(&ports).collect();
    drawn.monitored = topology.proxies() > 0;
    sheet.frame("data_plane", "<b>Data plane</b>", frames::DATA, |sheet| {
        sheet.row("direction TB");
        for (node, port) in nodes.iter().filter(|(node, _)| !node.trusted) {
            write_node(sheet, node, port, names);
        }
        sheet.frame("trust_boundary", &boundary(topology, picture), frames::TRUST, |sheet| {
            sheet.row("direction TB");
            if !nodes.iter().any(|(node, _)| node.trusted) {
                sheet.node("nobody", "No workload has joined yet", "other");
            }
            for (node, port) in nodes.iter().filter(|(node, _)| node.trusted) {
                write_node(sheet, node, port, names);
            }
        });
        for line in &picture.lines {
            let (from, to) = (&ports[line.from], &ports[line.to]);
            let stroke = stroke(line.kind);
            let length = if from.framed || to.framed { Length::Long } else { Length::Short };
            sheet.line(&from.id, &to.id, stroke, length, &calls(line.kind));
            drawn.strokes.insert(stroke);
        }
    });
    drawn
}

/// Writes the trust boundary's title; it also tells of lines left out, since those are nearly all within it.
fn boundary(topology: &Topology, picture: &Picture<'_>) -> String {
    let domain = label(&topology.trust_domain);
    let left_out = match picture.left_out {
        0 => String::new(),
        count => counted(count, "quieter line not drawn", "quieter lines not drawn"),
    };
    let parts = ["Trust boundary", "mTLS", &domain, &left_out];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// Names a node.
fn port(sheet: &mut Sheet, node: &Node<'_>) -> Port {
    let namespace = node.namespace;
    let mut plain = |prefix: &str, texts: &[&str]| Port { id: sheet.ids.make(prefix, texts), framed: false };
    match &node.shape {
        Shape::Pod(pod) if pod.proxy.is_beside() => {
            Port { framed: true, ..plain("proxy", &[namespace, &pod.name]) }
        }
        Shape::Pod(pod) => plain("app", &[namespace, &pod.name]),
        Shape::Replicas { app, version, .. } => plain("replicas", &[namespace, app, version]),
        Shape::Namespace { .. } => plain("pods", &[namespace]),
        Shape::Namespaces { .. } => plain("pods", &["of", "other", "namespaces"]),
        Shape::Service { name, .. } => plain("service", &[namespace, name]),
        Shape::Outsider(name) => plain("outside", &[name]),
        Shape::Others(_) => plain("outside", &["others"]),
    }
}

fn write_node(sheet: &mut Sheet, node: &Node<'_>, port: &Port, names: Names) {
    let namespace = names.namespace(node);
    match &node.shape {
        Shape::Pod(pod) if pod.proxy.is_beside() => write_pod(sheet, pod, port, namespace),
        Shape::Pod(pod) => sheet.node(&port.id, &proxyless(pod, namespace), "proxyless"),
        Shape::Replicas { app, version, pods, proxies } => {
            let name = label(format!("{app} {version}").trim());
            sheet.node(&port.id, &folded(&name, namespace, *pods, *proxies, node), fold_class(*proxies));
        }
        Shape::Namespace { pods, proxies } => {
            let name = label(node.namespace);
            sheet.node(&port.id, &folded(&name, "namespace", *pods, *proxies, node), fold_class(*proxies));
        }
        Shape::Namespaces { namespaces, pods, proxies } => {
            let name = counted(*namespaces, "more namespace", "more namespaces");
            sheet.node(&port.id, &folded(&name, "", *pods, *proxies, node), fold_class(*proxies));
        }
        Shape::Service { name, pods } => {
            let what = if *pods == 0 { "service without workloads" } else { "service" };
            let text = format!("{}{}", label(name), small(&[namespace, what]));
            sheet.row(&format!("{}([\"{text}\"]):::other", port.id));
        }
        Shape::Outsider(name) => {
            let name = if name.is_empty() { "unknown" } else { name };
            sheet.node(&port.id, &format!("{}{}", label(name), small(&["outside the mesh"])), "other");
        }
        Shape::Others(count) => sheet.node(&port.id, &counted(*count, "other", "others"), "other"),
    }
}

/// Writes a row of small print below a name, of the texts that are not empty.
fn small(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().filter(|text| !text.is_empty()).map(|text| label(text)).collect();
    if texts.is_empty() { String::new() } else { format!("<br/><small>{}</small>", texts.join(" · ")) }
}

/// Writes a pod: its proxy above its application, in a frame without a title.
fn write_pod(sheet: &mut Sheet, pod: &Pod, port: &Port, namespace: &str) {
    let texts = [pod.namespace.as_str(), &pod.name];
    let (frame, app) = (sheet.ids.make("pod", &texts), sheet.ids.make("app", &texts));
    let in_trouble = matches!(pod.sync, Sync::Refusing | Sync::Disconnected);
    sheet.pod(&frame, |sheet| {
        sheet.node(&port.id, &proxy(pod), if in_trouble { "trouble" } else { "proxy" });
        sheet.node(&app, &application(pod, namespace), "app");
        sheet.both_ways(&port.id, &app, Stroke::Inner);
    });
}

fn proxy(pod: &Pod) -> String {
    let name = match pod.proxy {
        Proxy::Meshwork => "meshwork",
        Proxy::Envoy => "envoy",
        Proxy::Proxyless => "gRPC",
    };
    let version: String = pod.config_version.chars().take(VERSION_CHARACTERS).collect();
    let state = match pod.sync {
        Sync::Refusing => "refuses config".to_owned(),
        Sync::Disconnected => "not connected".to_owned(),
        _ if version.is_empty() => String::new(),
        _ => format!("config {version}"),
    };
    format!("{MONITORED} {name}{}", small(&[&state]))
}

/// Writes an application: the pod's name, and what the name does not tell.
fn application(pod: &Pod, namespace: &str) -> String {
    let untold = |text: &str| if pod.name.contains(text) { String::new() } else { text.to_owned() };
    let (app, version) = (untold(&pod.app), untold(&pod.version));
    let details = small(&[namespace, &app, &version]);
    format!("<b>{}</b>{details}{}", label(&pod.name), small(&[&pod.address]))
}

fn proxyless(pod: &Pod, namespace: &str) -> String {
    let state = match pod.sync {
        Sync::Refusing => "refuses config",
        Sync::Disconnected => "not connected",
        Sync::Current | Sync::Unknown => "",
    };
    format!("{}{}", application(pod, namespace), small(&["proxyless gRPC", state]))
}

/// Writes what several pods are folded into: name, counts, the traffic among them. `name` is escaped already.
fn folded(name: &str, what: &str, pods: usize, proxies: usize, node: &Node<'_>) -> String {
    let mark = if proxies > 0 { format!("{MONITORED} ") } else { String::new() };
    let pods_text = counted(pods, "pod", "pods");
    let proxies_text = if proxies < pods { counted(proxies, "proxy", "proxies") } else { String::new() };
    let inside = node.inside.traffic().map_or(String::new(), |traffic| {
        let rate = rate(traffic.per_second, Protocol::Http);
        format!("<br/><small>inside: {rate} · {}</small>", share(traffic.success))
    });
    format!("{mark}<b>{name}</b>{}{inside}", small(&[what, &pods_text, &proxies_text]))
}

fn fold_class(proxies: usize) -> &'static str {
    if proxies > 0 { "proxy" } else { "proxyless" }
}

fn stroke(kind: LineKind) -> Stroke {
    match kind {
        LineKind::Choice => Stroke::Inner,
        LineKind::Calls { denied: true, .. } => Stroke::Denied,
        LineKind::Calls { mtls: false, .. } => Stroke::Plaintext,
        LineKind::Calls { traffic: Some(traffic), .. }
            if traffic.per_second > 0.0 && traffic.success < HEALTHY =>
        {
            Stroke::Failing
        }
        LineKind::Calls { .. } => Stroke::Calls,
    }
}

/// Writes a line's label: protocol and rate; success and median below.
fn calls(kind: LineKind) -> String {
    let LineKind::Calls { protocol, mtls, denied, weight, traffic } = kind else { return String::new() };
    let rate = traffic.map(|traffic| rate(traffic.per_second, protocol));
    let weight = weight.filter(|_| traffic.is_none()).map(|weight| format!("{}%", weight.min(100)));
    let first: Vec<String> = [Some(protocol.to_string()), rate, weight].into_iter().flatten().collect();
    let busy = traffic.filter(|traffic| traffic.per_second > 0.0);
    let second = if denied {
        vec!["denied".to_owned()]
    } else {
        let success = busy.map(|traffic| share(traffic.success));
        let median = busy.and_then(|traffic| duration(traffic.p50_ms?));
        let plaintext = (!mtls).then(|| "plaintext".to_owned());
        [success, median, plaintext].into_iter().flatten().collect()
    };
    let rows = [first.join(" · "), second.join(" · ")];
    rows.into_iter().filter(|row| !row.is_empty()).collect::<Vec<_>>().join("<br/>")
}

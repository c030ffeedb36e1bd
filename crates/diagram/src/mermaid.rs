//! Mermaid flowchart text: what is written, in which order, in which colours.
//!
//! The layout is Mermaid's own (dagre); what is done here to help it was found by looking at pictures. A proxy stands
//! above its application, and lines of calls are three ranks long, so that the next pods begin below the calling
//! pod's frame. A pod's frame has no title, because the calls that enter it from above would cross it: the name stands
//! on the application. Config, certificates and telemetry are drawn to the data plane as a whole: a line to each proxy
//! would hide the traffic.

mod escape;
mod legend;
mod pods;
mod sheet;

use crate::picture::Picture;
use crate::topology::{ControlPlane, MeshType, Observability, Topology};
use escape::{label, title};
use sheet::{Length, Sheet, Stroke};

/// What a monitoring point is marked with.
const MONITORED: &str = "◉";

/// The fill, border and text of each kind of node, and of a pod's frame. The text's colour is given too: GitHub's dark
/// theme would write light text on these light fills.
const CLASSES: [(&str, &str); 9] = [
    ("control", "fill:#e3f2fd,stroke:#1565c0,color:#0d2a4a"),
    ("app", "fill:#c8e6c9,stroke:#2e7d32,color:#12351a"),
    ("proxy", "fill:#fff3e0,stroke:#ef6c00,color:#4a2500"),
    ("proxyless", "fill:#c8e6c9,stroke:#ef6c00,color:#12351a,stroke-width:2px"),
    ("trouble", "fill:#ffebee,stroke:#c62828,color:#7f0000,stroke-width:2px,stroke-dasharray:4 3"),
    ("obs", "fill:#f3e5f5,stroke:#7b1fa2,color:#2f0b3f"),
    ("other", "fill:#eceff1,stroke:#607d8b,color:#263238"),
    ("key", "fill:#ffffff,stroke:#90a4ae,color:#37474f"),
    ("pod", "fill:#ffffff,stroke:#b0bec5,color:#263238"),
];

/// The look of the large frames.
mod frames {
    pub(super) const CONTROL: &str = "fill:#f5faff,stroke:#1565c0,color:#0d2a4a";
    pub(super) const DATA: &str = "fill:#fafafa,stroke:#90a4ae,color:#263238";
    pub(super) const OBSERVABILITY: &str = "fill:#fcf7fd,stroke:#7b1fa2,color:#2f0b3f";
    pub(super) const TRUST: &str =
        "fill:#f4fbfb,stroke:#00838f,color:#004d54,stroke-width:2px,stroke-dasharray:8 4";
    pub(super) const LEGEND: &str = "fill:#ffffff,stroke:#b0bec5,color:#37474f";
}

/// Draws a topology as a Mermaid flowchart that GitHub renders.
///
/// Text from the topology stands in it as text, whatever it contains.
pub fn mermaid(topology: &Topology) -> String {
    let picture = Picture::of(topology);
    let mut sheet = Sheet::default();
    front_matter(&mut sheet, topology);
    control_plane(&mut sheet, &topology.control);
    let drawn = pods::data_plane(&mut sheet, topology, &picture);
    observability(&mut sheet, &topology.observability);
    let legend = legend::legend(&mut sheet, topology, &drawn);
    paths(&mut sheet, topology, legend);
    for (class, style) in CLASSES {
        sheet.row(&format!("classDef {class} {style}"));
    }
    sheet.finish()
}

/// Writes the title and the layout's distances: Mermaid's own would make the picture half as wide again, and a README
/// would shrink it, text and all. Labels stand on white, with dark text, in every theme.
fn front_matter(sheet: &mut Sheet, topology: &Topology) {
    sheet.row("---");
    sheet.row(&format!("title: \"{}\"", title(&headline(topology))));
    let settings = [
        "config:",
        "  flowchart:",
        "    nodeSpacing: 20",
        "    rankSpacing: 20",
        "    padding: 8",
        "    subGraphTitleMargin:",
        "      top: 2",
        "      bottom: 12",
        "  themeVariables:",
        "    edgeLabelBackground: \"#ffffff\"",
        "---",
        "flowchart TB",
    ];
    for row in settings {
        sheet.row(row);
    }
    sheet.indent();
}

/// Says what is drawn: trust domain, mesh type, platform, scale, features.
fn headline(topology: &Topology) -> String {
    let (pods, proxies) = (topology.pods.len(), topology.proxies());
    let kind = match topology.mesh_type() {
        MeshType::Mixed => "sidecar and proxyless mesh".to_owned(),
        kind => format!("{kind} mesh"),
    };
    let place = if topology.platform.is_empty() { kind } else { format!("{kind} on {}", topology.platform) };
    let scale = match topology.mesh_type() {
        MeshType::Empty => String::new(),
        MeshType::Sidecar => format!("{} ({})", topology.scale(), counted(proxies, "proxy", "proxies")),
        MeshType::Proxyless => format!("{} ({})", topology.scale(), counted(pods, "workload", "workloads")),
        MeshType::Mixed => {
            format!(
                "{} ({}, {})",
                topology.scale(),
                counted(pods, "workload", "workloads"),
                counted(proxies, "proxy", "proxies")
            )
        }
    };
    let state = if topology.live { "" } else { "as configured" };
    let parts = [&topology.trust_domain, &place, &scale, &topology.features.join(", "), state];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// Writes a number of things.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Writes a component: its name, and its detail in small print.
fn component(name: &str, detail: &str) -> String {
    if detail.is_empty() { name.to_owned() } else { format!("{name}<br/><small>{}</small>", label(detail)) }
}

fn control_plane(sheet: &mut Sheet, control: &ControlPlane) {
    let components = [
        ("config_api", "Config API", &control.config_api),
        ("config_store", "Config store", &control.config_store),
        ("discovery", "Service discovery", &control.discovery),
        ("authority", "Certificate authority", &control.certificate_authority),
    ];
    let connections =
        [("config_api", "config_store"), ("config_store", "discovery"), ("config_store", "authority")];
    plane(sheet, ("control_plane", "Control plane", frames::CONTROL), "control", &components, &connections);
}

fn observability(sheet: &mut Sheet, observability: &Observability) {
    let components = [
        ("metrics", "Metrics store", &observability.metrics),
        ("access_logs", "Access logs", &observability.access_logs),
        ("traces", "Trace collector", &observability.traces),
        ("dashboard", "Dashboard", &observability.dashboard),
    ];
    let connections = [("metrics", "dashboard"), ("access_logs", "dashboard"), ("traces", "dashboard")];
    plane(sheet, ("observability", "Observability", frames::OBSERVABILITY), "obs", &components, &connections);
}

/// Writes a plane's frame with the components that there are, and their connections; nothing where there are none.
fn plane(
    sheet: &mut Sheet,
    (id, title, look): (&str, &str, &str),
    class: &str,
    components: &[(&str, &str, &Option<String>)],
    connections: &[(&str, &str)],
) {
    let present: Vec<(&str, &str, &str)> =
        components.iter().filter_map(|(id, name, detail)| Some((*id, *name, detail.as_deref()?))).collect();
    let is_present = |wanted: &str| present.iter().any(|(id, ..)| *id == wanted);
    if present.is_empty() {
        return;
    }
    sheet.frame(id, &format!("<b>{title}</b>"), look, |sheet| {
        sheet.row("direction TB");
        for (id, name, detail) in &present {
            sheet.node(id, &component(name, detail), class);
        }
        for (from, to) in connections.iter().filter(|(from, to)| is_present(from) && is_present(to)) {
            sheet.line(from, to, Stroke::Inner, Length::Short, "");
        }
    });
}

/// Writes the paths between the planes, and keeps the legend below the data plane.
fn paths(sheet: &mut Sheet, topology: &Topology, legend: bool) {
    let (control, observability) = (&topology.control, &topology.observability);
    if control.discovery.is_some() {
        sheet.line("discovery", "data_plane", Stroke::Config, Length::Short, "config");
    }
    if control.certificate_authority.is_some() {
        sheet.line("authority", "data_plane", Stroke::Certificates, Length::Short, "certificates");
    }
    if observability != &Observability::default() {
        sheet.line("data_plane", "observability", Stroke::Telemetry, Length::Short, "telemetry");
    }
    if legend {
        sheet.line("data_plane", "legend", Stroke::Invisible, Length::Short, "");
    }
}

//! Gateway and GatewayClass: where traffic from outside comes into the mesh. Source: Gateway API v1.

use std::sync::Arc;

use meshwork_model::mesh::{Gateway, GatewayListener, GatewayProtocol, Key, RouteNamespaces};
use meshwork_model::problem::Code;

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report, Text};
use super::references::GATEWAY_GROUP;
use super::route::{is_hostname, limited};

/// The most listeners. Source: Gateway API, `GatewaySpec.listeners`.
const MAX_LISTENERS: usize = 64;
/// The most certificates of one listener. Source: Gateway API, `certificateRefs`.
const MAX_CERTIFICATES: usize = 64;
/// The most kinds that a listener may name. Source: Gateway API, `allowedRoutes.kinds`.
const MAX_KINDS: usize = 8;

/// Reads a Gateway's `spec`.
pub(crate) fn read(root: &mut Fields<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Gateway> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let class = spec.required_text(report, "gatewayClassName");
    let mut listeners: Vec<GatewayListener> = Vec::new();
    if spec.required(report, "listeners").is_some() {
        for item in limited(&mut spec, report, "listeners", MAX_LISTENERS) {
            let Some(listener) = listener(&item, metadata, report) else { continue };
            check(&item, &listener, &listeners, report);
            listeners.push(listener);
        }
    }
    let fix = "`meshwork gateway` says on which addresses it listens";
    spec.unheeded(report, &["addresses", "infrastructure"], fix);
    spec.not_yet(report, &["allowedListeners", "defaultScope", "tls"], "");
    spec.close(report);
    Some(Gateway { class: class?.value.into(), listeners })
}

/// Reads a GatewayClass, which only informs: every gateway is one of this mesh.
pub(crate) fn read_class(root: &mut Fields<'_>, report: &mut Report<'_>) {
    let Some(mut spec) = root.required(report, "spec").and_then(|item| item.fields(report)) else { return };
    spec.required_text(report, "controllerName");
    spec.skip(&["description"]);
    spec.unheeded(report, &["parametersRef"], "");
    spec.close(report);
}

/// Two listeners that take the same connections leave it to chance which one does.
fn check(item: &Item<'_>, listener: &GatewayListener, earlier: &[GatewayListener], report: &mut Report<'_>) {
    let mut refuse = |message: String, fix: &str| {
        report.error_of(Code::Conflict, &item.path, item.node.place, message, fix);
    };
    if earlier.iter().any(|other| other.name == listener.name) {
        refuse(format!("there is a listener {} already", listener.name), "Name each once");
    }
    for other in earlier.iter().filter(|other| other.port == listener.port) {
        let by_name = |protocol: &GatewayProtocol| match protocol {
            GatewayProtocol::Http => 0,
            GatewayProtocol::Tcp => 1,
            GatewayProtocol::Https(_)
            | GatewayProtocol::TlsPassthrough
            | GatewayProtocol::TlsTerminate(_) => 2,
        };
        if by_name(&other.protocol) != by_name(&listener.protocol) {
            let message = format!("the listener {} speaks something else on this port", other.name);
            refuse(message, "Give each its own port");
        } else if other.hostname == listener.hostname {
            let message = format!("the listener {} has this port and hostname already", other.name);
            refuse(message, "Give one of them another hostname");
        }
    }
}

fn listener(item: &Item<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<GatewayListener> {
    let mut fields = item.fields(report)?;
    let name = fields.required_text(report, "name");
    let hostname = match fields.text(report, "hostname") {
        Some(text) => hostname(&text, report).map(Some),
        None => Some(None),
    };
    let port = fields.required(report, "port").and_then(|_| fields.port(report, "port"));
    let protocol = protocol(&mut fields, metadata, report);
    let (from, kinds) = allowed(&mut fields, report);
    fields.close(report);
    if let (Some(Some(_)), Some(GatewayProtocol::Tcp)) = (&hostname, &protocol) {
        let message = "bytes name no host, so that none can be asked for";
        report.error(&format!("{}.hostname", item.path), item.node.place, message, "Leave it out");
    }
    Some(GatewayListener {
        name: name?.value.into(),
        hostname: hostname?,
        port: port?,
        protocol: protocol?,
        from,
        kinds,
    })
}

fn hostname(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let name = text.value.to_ascii_lowercase();
    if is_hostname(name.strip_prefix("*.").unwrap_or(&name)) {
        return Some(name.into());
    }
    let fix = "Write a name as shop.example.com or *.example.com";
    text.error(report, format!("\"{}\" is not a hostname", text.value), fix);
    None
}

#[derive(Clone, Copy, PartialEq)]
enum Named {
    Http,
    Https,
    Tls,
    Tcp,
}

fn protocol(
    fields: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<GatewayProtocol> {
    const PROTOCOLS: &[(&str, Named)] =
        &[("HTTP", Named::Http), ("HTTPS", Named::Https), ("TLS", Named::Tls), ("TCP", Named::Tcp)];
    let text = fields.required_text(report, "protocol");
    let named = text.as_ref().and_then(|text| text.one_of(report, PROTOCOLS, &["UDP"]));
    let item = fields.optional("tls");
    let (path, place) = (fields.path_of("tls"), fields.place());
    let Some(item) = item else {
        return match named? {
            Named::Http => Some(GatewayProtocol::Http),
            Named::Tcp => Some(GatewayProtocol::Tcp),
            Named::Https | Named::Tls => {
                let fix = "Name a certificate in `certificateRefs`";
                report.error(&path, place, "the field `tls` is missing", fix);
                None
            }
        };
    };
    let tls = tls(&item, metadata, report);
    match (named?, tls?) {
        (Named::Http | Named::Tcp, _) => {
            report.error(&path, place, "this protocol has no TLS", "Write `protocol: HTTPS` or `TLS`");
            None
        }
        (Named::Https, Tls::Ends(certificates)) => Some(GatewayProtocol::Https(certificates)),
        (Named::Https, Tls::Passes) => {
            let message = "HTTPS ends here: it cannot pass through";
            report.error(&path, place, message, "Write `protocol: TLS`, or `mode: Terminate`");
            None
        }
        (Named::Tls, Tls::Ends(certificates)) => Some(GatewayProtocol::TlsTerminate(certificates)),
        (Named::Tls, Tls::Passes) => Some(GatewayProtocol::TlsPassthrough),
    }
}

/// Where TLS ends.
enum Tls {
    /// At the gateway, by these certificates.
    Ends(Vec<Key>),
    /// Behind it.
    Passes,
}

fn tls(item: &Item<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Tls> {
    let mut fields = item.fields(report)?;
    let modes = [("Terminate", true), ("Passthrough", false)];
    let ends = match fields.text(report, "mode") {
        Some(text) => text.one_of(report, &modes, &[]),
        None => Some(true),
    };
    let path = fields.path_of("certificateRefs");
    let items = limited(&mut fields, report, "certificateRefs", MAX_CERTIFICATES);
    let certificates: Vec<Key> =
        items.iter().filter_map(|item| certificate(item, metadata, report)).collect();
    fields.not_yet(report, &["options", "frontendValidation"], "");
    fields.close(report);
    let ends = ends?;
    if ends && certificates.is_empty() {
        report.error(&path, item.node.place, "TLS that ends here needs a certificate", "Name one");
        return None;
    }
    Some(if ends { Tls::Ends(certificates) } else { Tls::Passes })
}

fn certificate(item: &Item<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Key> {
    let mut fields = item.fields(report)?;
    let group = fields.text(report, "group").map_or("", |text| text.value);
    let kind = fields.text(report, "kind").map_or("Secret", |text| text.value);
    let name = fields.required_text(report, "name");
    let namespace = fields.text(report, "namespace").map_or(&*metadata.key.namespace, |text| text.value);
    fields.close(report);
    if (group, kind) != ("", "Secret") {
        report.error(
            &item.path,
            item.node.place,
            "a certificate is a Secret",
            "Leave out `group` and `kind`",
        );
        return None;
    }
    // They are parts of a path in the gateway's folder.
    let name = name?;
    let is_safe = |text: &str| text.split('.').all(super::is_label);
    if !is_safe(name.value) || !super::is_label(namespace) {
        report.error(&item.path, item.node.place, "this is no name of a Secret", "");
        return None;
    }
    Some(Key::new(namespace, name.value))
}

fn allowed(fields: &mut Fields<'_>, report: &mut Report<'_>) -> (RouteNamespaces, Vec<Arc<str>>) {
    let Some(mut allowed) = fields.mapping(report, "allowedRoutes") else {
        return (RouteNamespaces::Same, Vec::new());
    };
    let from = match allowed.optional("namespaces") {
        Some(item) => namespaces(&item, report),
        None => RouteNamespaces::Same,
    };
    let mut kinds = Vec::new();
    for item in limited(&mut allowed, report, "kinds", MAX_KINDS) {
        let Some(mut kind) = item.fields(report) else { continue };
        let group = kind.text(report, "group").map_or(GATEWAY_GROUP, |text| text.value);
        let name = kind.required_text(report, "kind");
        kind.close(report);
        let known = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"];
        match name {
            Some(name) if group == GATEWAY_GROUP && known.contains(&name.value) => {
                kinds.push(name.value.into());
            }
            Some(name) => {
                name.error(
                    report,
                    "there is no such kind of routes",
                    format!("The kinds are {}", known.join(", ")),
                );
            }
            None => {}
        }
    }
    allowed.close(report);
    (from, kinds)
}

/// What is wrong allows none.
fn namespaces(item: &Item<'_>, report: &mut Report<'_>) -> RouteNamespaces {
    let Some(mut fields) = item.fields(report) else { return RouteNamespaces::None };
    let values =
        [("Same", RouteNamespaces::Same), ("All", RouteNamespaces::All), ("None", RouteNamespaces::None)];
    let from = fields.text(report, "from");
    let selector = fields.mapping(report, "selector").map(|mut selector| {
        let labels = selector.labels(report, "matchLabels").unwrap_or_default();
        selector.not_yet(report, &["matchExpressions"], "Use `matchLabels`");
        selector.close(report);
        labels
    });
    fields.close(report);
    match (from, selector) {
        (None, None) => RouteNamespaces::Same,
        (Some(text), Some(labels)) if text.value == "Selector" => RouteNamespaces::Selected(labels),
        (Some(text), None) if text.value == "Selector" => {
            text.error(report, "there is no `selector`", "Write `selector: { matchLabels: … }` beside it");
            RouteNamespaces::None
        }
        (Some(text), _) => {
            if let Some((_, from)) = values.into_iter().find(|(name, _)| *name == text.value) {
                return from;
            }
            let message =
                format!("expected \"Same\", \"All\", \"None\" or \"Selector\", found \"{}\"", text.value);
            text.error(report, message, "");
            RouteNamespaces::None
        }
        (None, Some(_)) => {
            report.error(&item.path, item.node.place, "a selector needs `from: Selector`", "");
            RouteNamespaces::None
        }
    }
}

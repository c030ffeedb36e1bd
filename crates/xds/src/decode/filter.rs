//! HTTP filters, which stand in one order, and what routes say of them.

use std::collections::HashMap;

use meshwork_model::proxy::{HttpFilter, HttpFilterKind, HttpRbac, RouteFilter, RouteFilterKind};

use super::{is, policy, required, unpack};
use crate::path::{Path, Problems};
use crate::{pb, support};

/// Filters before the router, which must be the last one.
pub(super) fn filters(
    filters: &[pb::hcm::HttpFilter],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<HttpFilter> {
    let mut found: Vec<HttpFilter> = Vec::new();
    let mut routed = false;
    for (index, message) in filters.iter().enumerate() {
        let at = at.index(index);
        if routed {
            problems.error::<()>(&at, "the router must be the last filter", "");
        } else if typed_config(message).is_some_and(is::<pb::Router>) {
            routed = true;
        } else if let Some(filter) = filter(message, &at, problems) {
            in_order(&found, &filter, &at, problems);
            found.push(filter);
        }
    }
    if !routed {
        problems.error::<()>(at, "the router is missing", "end with `envoy.filters.http.router`");
    }
    found
}

/// Filters stand in one order, so that what is judged was not changed before by a filter that Envoy would run later.
fn in_order(before: &[HttpFilter], filter: &HttpFilter, at: &Path<'_>, problems: &mut Problems) {
    if let Some(late) = before.iter().find(|other| other.kind.place() > filter.kind.place()) {
        let text = format!("`{}` must not stand behind `{}`", filter.name, late.name);
        let fix = "the order is fault, cors, jwt_authn, rbac, ext_authz, local_ratelimit, ratelimit, \
                   header_mutation, health_check, buffer, router";
        problems.error::<()>(at, text, fix);
    }
}

fn typed_config(filter: &pb::hcm::HttpFilter) -> Option<&pb::Any> {
    match &filter.config_type {
        Some(pb::hcm::http_filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

/// One filter; `None` also where it is unknown and may be left out.
fn filter(message: &pb::hcm::HttpFilter, at: &Path<'_>, problems: &mut Problems) -> Option<HttpFilter> {
    let Some(config) = typed_config(message) else {
        return problems.error(at, "the filter has no config", "write `typed_config`");
    };
    if message.is_optional && !support::is_accepted(&config.type_url) {
        return None;
    }
    let kind = kind(config, &at.field("typed_config"), problems)?;
    let name = required(&message.name, &at.field("name"), problems)?;
    Some(HttpFilter { name: name.into(), disabled: message.disabled, kind })
}

fn kind(config: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<HttpFilterKind> {
    if let Some(message) = unpack::<pb::HttpRbac>(config) {
        return rbac(&message, at, problems).map(HttpFilterKind::Rbac);
    }
    problems.error(at, "this HTTP filter is not supported", "")
}

fn rbac(message: &pb::HttpRbac, at: &Path<'_>, problems: &mut Problems) -> Option<HttpRbac> {
    let rules = match &message.rules {
        Some(rules) => Some(policy::rbac(rules, &at.field("rules"), problems)?.into()),
        None => None,
    };
    Some(HttpRbac { rules, ..HttpRbac::default() })
}

/// What a route, a virtual host, a table or a weighted cluster says of filters (`typed_per_filter_config`), by name.
pub(super) fn of_route(
    messages: &HashMap<String, pb::Any>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<RouteFilter> {
    let mut sorted: Vec<_> = messages.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let mut found = Vec::new();
    for (name, config) in sorted {
        found.extend(route_filter(name, config, &at.key(name), problems));
    }
    found
}

fn route_filter(name: &str, config: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<RouteFilter> {
    let Some(wrapped) = unpack::<pb::route::FilterConfig>(config) else {
        let kind = route_kind(config, at, problems)?;
        return Some(RouteFilter { name: name.into(), disabled: false, kind: Some(kind) });
    };
    let disabled = wrapped.disabled;
    let kind = match &wrapped.config {
        None if !disabled => return problems.error(&at.field("config"), "the config is missing", ""),
        Some(inner) if wrapped.is_optional && !support::is_accepted(&inner.type_url) => return None,
        // Of a filter that is off, nobody reads what it would do.
        Some(inner) if !disabled => Some(route_kind(inner, &at.field("config"), problems)?),
        _ => None,
    };
    Some(RouteFilter { name: name.into(), disabled, kind })
}

fn route_kind(config: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<RouteFilterKind> {
    if let Some(message) = unpack::<pb::HttpRbacPerRoute>(config) {
        let rules = message.rbac.as_ref().map(|message| rbac(message, &at.field("rbac"), problems));
        return Some(RouteFilterKind::Rbac(rules.unwrap_or_else(|| Some(HttpRbac::default()))?));
    }
    problems.error(at, "this is no config of a filter for a route", "")
}

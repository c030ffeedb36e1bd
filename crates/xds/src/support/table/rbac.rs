//! Rules of authorization.

use super::{Accepted, accept, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept("envoy.config.rbac.v3.RBAC", &[only("action", "ALLOW or DENY"), yes("policies")]),
    accept("envoy.config.rbac.v3.Policy", &[yes("permissions"), yes("principals")]),
    accept(
        "envoy.config.rbac.v3.Permission",
        &[
            yes("and_rules"),
            yes("or_rules"),
            yes("any"),
            yes("header"),
            yes("url_path"),
            yes("destination_port"),
            yes("not_rule"),
        ],
    ),
    accept("envoy.config.rbac.v3.Permission.Set", &[yes("rules")]),
    accept(
        "envoy.config.rbac.v3.Principal",
        &[yes("and_ids"), yes("or_ids"), yes("any"), yes("authenticated"), yes("not_id")],
    ),
    accept("envoy.config.rbac.v3.Principal.Set", &[yes("ids")]),
    accept(
        "envoy.config.rbac.v3.Principal.Authenticated",
        &[only("principal_name", "matched against the SPIFFE ID")],
    ),
];

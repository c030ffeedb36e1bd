//! Rules of authorization.

use super::{Accepted, accept, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.rbac.v3.RBAC",
        &[yes("action"), yes("policies"), no("audit_logging_options", "denials are in the access log")],
    ),
    accept(
        "envoy.config.rbac.v3.Policy",
        &[
            yes("permissions"),
            yes("principals"),
            no("condition", "write permissions and principals; CEL is not read"),
            no("checked_condition", "write permissions and principals; CEL is not read"),
            no("cel_config", "CEL is not read"),
        ],
    ),
    accept(
        "envoy.config.rbac.v3.Permission",
        &[
            yes("and_rules"),
            yes("or_rules"),
            yes("any"),
            yes("header"),
            yes("url_path"),
            yes("destination_ip"),
            yes("destination_port"),
            yes("destination_port_range"),
            yes("metadata"),
            yes("not_rule"),
            yes("requested_server_name"),
            no("matcher", "no extension is known here"),
            no("uri_template", "write `url_path`, whose `path` may be a regular expression"),
            only("sourced_metadata", "of the source DYNAMIC"),
        ],
    ),
    accept("envoy.config.rbac.v3.Permission.Set", &[yes("rules")]),
    accept(
        "envoy.config.rbac.v3.Principal",
        &[
            yes("and_ids"),
            yes("or_ids"),
            yes("any"),
            yes("authenticated"),
            yes("source_ip"),
            yes("direct_remote_ip"),
            yes("remote_ip"),
            yes("header"),
            yes("url_path"),
            yes("metadata"),
            no("filter_state", "there is no filter state"),
            yes("not_id"),
            only("sourced_metadata", "of the source DYNAMIC"),
            only(
                "custom",
                "named `meshwork.v1.each_value`, with a principal of one header field: each of its values passes",
            ),
        ],
    ),
    accept("envoy.config.rbac.v3.Principal.Set", &[yes("ids")]),
    accept(
        "envoy.config.rbac.v3.Principal.Authenticated",
        &[only("principal_name", "without it, a client certificate is needed all the same")],
    ),
    accept(
        "envoy.config.rbac.v3.SourcedMetadata",
        &[yes("metadata_matcher"), only("metadata_source", "DYNAMIC")],
    ),
    accept(
        "envoy.type.matcher.v3.MetadataMatcher",
        &[yes("filter"), yes("path"), yes("value"), yes("invert")],
    ),
    accept("envoy.type.matcher.v3.MetadataMatcher.PathSegment", &[yes("key")]),
    accept(
        "envoy.type.matcher.v3.ValueMatcher",
        &[
            yes("null_match"),
            yes("double_match"),
            yes("string_match"),
            yes("bool_match"),
            yes("present_match"),
            yes("list_match"),
            yes("or_match"),
        ],
    ),
    accept("envoy.type.matcher.v3.ValueMatcher.NullMatch", &[]),
    accept("envoy.type.matcher.v3.DoubleMatcher", &[yes("range"), yes("exact")]),
    accept("envoy.type.matcher.v3.ListMatcher", &[yes("one_of")]),
    accept("envoy.type.matcher.v3.OrMatcher", &[yes("value_matchers")]),
    accept("envoy.type.v3.DoubleRange", &[yes("start"), yes("end")]),
];

//! Routes.

use super::{Accepted, FOR_OTHERS, STATISTICS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.route.v3.RouteConfiguration",
        &[
            yes("name"),
            yes("virtual_hosts"),
            harmless("most_specific_header_mutations_wins", "there are no header mutations"),
            harmless("validate_clusters", "clusters are always validated"),
            harmless("max_direct_response_body_size_bytes", "the body is in memory already"),
            harmless("metadata", FOR_OTHERS),
        ],
    ),
    accept(
        "envoy.config.route.v3.VirtualHost",
        &[
            yes("name"),
            yes("domains"),
            yes("routes"),
            yes("include_request_attempt_count"),
            yes("retry_policy"),
            only("per_request_buffer_limit_bytes", "for retries"),
            yes("include_attempt_count_in_response"),
            yes("include_is_timeout_retry_header"),
            only("request_body_buffer_limit", "for retries"),
            harmless("metadata", FOR_OTHERS),
        ],
    ),
    accept(
        "envoy.config.route.v3.Route",
        &[
            yes("name"),
            yes("match"),
            yes("route"),
            no("redirect", ""),
            yes("direct_response"),
            yes("non_forwarding_action"),
            harmless("metadata", FOR_OTHERS),
            harmless("decorator", "names trace spans only"),
            only("per_request_buffer_limit_bytes", "for retries"),
            harmless("stat_prefix", STATISTICS),
            only("request_body_buffer_limit", "for retries"),
        ],
    ),
    accept(
        "envoy.config.route.v3.RouteMatch",
        &[
            yes("prefix"),
            yes("path"),
            yes("path_separated_prefix"),
            no("safe_regex", "write `path`, `prefix` or `path_separated_prefix`"),
            only("case_sensitive", "true"),
            only("connect_matcher", "where `upgrade_configs` names CONNECT"),
            yes("headers"),
        ],
    ),
    accept("envoy.config.route.v3.RouteMatch.ConnectMatcher", &[]),
    accept(
        "envoy.config.route.v3.HeaderMatcher",
        &[
            yes("name"),
            yes("string_match"),
            yes("present_match"),
            yes("invert_match"),
            yes("treat_missing_header_as_empty"),
            yes("exact_match"),
            yes("safe_regex_match"),
            yes("range_match"),
            yes("prefix_match"),
            yes("suffix_match"),
            yes("contains_match"),
        ],
    ),
    accept("envoy.type.v3.Int64Range", &[yes("start"), yes("end")]),
    accept(
        "envoy.config.route.v3.RouteAction",
        &[
            yes("cluster"),
            yes("weighted_clusters"),
            yes("timeout"),
            yes("idle_timeout"),
            yes("retry_policy"),
            yes("max_grpc_timeout"),
            yes("grpc_timeout_offset"),
            yes("max_stream_duration"),
        ],
    ),
    accept(
        "envoy.config.route.v3.WeightedCluster",
        &[yes("clusters"), harmless("total_weight", "the weights' sum counts")],
    ),
    accept("envoy.config.route.v3.WeightedCluster.ClusterWeight", &[yes("name"), yes("weight")]),
    accept("envoy.config.route.v3.DirectResponseAction", &[yes("status"), yes("body")]),
    accept("envoy.config.route.v3.NonForwardingAction", &[]),
];

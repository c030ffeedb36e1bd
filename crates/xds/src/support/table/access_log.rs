//! Access logs, and the formats and filters that local replies have in common with them.

use super::{Accepted, LABEL, accept, harmless, no, only, yes};

const NO_RUNTIME: &str = "there is no runtime; the default counts";

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.accesslog.v3.AccessLog",
        &[harmless("name", LABEL), yes("filter"), only("typed_config", "file, stdout or stderr")],
    ),
    accept(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        &[
            yes("path"),
            yes("log_format"),
            no("format", "write `log_format`"),
            no("json_format", "write `log_format`"),
            no("typed_json_format", "write `log_format`"),
        ],
    ),
    accept("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &[yes("log_format")]),
    accept("envoy.extensions.access_loggers.stream.v3.StderrAccessLog", &[yes("log_format")]),
    accept(
        "envoy.config.core.v3.SubstitutionFormatString",
        &[
            yes("text_format"),
            yes("json_format"),
            only("text_format_source", "inline"),
            yes("omit_empty_values"),
            only("content_type", "of local replies"),
            only("formatters", "`envoy.formatter.req_without_query`"),
            harmless("json_format_options", "members always stand in order"),
        ],
    ),
    accept("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery", &[]),
    accept(
        "envoy.config.accesslog.v3.AccessLogFilter",
        &[
            yes("status_code_filter"),
            yes("duration_filter"),
            yes("not_health_check_filter"),
            only("traceable_filter", "no request is, since no span is exported"),
            yes("runtime_filter"),
            yes("and_filter"),
            yes("or_filter"),
            yes("header_filter"),
            yes("response_flag_filter"),
            yes("grpc_status_filter"),
            yes("log_type_filter"),
            no("extension_filter", ""),
            no("metadata_filter", ""),
        ],
    ),
    accept("envoy.config.accesslog.v3.StatusCodeFilter", &[yes("comparison")]),
    accept("envoy.config.accesslog.v3.DurationFilter", &[yes("comparison")]),
    accept("envoy.config.accesslog.v3.ComparisonFilter", &[yes("op"), yes("value")]),
    accept(
        "envoy.config.core.v3.RuntimeUInt32",
        &[yes("default_value"), harmless("runtime_key", NO_RUNTIME)],
    ),
    accept("envoy.config.accesslog.v3.NotHealthCheckFilter", &[]),
    accept("envoy.config.accesslog.v3.TraceableFilter", &[]),
    accept(
        "envoy.config.accesslog.v3.RuntimeFilter",
        &[
            harmless("runtime_key", NO_RUNTIME),
            yes("percent_sampled"),
            harmless("use_independent_randomness", "requests are drawn independently in any case"),
        ],
    ),
    accept("envoy.config.accesslog.v3.AndFilter", &[yes("filters")]),
    accept("envoy.config.accesslog.v3.OrFilter", &[yes("filters")]),
    accept("envoy.config.accesslog.v3.HeaderFilter", &[yes("header")]),
    accept("envoy.config.accesslog.v3.ResponseFlagFilter", &[yes("flags")]),
    accept("envoy.config.accesslog.v3.GrpcStatusFilter", &[yes("statuses"), yes("exclude")]),
    accept("envoy.config.accesslog.v3.LogTypeFilter", &[yes("types"), yes("exclude")]),
];

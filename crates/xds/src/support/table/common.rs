//! Addresses and other parts that many messages have.

use super::{Accepted, FOR_OTHERS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept("envoy.config.core.v3.Address", &[only("socket_address", "an IP address")]),
    accept(
        "envoy.config.core.v3.SocketAddress",
        &[
            only("protocol", "TCP; UDP for a listener with the DNS filter"),
            only("address", "an IP address; a host name in a cluster of type STRICT_DNS or LOGICAL_DNS"),
            yes("port_value"),
            no("named_port", "write `port_value`"),
            only("network_namespace_filepath", "`workload`, in `upstream_bind_config`"),
        ],
    ),
    accept(
        "envoy.config.core.v3.ConfigSource",
        &[
            only("ads", "the stream of `ads_config`, or that delivered the resource"),
            only("path_config_source", "for secrets"),
            only("path", "for secrets"),
            harmless("initial_fetch_timeout", "what is missing is waited for"),
            only("resource_api_version", "V3"),
        ],
    ),
    accept("envoy.config.core.v3.AggregatedConfigSource", &[]),
    accept(
        "envoy.config.core.v3.PathConfigSource",
        &[yes("path"), harmless("watched_directory", "the file is looked at every second")],
    ),
    accept("envoy.config.core.v3.WatchedDirectory", &[harmless("path", "files are looked at every second")]),
    accept("envoy.config.core.v3.BindConfig", &[only("source_address", "198.18.0.2, in `workload`")]),
    accept(
        "envoy.config.core.v3.Metadata",
        &[
            only(
                "filter_metadata",
                "`istio`, `envoy.lb` and `envoy.transport_socket_match` are read, others are for other programs",
            ),
            harmless("typed_filter_metadata", FOR_OTHERS),
        ],
    ),
    accept("envoy.config.core.v3.CidrRange", &[yes("address_prefix"), yes("prefix_len")]),
    accept(
        "envoy.config.core.v3.RuntimeFeatureFlag",
        &[yes("default_value"), harmless("runtime_key", "there is no runtime: the default value counts")],
    ),
    accept("envoy.config.core.v3.Locality", &[yes("region"), yes("zone"), yes("sub_zone")]),
    accept("envoy.type.v3.FractionalPercent", &[yes("numerator"), yes("denominator")]),
    accept(
        "envoy.config.core.v3.HeaderValue",
        &[only("key", "no pseudo-header, nor one that frames"), yes("value")],
    ),
    accept("envoy.type.v3.Int32Range", &[yes("start"), yes("end")]),
    accept(
        "envoy.config.core.v3.DataSource",
        &[only("filename", "of certificates and keys"), yes("inline_bytes"), yes("inline_string")],
    ),
    accept("envoy.config.core.v3.TransportSocket", &[yes("name"), yes("typed_config")]),
    accept(
        "envoy.type.matcher.v3.StringMatcher",
        &[yes("exact"), yes("prefix"), yes("suffix"), yes("contains"), yes("safe_regex"), yes("ignore_case")],
    ),
    accept(
        "envoy.type.matcher.v3.RegexMatcher",
        &[
            harmless("google_re2", "expressions are RE2's, and bounded, in any case"),
            only("regex", "without Unicode classes (`\\p`)"),
        ],
    ),
    accept("envoy.type.matcher.v3.PathMatcher", &[yes("path")]),
];

//! The generated protobuf types that this crate uses, under short names.

pub(crate) use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
pub(crate) use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
pub(crate) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use envoy_types::pb::envoy::config::core::v3 as core;
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(crate) use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub(crate) use envoy_types::pb::envoy::config::route::v3 as route;
pub(crate) use envoy_types::pb::envoy::data::accesslog::v3 as accesslog_data;
pub(crate) use envoy_types::pb::envoy::data::dns::v3 as dns;
pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log,
};
pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
pub(crate) use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as ratelimit;
pub(crate) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::buffer::v3 as buffer;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as ext_authz;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::health_check::v3 as health_check;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{
    Rbac as HttpRbac, RbacPerRoute as HttpRbacPerRoute,
};
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(crate) use envoy_types::pb::envoy::extensions::filters::udp::dns_filter::v3 as dns_filter;
pub(crate) use envoy_types::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
pub(crate) use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig as UuidRequestId;
pub(crate) use envoy_types::pb::envoy::extensions::retry::host::omit_canary_hosts::v3::OmitCanaryHostsPredicate;
pub(crate) use envoy_types::pb::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
pub(crate) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use envoy_types::pb::envoy::service::auth::v3 as auth;
pub(crate) use envoy_types::pb::envoy::service::discovery::v3 as discovery;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as fraction;
pub(crate) use envoy_types::pb::envoy::r#type::v3::{
    CodecClientType, DoubleRange, FractionalPercent, HashPolicy, HttpStatus, Int32Range, Int64Range,
    TokenBucket, fractional_percent, hash_policy,
};
pub(crate) use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration, Empty, ListValue, Struct, Timestamp, UInt32Value, UInt64Value, Value, value,
};
pub(crate) use envoy_types::pb::google::rpc::Status;

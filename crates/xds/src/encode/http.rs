//! The HTTP connection manager.

use std::time::Duration;

use meshwork_model::proxy::{
    ClientCert, Clients, Codec, EscapedSlashes, ForwardClientCert, Http1, Http2, HttpConnection, RouteSource,
    Scheme, ServerHeader, StrippedPort, Underscores,
};

use super::access_log::{access_logs, local_replies};
use super::filter::End;
use super::listener::cidrs;
use super::{Writer, ads, boolean, duration, number, timeout};
use crate::pb;
use crate::pb::hcm::HttpConnectionManager as Message;

/// Bytes in Envoy's unit of request heads.
const KILOBYTE: u32 = 1024;

impl Writer<'_> {
    pub(super) fn http(&self, http: &HttpConnection, end: End) -> Message {
        use pb::hcm::http_connection_manager::RouteSpecifier;
        let mut message = Message {
            stat_prefix: http.stat_prefix.to_string(),
            http_filters: self.http_filters(&http.filters, &http.router, end),
            route_specifier: Some(match &http.routes {
                // Envoy would refuse one with a cluster that is not there, or not yet; it takes it of those by name.
                RouteSource::Inline(table) => RouteSpecifier::RouteConfig(pb::route::RouteConfiguration {
                    validate_clusters: (!self.is_grpc()).then(|| boolean(false)),
                    ..self.route_table(table)
                }),
                RouteSource::Named(name) => RouteSpecifier::Rds(pb::hcm::Rds {
                    config_source: Some(ads()),
                    route_config_name: name.to_string(),
                }),
            }),
            ..Message::default()
        };
        if self.is_grpc() {
            // Of all else, gRPC looks at how long a call may take.
            message.common_http_protocol_options = most_time(http.max_stream_duration);
        } else {
            requests(http, &mut message);
            normalization(http, &mut message);
            clients(&http.clients, &mut message);
            limits(http, &mut message);
        }
        message
    }
}

fn most_time(most: Option<Duration>) -> Option<pb::core::HttpProtocolOptions> {
    most.map(|most| pb::core::HttpProtocolOptions {
        max_stream_duration: Some(duration(most)),
        ..pb::core::HttpProtocolOptions::default()
    })
}

/// What is done with requests and responses.
fn requests(http: &HttpConnection, message: &mut Message) {
    use pb::hcm::http_connection_manager::{ServerHeaderTransformation as Server, Tracing};
    message.codec_type = codec(http.codec) as i32;
    message.generate_request_id = Some(boolean(http.generate_request_id));
    message.preserve_external_request_id = http.keep_request_id;
    message.always_set_request_id_in_response = http.answer_request_id;
    let (name, transformation) = match &http.server {
        ServerHeader::Set(name) => (Some(name), Server::Overwrite),
        ServerHeader::IfAbsent(name) => (Some(name), Server::AppendIfAbsent),
        ServerHeader::Keep => (None, Server::PassThrough),
    };
    message.server_name = name.map(ToString::to_string).unwrap_or_default();
    message.server_header_transformation = transformation as i32;
    message.via = http.via.to_string();
    client_cert(http.client_cert, message);
    message.tracing = http.tracing.then(Tracing::default);
    message.upgrade_configs = http.upgrades.iter().map(|name| upgrade(name)).collect();
    message.local_reply_config = local_replies(&http.local_replies);
    message.access_log = access_logs(&http.access_logs);
}

/// What requests are taken to ask for.
fn normalization(http: &HttpConnection, message: &mut Message) {
    use pb::core::scheme_header_transformation::Transformation::SchemeToOverwrite;
    use pb::hcm::http_connection_manager::{
        PathWithEscapedSlashesAction as Slashes, StripPortMode::StripAnyHostPort,
    };
    message.normalize_path = Some(boolean(http.paths.rfc3986));
    message.merge_slashes = http.paths.merge_slashes;
    message.path_with_escaped_slashes_action = match http.paths.escaped_slashes {
        EscapedSlashes::Keep => Slashes::KeepUnchanged,
        EscapedSlashes::Reject => Slashes::RejectRequest,
        EscapedSlashes::Redirect => Slashes::UnescapeAndRedirect,
        EscapedSlashes::Decode => Slashes::UnescapeAndForward,
    } as i32;
    message.strip_matching_host_port = http.hosts.port == StrippedPort::Own;
    message.strip_port_mode = (http.hosts.port == StrippedPort::Any).then_some(StripAnyHostPort(true));
    message.strip_trailing_host_dot = http.hosts.trailing_dot;
    message.scheme_header_transformation = http.scheme.map(|scheme| {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        pb::core::SchemeHeaderTransformation {
            transformation: Some(SchemeToOverwrite(scheme.to_owned())),
            ..pb::core::SchemeHeaderTransformation::default()
        }
    });
}

/// Who counts as the client.
fn clients(clients: &Clients, message: &mut Message) {
    use pb::hcm::http_connection_manager::InternalAddressConfig;
    message.use_remote_address = clients.is_edge.then(|| boolean(true));
    message.xff_num_trusted_hops = clients.trusted_hops;
    message.skip_xff_append = clients.skip_append;
    message.append_x_forwarded_port = clients.append_port;
    message.internal_address_config = (!clients.internal.is_empty()).then(|| InternalAddressConfig {
        cidr_ranges: cidrs(&clients.internal),
        ..InternalAddressConfig::default()
    });
}

/// What requests and connections may be, and how long they last.
fn limits(http: &HttpConnection, message: &mut Message) {
    use pb::core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    let common = pb::core::HttpProtocolOptions {
        idle_timeout: http.idle_timeout.map(timeout),
        max_connection_duration: http.limits.connection_duration.map(duration),
        max_headers_count: http.limits.fields.map(number),
        max_stream_duration: http.max_stream_duration.map(duration),
        headers_with_underscores_action: match http.limits.underscores {
            Underscores::Allow => Action::Allow,
            Underscores::Reject => Action::RejectRequest,
            Underscores::Drop => Action::DropHeader,
        } as i32,
        max_requests_per_connection: http.limits.requests.map(number),
        ..pb::core::HttpProtocolOptions::default()
    };
    message.common_http_protocol_options =
        (common != pb::core::HttpProtocolOptions::default()).then_some(common);
    message.max_request_headers_kb = http.limits.head_bytes.map(|bytes| number(bytes.div_ceil(KILOBYTE)));
    message.http_protocol_options = (http.http1 != Http1::default()).then(|| http1(&http.http1));
    message.http2_protocol_options = (http.http2 != Http2::default()).then(|| http2(http.http2));
    message.request_headers_timeout = http.request_headers_timeout.map(duration);
    message.stream_idle_timeout = http.stream_idle_timeout.map(duration);
    message.delayed_close_timeout = http.delayed_close_timeout.map(duration);
}

fn http2(options: Http2) -> pb::core::Http2ProtocolOptions {
    pb::core::Http2ProtocolOptions {
        max_concurrent_streams: options.most_streams.map(number),
        initial_stream_window_size: options.stream_window.map(number),
        initial_connection_window_size: options.connection_window.map(number),
        ..pb::core::Http2ProtocolOptions::default()
    }
}

fn upgrade(name: &str) -> pb::hcm::http_connection_manager::UpgradeConfig {
    pb::hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: if name == "connect" { "CONNECT".to_owned() } else { name.to_owned() },
        ..pb::hcm::http_connection_manager::UpgradeConfig::default()
    }
}

fn client_cert(said: ClientCert, message: &mut pb::hcm::HttpConnectionManager) {
    use pb::hcm::http_connection_manager::{
        ForwardClientCertDetails as Details, SetCurrentClientCertDetails,
    };
    message.forward_client_cert_details = match said.forward {
        ForwardClientCert::Sanitize => Details::Sanitize,
        ForwardClientCert::ForwardOnly => Details::ForwardOnly,
        ForwardClientCert::Append => Details::AppendForward,
        ForwardClientCert::Set => Details::SanitizeSet,
        ForwardClientCert::AlwaysForwardOnly => Details::AlwaysForwardOnly,
    } as i32;
    let says_nothing = said == ClientCert { forward: said.forward, ..ClientCert::default() };
    message.set_current_client_cert_details = (!says_nothing).then(|| SetCurrentClientCertDetails {
        subject: said.subject.then(|| boolean(true)),
        cert: said.certificate,
        chain: said.chain,
        dns: said.dns,
        uri: said.uri,
        ..SetCurrentClientCertDetails::default()
    });
}

fn http1(options: &Http1) -> pb::core::Http1ProtocolOptions {
    pb::core::Http1ProtocolOptions {
        accept_http_10: options.accept_http_10,
        default_host_for_http_10: options.default_host.as_deref().unwrap_or_default().to_owned(),
        enable_trailers: options.trailers,
        ..pb::core::Http1ProtocolOptions::default()
    }
}

fn codec(codec: Codec) -> pb::hcm::http_connection_manager::CodecType {
    use pb::hcm::http_connection_manager::CodecType;
    match codec {
        Codec::Auto => CodecType::Auto,
        Codec::Http1 => CodecType::Http1,
        Codec::Http2 => CodecType::Http2,
    }
}

//! What is spoken on a cluster's connections, how long they live, and how many there may be.

use std::time::Duration;

use meshwork_model::proxy::{
    Breakers, Cluster, Connections, HealthCheck, HealthCheckKind, Keepalive, RetryBudget, Thresholds,
    UpstreamProtocol,
};

use super::super::{Writer, duration, number, pack};
use crate::decode::HTTP_OPTIONS;
use crate::node::Dialect;
use crate::pb;

impl Writer<'_> {
    /// What is spoken, and how long connections live.
    pub(super) fn connections(&self, cluster: &Cluster, message: &mut pb::cluster::Cluster) {
        let options = &cluster.connections;
        let common = common(options);
        let names = self.names_sent(options);
        let protocol = self.spoken(cluster);
        let is_usual = protocol == UpstreamProtocol::Http1 && common.is_none() && names.is_none();
        if !is_usual {
            let options = pb::upstream_http::HttpProtocolOptions {
                common_http_protocol_options: common,
                upstream_http_protocol_options: names,
                upstream_protocol_options: Some(self.protocol(protocol, options)),
                ..pb::upstream_http::HttpProtocolOptions::default()
            };
            message.typed_extension_protocol_options.insert(HTTP_OPTIONS.to_owned(), pack(&options));
        }
        message.upstream_connection_options =
            options.keepalive.map(|keepalive| pb::cluster::UpstreamConnectionOptions {
                tcp_keepalive: Some(tcp_keepalive(keepalive)),
                ..pb::cluster::UpstreamConnectionOptions::default()
            });
        if self.dialect == Dialect::Envoy {
            message.close_connections_on_host_health_failure = options.close_on_failure;
            message.ignore_health_on_host_removal = options.forget_at_once;
        }
    }

    /// Envoy refuses to let TLS agree on a protocol where an endpoint may be reached without TLS.
    fn spoken(&self, cluster: &Cluster) -> UpstreamProtocol {
        let always_tls = || {
            let transports = &cluster.transports;
            !transports.is_empty() && transports.iter().all(|transport| transport.tls.is_some())
        };
        match cluster.protocol {
            UpstreamProtocol::Auto if self.dialect == Dialect::Envoy && !always_tls() => {
                UpstreamProtocol::Http1
            }
            protocol => protocol,
        }
    }

    /// Envoy refuses a cluster that is asked by gRPC and does not speak HTTP/2.
    pub(super) fn may_check(&self, check: &HealthCheck, cluster: &Cluster) -> bool {
        let is_grpc = matches!(check.kind, HealthCheckKind::Grpc(_));
        let is_refused = is_grpc && self.spoken(cluster) == UpstreamProtocol::Http1;
        self.dialect != Dialect::Envoy || !is_refused
    }

    /// Which name is sent, and has to be proved: Envoy's alone, our own proxy reads that in its TLS context.
    fn names_sent(&self, options: &Connections) -> Option<pb::core::UpstreamHttpProtocolOptions> {
        let is_said = self.dialect == Dialect::Envoy && (options.auto_sni || options.auto_san);
        is_said.then(|| pb::core::UpstreamHttpProtocolOptions {
            auto_sni: options.auto_sni,
            auto_san_validation: options.auto_san,
            ..pb::core::UpstreamHttpProtocolOptions::default()
        })
    }

    fn protocol(
        &self,
        protocol: UpstreamProtocol,
        options: &Connections,
    ) -> pb::upstream_http::http_protocol_options::UpstreamProtocolOptions {
        use pb::upstream_http::http_protocol_options::{
            AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        };
        // Our own proxy takes as many streams as the endpoint allows.
        let streams = options.streams.filter(|_| self.dialect == Dialect::Envoy);
        let http2 = || pb::core::Http2ProtocolOptions {
            max_concurrent_streams: streams.map(number),
            ..pb::core::Http2ProtocolOptions::default()
        };
        let explicit = |config| {
            UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
        };
        match protocol {
            UpstreamProtocol::Http1 => {
                explicit(ProtocolConfig::HttpProtocolOptions(pb::core::Http1ProtocolOptions::default()))
            }
            UpstreamProtocol::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(http2())),
            UpstreamProtocol::Auto => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
                http2_protocol_options: Some(http2()),
                ..AutoHttpConfig::default()
            }),
            UpstreamProtocol::Downstream => {
                UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                    http2_protocol_options: Some(http2()),
                    ..UseDownstreamHttpConfig::default()
                })
            }
        }
    }
}

fn common(options: &Connections) -> Option<pb::core::HttpProtocolOptions> {
    let common = pb::core::HttpProtocolOptions {
        idle_timeout: options.idle.map(duration),
        max_connection_duration: options.lifetime.map(duration),
        max_requests_per_connection: options.requests.map(number),
        ..pb::core::HttpProtocolOptions::default()
    };
    (common != pb::core::HttpProtocolOptions::default()).then_some(common)
}

fn tcp_keepalive(keepalive: Keepalive) -> pb::core::TcpKeepalive {
    let seconds = |time: Duration| number(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    pb::core::TcpKeepalive {
        keepalive_probes: keepalive.probes.map(number),
        keepalive_time: keepalive.after.map(seconds),
        keepalive_interval: keepalive.interval.map(seconds),
    }
}

/// Every limit in full: what is not said is limited.
pub(super) fn circuit_breakers(breakers: &Breakers) -> pb::cluster::CircuitBreakers {
    use pb::core::RoutingPriority;
    let limits = |priority: RoutingPriority, limits: &Thresholds| pb::cluster::circuit_breakers::Thresholds {
        priority: priority as i32,
        max_connections: Some(number(limits.connections)),
        max_pending_requests: Some(number(limits.pending)),
        max_requests: Some(number(limits.requests)),
        max_retries: Some(number(limits.retries)),
        retry_budget: limits.retry_budget.map(retry_budget),
        ..pb::cluster::circuit_breakers::Thresholds::default()
    };
    let of_host = breakers.host_connections.map(|most| pb::cluster::circuit_breakers::Thresholds {
        max_connections: Some(number(most)),
        ..pb::cluster::circuit_breakers::Thresholds::default()
    });
    pb::cluster::CircuitBreakers {
        thresholds: vec![
            limits(RoutingPriority::Default, &breakers.normal),
            limits(RoutingPriority::High, &breakers.high),
        ],
        per_host_thresholds: of_host.into_iter().collect(),
    }
}

fn retry_budget(budget: RetryBudget) -> pb::cluster::circuit_breakers::thresholds::RetryBudget {
    pb::cluster::circuit_breakers::thresholds::RetryBudget {
        budget_percent: Some(pb::fraction::Percent { value: budget.percent }),
        min_retry_concurrency: Some(number(budget.least)),
        ..pb::cluster::circuit_breakers::thresholds::RetryBudget::default()
    }
}

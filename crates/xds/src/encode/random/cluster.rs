//! Random clusters and endpoints.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    Balancing, Breakers, CheckHeader, CheckIntervals, CheckTarget, Cluster, Connections, Discovery, Dns,
    DnsFamily, DnsHost, Endpoint, Endpoints, Enforced, FailurePercentage, Fallback, GrpcCheck, HashFunction,
    HashKeys, Health, HealthCheck, HealthCheckKind, HttpCheck, Keepalive, LeastRequest, LoadPolicy, Locality,
    Maglev, NamedEndpoint, Network, OutlierDetection, Place, RetryBudget, RingHash, Selector, ServiceName,
    SlowStart, Spread, Subsets, SuccessRate, TcpCheck, Thresholds, TransportMatch, UpstreamProtocol,
    Workload,
};

use super::Random;

impl Random {
    pub(super) fn cluster(&mut self) -> Cluster {
        let discovery = match self.0.u8(0..4) {
            0 => Discovery::Eds(self.text()),
            1 => Discovery::Dns(self.dns()),
            2 => Discovery::OriginalDestination,
            _ => Discovery::Static(self.endpoints()),
        };
        let balancing = if discovery == Discovery::OriginalDestination {
            Balancing::ROUND_ROBIN
        } else {
            self.balancing()
        };
        // Either is said by a form that has no word for the other.
        let is_full_scan =
            matches!(balancing, Balancing::LeastRequest(LeastRequest { is_full_scan: true, .. }));
        let may_have_subsets = !is_full_scan && discovery != Discovery::OriginalDestination;
        let transport = |random: &mut Self| TransportMatch {
            name: random.text(),
            transport: random.maybe(Self::text),
            labels: random.criteria(),
            tls: random.maybe(Self::upstream),
        };
        let protocols = [
            UpstreamProtocol::Http1,
            UpstreamProtocol::Http2,
            UpstreamProtocol::Auto,
            UpstreamProtocol::Downstream,
        ];
        Cluster {
            name: self.text(),
            service: self.maybe(|random| ServiceName { name: random.text(), namespace: random.text() }),
            discovery,
            network: self.pick(&[Network::Proxy, Network::Workload]),
            balancing,
            spread: self.spread(may_have_subsets),
            connect_timeout: self.time(),
            protocol: self.pick(&protocols),
            connections: self.connections(),
            breakers: Breakers {
                normal: self.thresholds(),
                high: self.thresholds(),
                host_connections: self.maybe(|random| random.0.u32(..)),
            },
            outliers: self.maybe(|random| Arc::new(random.outliers())),
            checks: self.maybe(|random| Arc::new(random.health_check())).into_iter().collect(),
            transports: self.some(0, transport),
        }
    }

    fn dns(&mut self) -> Dns {
        let places = self.places();
        let mut hosts = Vec::new();
        for place in &places {
            hosts.extend(self.some(1, |random| random.named(place)));
        }
        let is_strict = self.0.bool();
        if !is_strict {
            hosts.truncate(1);
        }
        Dns {
            hosts,
            is_strict,
            family: self.pick(&[
                DnsFamily::Auto,
                DnsFamily::V4,
                DnsFamily::V6,
                DnsFamily::V4Preferred,
                DnsFamily::All,
            ]),
            refresh: self.time(),
            failure_refresh: self.maybe(|random| {
                let least = random.time();
                (least, least + random.time())
            }),
            policy: self.load_policy(),
            only_far: self.0.bool(),
        }
    }

    fn named(&mut self, place: &Arc<Place>) -> NamedEndpoint {
        let host = DnsHost { host: self.host_name(), port: self.0.u16(1..) };
        let hostname = self.maybe(Self::text).unwrap_or_else(|| Arc::clone(&host.host));
        let anywhere = Endpoint::new((Ipv4Addr::UNSPECIFIED, host.port).into());
        NamedEndpoint { endpoint: Endpoint { hostname, ..self.endpoint(anywhere, place) }, host }
    }

    fn balancing(&mut self) -> Balancing {
        match self.0.u8(0..5) {
            0 => Balancing::ROUND_ROBIN,
            1 => Balancing::Random,
            2 => Balancing::LeastRequest(LeastRequest {
                choices: self.0.u32(2..9),
                bias: self.pick(&[0.0, 1.0, 2.5]),
                is_full_scan: self.0.bool(),
                slow_start: SlowStart::NONE,
            }),
            3 => {
                let least = self.0.u64(1..5000);
                Balancing::RingHash(RingHash {
                    least,
                    most: self.0.u64(least..8_388_609),
                    function: self.pick(&[HashFunction::XxHash, HashFunction::Murmur2]),
                    keys: self.hash_keys(),
                })
            }
            _ => {
                Balancing::Maglev(Maglev { size: self.pick(&[65_537, 3, 5_000_011]), keys: self.hash_keys() })
            }
        }
    }

    fn hash_keys(&mut self) -> HashKeys {
        HashKeys { by_hostname: self.0.bool(), balance_factor: self.maybe(|random| random.0.u32(100..)) }
    }

    fn spread(&mut self, may_have_subsets: bool) -> Spread {
        let by_locality = self.0.bool();
        Spread {
            panic_threshold: self.0.u32(0..101),
            fails_in_panic: !by_locality && self.0.bool(),
            by_locality,
            awaits_first_check: self.0.bool(),
            closes_on_change: false,
            subsets: if may_have_subsets { self.maybe(Self::subsets) } else { None },
        }
    }

    fn subsets(&mut self) -> Subsets {
        let weighs_localities = self.0.bool();
        Subsets {
            fallback: self.pick(&[Fallback::Nobody, Fallback::Any, Fallback::Default]),
            default: self.values(0, 1),
            selectors: self.some(1, Self::selector),
            weighs_localities,
            scales_localities: weighs_localities && self.0.bool(),
            any_in_panic: self.0.bool(),
            list_as_any: self.0.bool(),
        }
    }

    fn selector(&mut self) -> Selector {
        let keys = self.sorted(Self::text, Arc::clone);
        let fewer = keys.iter().take(keys.len().saturating_sub(1)).cloned().collect::<Vec<_>>();
        let fallback = match self.0.u8(0..5) {
            0 => Some(Fallback::Nobody),
            1 => Some(Fallback::Any),
            2 => Some(Fallback::Default),
            3 if !fewer.is_empty() => Some(Fallback::Keys),
            _ => None,
        };
        // Elsewhere they mean nothing.
        let fallback_keys = if fallback == Some(Fallback::Keys) { fewer } else { Vec::new() };
        Selector { is_single: keys.len() == 1 && self.0.bool(), keys, fallback, fallback_keys }
    }

    fn connections(&mut self) -> Connections {
        let seconds = |random: &mut Self| Duration::from_secs(random.0.u32(..).into());
        Connections {
            idle: self.maybe(|random| random.time_or(Duration::ZERO)),
            lifetime: self.maybe(Self::time),
            requests: self.maybe(|random| random.0.u32(1..)),
            keepalive: self.maybe(|random| Keepalive {
                after: random.maybe(seconds),
                interval: random.maybe(seconds),
                probes: random.maybe(|random| random.0.u32(..)),
            }),
            ..Connections::default()
        }
    }

    fn thresholds(&mut self) -> Thresholds {
        Thresholds {
            connections: self.0.u32(..),
            pending: self.0.u32(..),
            requests: self.0.u32(..),
            retries: self.0.u32(..),
            retry_budget: self
                .maybe(|random| RetryBudget { percent: random.0.f64() * 100.0, least: random.0.u32(..) }),
        }
    }

    fn outliers(&mut self) -> OutlierDetection {
        let enforced =
            |random: &mut Self| Enforced { count: random.0.u32(0..9), enforcing: random.0.u32(0..101) };
        let base_ejection = self.time();
        OutlierDetection {
            consecutive_5xx: enforced(self),
            consecutive_gateway: enforced(self),
            consecutive_local: enforced(self),
            split_local: self.0.bool(),
            interval: self.time(),
            base_ejection,
            max_ejection: base_ejection + self.time(),
            max_ejection_jitter: self.maybe(Self::time).unwrap_or_default(),
            max_ejection_percent: self.0.u32(0..101),
            always_eject_one: self.0.bool(),
            success_rate: SuccessRate {
                minimum_hosts: self.0.u32(0..9),
                request_volume: self.0.u32(0..200),
                stdev_factor: self.0.u32(0..4000),
                enforcing: self.0.u32(0..101),
                enforcing_local: self.0.u32(0..101),
            },
            failure_percentage: FailurePercentage {
                threshold: self.0.u32(0..101),
                minimum_hosts: self.0.u32(0..9),
                request_volume: self.0.u32(0..200),
                enforcing: self.0.u32(0..101),
                enforcing_local: self.0.u32(0..101),
            },
            check_unejects: self.0.bool(),
        }
    }

    fn health_check(&mut self) -> HealthCheck {
        let kind = match self.0.u8(0..3) {
            0 => HealthCheckKind::Http(self.http_check()),
            1 => {
                HealthCheckKind::Tcp(TcpCheck { send: self.bytes(0), receive: self.some(0, |r| r.bytes(0)) })
            }
            _ => HealthCheckKind::Grpc(GrpcCheck {
                service: self.optional_text(),
                authority: self.optional_text(),
                metadata: self.some(0, Self::check_header),
            }),
        };
        HealthCheck {
            kind,
            timeout: self.time(),
            intervals: CheckIntervals {
                usual: self.time(),
                no_traffic: self.time(),
                no_traffic_healthy: self.time(),
                unhealthy: self.time(),
                unhealthy_edge: self.time(),
                healthy_edge: self.time(),
                initial_jitter: self.time(),
                jitter: self.time(),
                jitter_percent: self.0.u32(..),
            },
            unhealthy_threshold: self.0.u32(..),
            healthy_threshold: self.0.u32(..),
            reuse_connection: self.0.bool(),
            alpn: self.maybe(|random| random.some(0, Self::text)),
            transport: self.maybe(|random| (random.maybe(Self::text), random.criteria())),
        }
    }

    fn http_check(&mut self) -> HttpCheck {
        let (method, has_body) = self.pick(&[("GET", false), ("HEAD", false), ("POST", true), ("PUT", true)]);
        let statuses = |random: &mut Self| {
            let start = random.0.u16(100..600);
            (start, random.0.u16(start + 1..=600))
        };
        HttpCheck {
            host: self.optional_text(),
            path: self.text(),
            method: method.into(),
            send: if has_body { self.bytes(0) } else { Arc::default() },
            receive: self.some(0, |random| random.bytes(0)),
            response_bytes: self.pick(&[0, 1024, 4096]),
            add: self.some(0, Self::check_header),
            remove: self.some(0, Self::text),
            expected: self.some(1, statuses),
            retriable: self.some(0, statuses),
            http2: self.0.bool(),
            service_name: self.maybe(Self::string),
        }
    }

    fn check_header(&mut self) -> CheckHeader {
        CheckHeader { name: self.field(), value: self.optional_text(), append: self.0.bool() }
    }

    fn bytes(&mut self, least: usize) -> Arc<[u8]> {
        self.some(least, |random| random.0.u8(..)).into()
    }

    pub(super) fn endpoints(&mut self) -> Endpoints {
        let places = self.places();
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for place in &places {
            for _ in 0..self.0.u8(1..4) {
                let address = self.address();
                if !endpoints.iter().any(|known| known.address == address) {
                    let known = Endpoint { hostname: self.optional_text(), ..Endpoint::new(address) };
                    endpoints.push(self.endpoint(known, place));
                }
            }
        }
        Endpoints { policy: self.load_policy(), ..Endpoints::new(self.text(), endpoints) }
    }

    /// Some that differ.
    fn places(&mut self) -> Vec<Arc<Place>> {
        let place = |random: &mut Self| {
            Arc::new(Place {
                priority: random.0.u32(0..129),
                locality: Locality {
                    region: random.optional_text(),
                    zone: random.optional_text(),
                    sub_zone: random.optional_text(),
                },
                weight: random.maybe(|random| random.0.u32(1..)),
                metadata: random.metadata(),
            })
        };
        let mut places: Vec<Arc<Place>> = Vec::new();
        for place in self.some(1, place) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// All else of an endpoint.
    fn endpoint(&mut self, known: Endpoint, place: &Arc<Place>) -> Endpoint {
        Endpoint {
            transport: self.maybe(Self::text),
            workload: self.maybe(|random| Workload {
                name: random.text(),
                namespace: random.text(),
                app: random.text(),
                version: random.optional_text(),
            }),
            metadata: Arc::new(self.metadata()),
            weight: self.0.u32(1..9),
            health: self.pick(&[
                Health::Unknown,
                Health::Healthy,
                Health::Unhealthy,
                Health::Draining,
                Health::Timeout,
                Health::Degraded,
            ]),
            check: CheckTarget {
                port: self.maybe(|random| random.0.u16(1..)),
                address: self.maybe(Self::address),
                hostname: self.optional_text(),
                is_disabled: self.0.bool(),
            },
            place: Arc::clone(place),
            ..known
        }
    }

    fn load_policy(&mut self) -> LoadPolicy {
        LoadPolicy {
            overprovisioning: self.0.u32(1..300),
            by_weight: self.0.bool(),
            drops: self.some(0, |random| random.0.u32(0..1_000_001)),
        }
    }
}

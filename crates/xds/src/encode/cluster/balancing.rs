//! How endpoints are picked, and among which.

use envoy_types::pb::envoy::extensions::load_balancing_policies as typed;
use meshwork_model::proxy::{
    Balancing, Cluster, Fallback, HashFunction, HashKeys, LeastRequest, Maglev, RingHash, Selector,
    SlowStart, Spread, Subsets,
};

use super::super::{Writer, duration, number, pack};
use crate::node::Dialect;
use crate::pb::cluster::cluster::{self as message, LbConfig, LbPolicy};
use crate::{metadata, pb};

impl Writer<'_> {
    pub(super) fn balancing(&self, cluster: &Cluster, message: &mut pb::cluster::Cluster) {
        let Cluster { balancing, spread, .. } = cluster;
        if self.is_grpc() {
            of_grpc(*balancing, message);
            return;
        }
        message.common_lb_config = self.among(spread);
        if let Balancing::LeastRequest(options) = balancing
            && options.is_full_scan
            && spread.subsets.is_none()
        {
            // Only the newer form has a word for it.
            message.lb_policy = LbPolicy::LoadBalancingPolicyConfig as i32;
            message.load_balancing_policy = Some(self.full_scan(*options, spread));
            return;
        }
        message.lb_policy = policy(*balancing) as i32;
        message.lb_config = self.config(*balancing);
        message.lb_subset_config = spread.subsets.as_ref().map(|known| self.subsets(known, spread));
        let (locality, keys) = (locality(spread), self.keys(cluster));
        if locality.is_some() || keys.is_some() {
            let common = message.common_lb_config.get_or_insert_default();
            common.locality_config_specifier = locality;
            common.consistent_hashing_lb_config = keys;
        }
    }

    /// What a policy's own options are; those that Envoy takes for granted are not said.
    fn config(&self, balancing: Balancing) -> Option<LbConfig> {
        match balancing {
            Balancing::RoundRobin(slow) => {
                let slow_start_config = self.slow_start(slow)?;
                Some(LbConfig::RoundRobinLbConfig(message::RoundRobinLbConfig {
                    slow_start_config: Some(slow_start_config),
                }))
            }
            Balancing::Random => None,
            Balancing::LeastRequest(options) => {
                let slow_start_config = self.slow_start(options.slow_start);
                let config = message::LeastRequestLbConfig {
                    choice_count: (options.choices != 2).then(|| number(options.choices)),
                    active_request_bias: bias(options.bias),
                    slow_start_config,
                };
                (config != message::LeastRequestLbConfig::default())
                    .then_some(LbConfig::LeastRequestLbConfig(config))
            }
            Balancing::RingHash(options) => ring(options),
            Balancing::Maglev(options) => {
                let size = (options.size != Maglev::default().size).then(|| large(options.size))?;
                Some(LbConfig::MaglevLbConfig(message::MaglevLbConfig { table_size: Some(size) }))
            }
        }
    }

    /// Envoy's alone: our own proxy gives new endpoints their share at once.
    fn slow_start(&self, slow: SlowStart) -> Option<message::SlowStartConfig> {
        let is_said = self.dialect == Dialect::Envoy && !slow.window.is_zero();
        is_said.then(|| message::SlowStartConfig {
            slow_start_window: Some(duration(slow.window)),
            aggression: bias(slow.aggression),
            min_weight_percent: Some(percent(slow.least_percent)),
        })
    }

    /// What counts whatever the policy.
    fn among(&self, spread: &Spread) -> Option<message::CommonLbConfig> {
        let usual = Spread::default().panic_threshold;
        let config = message::CommonLbConfig {
            healthy_panic_threshold: (spread.panic_threshold != usual)
                .then(|| percent(spread.panic_threshold.into())),
            ignore_new_hosts_until_first_hc: spread.awaits_first_check,
            // Our own proxy keeps connections to endpoints that stay.
            close_connections_on_host_set_change: self.dialect == Dialect::Envoy && spread.closes_on_change,
            ..message::CommonLbConfig::default()
        };
        (config != message::CommonLbConfig::default()).then_some(config)
    }

    /// What hosts are called; Envoy refuses their names where it does not look them up one by one.
    fn keys(&self, cluster: &Cluster) -> Option<message::common_lb_config::ConsistentHashingLbConfig> {
        let keys = match cluster.balancing {
            Balancing::RingHash(options) => options.keys,
            Balancing::Maglev(options) => options.keys,
            _ => HashKeys::default(),
        };
        let has_names = self.dialect == Dialect::Meshwork || self.is_strict(&cluster.discovery);
        let keys = HashKeys { by_hostname: keys.by_hostname && has_names, ..keys };
        (keys != HashKeys::default()).then(|| message::common_lb_config::ConsistentHashingLbConfig {
            use_hostname_for_hashing: keys.by_hostname,
            hash_balance_factor: keys.balance_factor.map(number),
        })
    }

    fn subsets(&self, subsets: &Subsets, spread: &Spread) -> message::LbSubsetConfig {
        use message::lb_subset_config::LbSubsetFallbackPolicy as Policy;
        // Envoy refuses to weigh localities in subsets alone.
        let weighs = spread.by_locality || self.dialect == Dialect::Meshwork;
        message::LbSubsetConfig {
            fallback_policy: match subsets.fallback {
                Fallback::Any => Policy::AnyEndpoint,
                Fallback::Default => Policy::DefaultSubset,
                Fallback::Nobody | Fallback::Keys => Policy::NoFallback,
            } as i32,
            default_subset: (!subsets.default.is_empty()).then(|| metadata::to_struct(&subsets.default)),
            subset_selectors: subsets.selectors.iter().map(selector).collect(),
            locality_weight_aware: weighs && subsets.weighs_localities,
            scale_locality_weight: weighs && subsets.scales_localities,
            panic_mode_any: subsets.any_in_panic,
            list_as_any: subsets.list_as_any,
            ..message::LbSubsetConfig::default()
        }
    }

    fn full_scan(&self, options: LeastRequest, spread: &Spread) -> pb::cluster::LoadBalancingPolicy {
        use typed::common::v3::locality_lb_config::{
            LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
        };
        use typed::least_request::v3::least_request::SelectionMethod;
        let locality = if spread.by_locality {
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}))
        } else {
            spread.fails_in_panic.then(|| {
                LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
                    fail_traffic_on_panic: true,
                    ..ZoneAwareLbConfig::default()
                })
            })
        };
        let slow = self.slow_start(options.slow_start);
        let config = typed::least_request::v3::LeastRequest {
            choice_count: (options.choices != 2).then(|| number(options.choices)),
            active_request_bias: bias(options.bias),
            slow_start_config: slow.map(|slow| typed::common::v3::SlowStartConfig {
                slow_start_window: slow.slow_start_window,
                aggression: slow.aggression,
                min_weight_percent: slow.min_weight_percent,
            }),
            locality_lb_config: locality
                .map(|known| typed::common::v3::LocalityLbConfig { locality_config_specifier: Some(known) }),
            selection_method: SelectionMethod::FullScan as i32,
            ..typed::least_request::v3::LeastRequest::default()
        };
        let typed_extension_config = Some(pb::core::TypedExtensionConfig {
            name: "envoy.load_balancing_policies.least_request".to_owned(),
            typed_config: Some(pack(&config)),
        });
        pb::cluster::LoadBalancingPolicy {
            policies: vec![pb::cluster::load_balancing_policy::Policy { typed_extension_config }],
        }
    }
}

/// gRPC picks in turn or by a ring: what else keeps a caller at an endpoint comes close to that.
fn of_grpc(balancing: Balancing, message: &mut pb::cluster::Cluster) {
    let options = match balancing {
        // Of the hash functions gRPC knows one.
        Balancing::RingHash(options) => RingHash { function: HashFunction::XxHash, ..options },
        Balancing::Maglev(_) => RingHash::default(),
        _ => {
            message.lb_policy = LbPolicy::RoundRobin as i32;
            return;
        }
    };
    message.lb_policy = LbPolicy::RingHash as i32;
    message.lb_config = ring(options);
}

fn policy(balancing: Balancing) -> LbPolicy {
    match balancing {
        Balancing::RoundRobin(_) => LbPolicy::RoundRobin,
        Balancing::Random => LbPolicy::Random,
        Balancing::LeastRequest(_) => LbPolicy::LeastRequest,
        Balancing::RingHash(_) => LbPolicy::RingHash,
        Balancing::Maglev(_) => LbPolicy::Maglev,
    }
}

fn locality(spread: &Spread) -> Option<message::common_lb_config::LocalityConfigSpecifier> {
    use message::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig};
    if spread.by_locality {
        return Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}));
    }
    spread.fails_in_panic.then(|| {
        LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            fail_traffic_on_panic: true,
            ..ZoneAwareLbConfig::default()
        })
    })
}

fn ring(options: RingHash) -> Option<LbConfig> {
    use message::ring_hash_lb_config::HashFunction as Function;
    let usual = RingHash::default();
    let config = message::RingHashLbConfig {
        minimum_ring_size: (options.least != usual.least).then(|| large(options.least)),
        maximum_ring_size: (options.most != usual.most).then(|| large(options.most)),
        hash_function: match options.function {
            HashFunction::XxHash => Function::XxHash,
            HashFunction::Murmur2 => Function::MurmurHash2,
        } as i32,
    };
    (config != message::RingHashLbConfig::default()).then_some(LbConfig::RingHashLbConfig(config))
}

fn large(value: u64) -> pb::UInt64Value {
    pb::UInt64Value { value }
}

fn percent(value: f64) -> pb::fraction::Percent {
    pb::fraction::Percent { value }
}

/// A number that is 1 where nothing is said.
fn bias(value: f64) -> Option<pb::core::RuntimeDouble> {
    (value.to_bits() != 1.0_f64.to_bits())
        .then(|| pb::core::RuntimeDouble { default_value: value, ..pb::core::RuntimeDouble::default() })
}

fn selector(selector: &Selector) -> message::lb_subset_config::LbSubsetSelector {
    use message::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
    message::lb_subset_config::LbSubsetSelector {
        keys: selector.keys.iter().map(ToString::to_string).collect(),
        single_host_per_subset: selector.is_single,
        fallback_policy: match selector.fallback {
            None => Policy::NotDefined,
            Some(Fallback::Nobody) => Policy::NoFallback,
            Some(Fallback::Any) => Policy::AnyEndpoint,
            Some(Fallback::Default) => Policy::DefaultSubset,
            Some(Fallback::Keys) => Policy::KeysSubset,
        } as i32,
        // Elsewhere they mean nothing, and Envoy refuses them.
        fallback_keys_subset: match selector.fallback {
            Some(Fallback::Keys) => selector.fallback_keys.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        },
    }
}

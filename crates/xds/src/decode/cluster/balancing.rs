//! How endpoints are picked: `lb_policy` with what belongs to it, or `load_balancing_policy`.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::load_balancing_policies as typed;
use meshwork_model::proxy::{
    Balancing, Fallback, HashFunction, HashKeys, LeastRequest, Maglev, RingHash, Selector, Spread, Subsets,
};

use crate::decode::unpack;
use crate::metadata;
use crate::path::{Path, Problems};
use crate::pb;
use crate::pb::cluster::cluster::{self as message, LbConfig, LbPolicy};

/// How endpoints are picked, and among which.
pub(super) fn balancing(
    cluster: &pb::cluster::Cluster,
    is_original: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Balancing, Spread)> {
    let common = cluster.common_lb_config.as_ref();
    let mut spread = spread(common, &at.field("common_lb_config"), problems)?;
    if let Some(policy) = &cluster.load_balancing_policy {
        let at = at.field("load_balancing_policy");
        let balancing = typed_policy(policy, is_original, &mut spread, &at, problems)?;
        return Some((balancing, spread));
    }
    let balancing = by_enum(cluster, is_original, at, problems)?;
    if let Some(subsets) = &cluster.lb_subset_config
        && !subsets.subset_selectors.is_empty()
    {
        spread.subsets = Some(self::subsets(subsets, &at.field("lb_subset_config"), problems)?);
    }
    Some((balancing, spread))
}

fn by_enum(
    cluster: &pb::cluster::Cluster,
    is_original: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Balancing> {
    let policy = LbPolicy::try_from(cluster.lb_policy);
    let path = at.field("lb_policy");
    let hashing =
        cluster.common_lb_config.as_ref().and_then(|common| common.consistent_hashing_lb_config.as_ref());
    match (policy, &cluster.lb_config) {
        // Nothing is picked.
        (Ok(LbPolicy::ClusterProvided), _) if is_original => Some(Balancing::ROUND_ROBIN),
        _ if is_original => {
            problems.error(&path, "with ORIGINAL_DST nothing is balanced", "write CLUSTER_PROVIDED")
        }
        (Ok(LbPolicy::RoundRobin), _) => Some(Balancing::ROUND_ROBIN),
        (Ok(LbPolicy::Random), _) => Some(Balancing::Random),
        (Ok(LbPolicy::LeastRequest), Some(LbConfig::LeastRequestLbConfig(config))) => {
            let at = at.field("least_request_lb_config");
            least_request(config.choice_count, config.active_request_bias.as_ref(), &at, problems)
        }
        (Ok(LbPolicy::LeastRequest), _) => Some(Balancing::LEAST_REQUEST),
        (Ok(LbPolicy::RingHash), config) => {
            let keys = keys(hashing);
            let Some(LbConfig::RingHashLbConfig(config)) = config else {
                return Some(Balancing::RingHash(RingHash { keys, ..RingHash::default() }));
            };
            let is_murmur =
                config.hash_function == message::ring_hash_lb_config::HashFunction::MurmurHash2 as i32;
            let (least, most) = (config.minimum_ring_size, config.maximum_ring_size);
            ring_hash(least, most, is_murmur, keys, &at.field("ring_hash_lb_config"), problems)
        }
        (Ok(LbPolicy::Maglev), config) => {
            let size = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            maglev(size, keys(hashing), &at.field("maglev_lb_config"), problems)
        }
        (Ok(LbPolicy::LoadBalancingPolicyConfig), _) => {
            problems.error(&at.field("load_balancing_policy"), "this is missing", "write it")
        }
        _ => problems.error(
            &path,
            "this balancing is not supported",
            "write ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV",
        ),
    }
}

fn spread(
    common: Option<&message::CommonLbConfig>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Spread> {
    use message::common_lb_config::LocalityConfigSpecifier;
    let Some(common) = common else { return Some(Spread::default()) };
    let panic_threshold = match &common.healthy_panic_threshold {
        None => Spread::default().panic_threshold,
        Some(percent) => whole_percent(percent.value, &at.field("healthy_panic_threshold"), problems)?,
    };
    let fails_in_panic = match &common.locality_config_specifier {
        // Envoy balances by zones only where it is told which cluster it is in itself.
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => zones.fail_traffic_on_panic,
        _ => false,
    };
    let by_locality = matches!(
        common.locality_config_specifier,
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
    );
    Some(Spread {
        panic_threshold,
        fails_in_panic,
        by_locality,
        awaits_first_check: common.ignore_new_hosts_until_first_hc,
        ..Spread::default()
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
fn whole_percent(value: f64, at: &Path<'_>, problems: &mut Problems) -> Option<u32> {
    if (0.0..=100.0).contains(&value) {
        Some(value.round() as u32)
    } else {
        problems.error(at, format!("{value} is no per cent"), "")
    }
}

fn keys(hashing: Option<&message::common_lb_config::ConsistentHashingLbConfig>) -> HashKeys {
    hashing.map_or_else(HashKeys::default, |hashing| HashKeys {
        by_hostname: hashing.use_hostname_for_hashing,
        balance_factor: hashing.hash_balance_factor.map(|factor| factor.value),
    })
}

fn least_request(
    choices: Option<pb::UInt32Value>,
    bias: Option<&pb::core::RuntimeDouble>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Balancing> {
    let Balancing::LeastRequest(default) = Balancing::LEAST_REQUEST else { return None };
    let choices = choices.map_or(default.choices, |choices| choices.value);
    if choices < 2 {
        return problems.error(&at.field("choice_count"), "two are compared at least", "leave it out");
    }
    let bias = bias.map_or(default.bias, |bias| bias.default_value);
    if bias < 0.0 || bias.is_nan() {
        return problems.error(&at.field("active_request_bias"), "this must not be negative", "");
    }
    Some(Balancing::LeastRequest(LeastRequest { choices, bias, ..default }))
}

/// The largest ring, as Envoy's.
const RING: u64 = 8 * 1024 * 1024;

fn ring_hash(
    least: Option<envoy_types::pb::google::protobuf::UInt64Value>,
    most: Option<envoy_types::pb::google::protobuf::UInt64Value>,
    is_murmur: bool,
    keys: HashKeys,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Balancing> {
    let default = RingHash::default();
    let least = least.map_or(default.least, |least| least.value);
    let most = most.map_or(default.most, |most| most.value);
    if most > RING || least > most || least == 0 {
        let text = format!("a ring has from 1 to {RING} places, and not more at least than at most");
        return problems.error(&at.field("minimum_ring_size"), text, "");
    }
    let function = if is_murmur { HashFunction::Murmur2 } else { HashFunction::XxHash };
    Some(Balancing::RingHash(RingHash { least, most, function, keys }))
}

/// The largest table, as Envoy's.
const TABLE: u64 = 5_000_011;

fn maglev(
    size: Option<envoy_types::pb::google::protobuf::UInt64Value>,
    keys: HashKeys,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Balancing> {
    let size = size.map_or(Maglev::default().size, |size| size.value);
    let is_prime = (3..=TABLE).contains(&size) && (2..=size.isqrt()).all(|n| !size.is_multiple_of(n));
    if !is_prime {
        let text = format!("{size} is not a prime number up to {TABLE}");
        return problems.error(&at.field("table_size"), text, "leave it out");
    }
    Some(Balancing::Maglev(Maglev { size, keys }))
}

fn subsets(config: &message::LbSubsetConfig, at: &Path<'_>, problems: &mut Problems) -> Option<Subsets> {
    use message::lb_subset_config::{LbSubsetFallbackPolicy, LbSubsetMetadataFallbackPolicy};
    if config.metadata_fallback_policy != LbSubsetMetadataFallbackPolicy::MetadataNoFallback as i32 {
        let path = at.field("metadata_fallback_policy");
        return problems.error(&path, "lists of fallbacks are not supported", "write METADATA_NO_FALLBACK");
    }
    if config.scale_locality_weight && !config.locality_weight_aware {
        let path = at.field("scale_locality_weight");
        return problems.error(&path, "this needs `locality_weight_aware`", "write both or neither");
    }
    let path = at.field("subset_selectors");
    let mut selectors = Vec::new();
    for (index, selector) in config.subset_selectors.iter().enumerate() {
        selectors.push(self::selector(selector, &path.index(index), problems)?);
    }
    let default = config.default_subset.as_ref().map(metadata::struct_as_is).unwrap_or_default();
    Some(Subsets {
        fallback: match LbSubsetFallbackPolicy::try_from(config.fallback_policy) {
            Ok(LbSubsetFallbackPolicy::AnyEndpoint) => Fallback::Any,
            Ok(LbSubsetFallbackPolicy::DefaultSubset) => Fallback::Default,
            Ok(LbSubsetFallbackPolicy::NoFallback) | Err(_) => Fallback::Nobody,
        },
        default,
        selectors,
        weighs_localities: config.locality_weight_aware,
        scales_localities: config.scale_locality_weight,
        any_in_panic: config.panic_mode_any,
        list_as_any: config.list_as_any,
    })
}

fn selector(
    message: &message::lb_subset_config::LbSubsetSelector,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Selector> {
    use message::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
    let sorted = |keys: &[String]| {
        let mut keys: Vec<Arc<str>> = keys.iter().map(|key| Arc::from(key.as_str())).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let (keys, fallback_keys) = (sorted(&message.keys), sorted(&message.fallback_keys_subset));
    let fallback = match Policy::try_from(message.fallback_policy) {
        Ok(Policy::NoFallback) => Some(Fallback::Nobody),
        Ok(Policy::AnyEndpoint) => Some(Fallback::Any),
        Ok(Policy::DefaultSubset) => Some(Fallback::Default),
        Ok(Policy::KeysSubset) => Some(Fallback::Keys),
        Ok(Policy::NotDefined) | Err(_) => None,
    };
    let is_smaller = fallback_keys.len() < keys.len() && fallback_keys.iter().all(|key| keys.contains(key));
    if fallback == Some(Fallback::Keys) && (fallback_keys.is_empty() || !is_smaller) {
        let text = "these must be some of `keys`, and not all";
        return problems.error(&at.field("fallback_keys_subset"), text, "");
    }
    if message.single_host_per_subset && keys.len() != 1 {
        let text = "this needs exactly one key";
        return problems.error(&at.field("single_host_per_subset"), text, "");
    }
    Some(Selector { keys, is_single: message.single_host_per_subset, fallback, fallback_keys })
}

/// The first policy that is known, as Envoy takes it; all stand in the support table, so it is the first.
fn typed_policy(
    policy: &pb::cluster::LoadBalancingPolicy,
    is_original: bool,
    spread: &mut Spread,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Balancing> {
    let path = at.field("policies");
    let at = path.index(0);
    let first = policy.policies.first().and_then(|policy| policy.typed_extension_config.as_ref());
    let Some(any) = first.and_then(|config| config.typed_config.as_ref()) else {
        return problems.error(&path, "there is no policy", "write one");
    };
    let locality = |spread: &mut Spread, config: Option<&typed::common::v3::LocalityLbConfig>| {
        use typed::common::v3::locality_lb_config::LocalityConfigSpecifier;
        match config.and_then(|config| config.locality_config_specifier.as_ref()) {
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => spread.by_locality = true,
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => {
                spread.fails_in_panic = zones.fail_traffic_on_panic;
            }
            None => {}
        }
    };
    let hashing = |config: Option<&typed::common::v3::ConsistentHashingLbConfig>| {
        config.map_or_else(HashKeys::default, |config| HashKeys {
            by_hostname: config.use_hostname_for_hashing,
            balance_factor: config.hash_balance_factor.map(|factor| factor.value),
        })
    };
    if unpack::<typed::cluster_provided::v3::ClusterProvided>(any).is_some() && is_original {
        return Some(Balancing::ROUND_ROBIN);
    }
    if is_original {
        return problems.error(&at, "with ORIGINAL_DST nothing is balanced", "write ClusterProvided");
    }
    if let Some(config) = unpack::<typed::round_robin::v3::RoundRobin>(any) {
        locality(spread, config.locality_lb_config.as_ref());
        return Some(Balancing::ROUND_ROBIN);
    }
    if let Some(config) = unpack::<typed::random::v3::Random>(any) {
        locality(spread, config.locality_lb_config.as_ref());
        return Some(Balancing::Random);
    }
    if let Some(config) = unpack::<typed::least_request::v3::LeastRequest>(any) {
        locality(spread, config.locality_lb_config.as_ref());
        let full = typed::least_request::v3::least_request::SelectionMethod::FullScan as i32;
        let balancing =
            least_request(config.choice_count, config.active_request_bias.as_ref(), &at, problems)?;
        let Balancing::LeastRequest(options) = balancing else { return None };
        let is_full_scan = config.selection_method == full;
        return Some(Balancing::LeastRequest(LeastRequest { is_full_scan, ..options }));
    }
    if let Some(config) = unpack::<typed::ring_hash::v3::RingHash>(any) {
        spread.by_locality = config.locality_weighted_lb_config.is_some();
        let is_murmur =
            config.hash_function == typed::ring_hash::v3::ring_hash::HashFunction::MurmurHash2 as i32;
        let keys = hashing(config.consistent_hashing_lb_config.as_ref());
        return ring_hash(config.minimum_ring_size, config.maximum_ring_size, is_murmur, keys, &at, problems);
    }
    if let Some(config) = unpack::<typed::maglev::v3::Maglev>(any) {
        spread.by_locality = config.locality_weighted_lb_config.is_some();
        let keys = hashing(config.consistent_hashing_lb_config.as_ref());
        return maglev(config.table_size, keys, &at, problems);
    }
    if let Some(config) = unpack::<typed::wrr_locality::v3::WrrLocality>(any)
        && let Some(inner) = &config.endpoint_picking_policy
    {
        let balancing = typed_policy(inner, false, spread, &at, problems)?;
        spread.by_locality = true;
        return Some(balancing);
    }
    problems.error(&at, "this balancing is not supported", "")
}

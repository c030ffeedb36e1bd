//! Subsets of endpoints by their metadata, and which of them a request asks for. Source: Envoy, "Load balancer subsets".

use std::collections::HashMap;
use std::sync::Arc;

use super::{Member, index};
use crate::proxy::{BALANCING, Criterion, Fallback, MetadataStruct, MetadataValue, Selector, Subsets};

/// The most subsets of a cluster; what is past it falls back.
const SUBSETS: usize = 4096;

/// Which group of endpoints a request asks for.
#[derive(Debug)]
pub(super) struct Index {
    /// Groups by what is asked for, sorted by key.
    groups: HashMap<Vec<Criterion>, usize>,
    /// What falls back to what, by the keys that are asked for.
    selectors: Vec<Selector>,
    fallback: Fallback,
    default: Option<usize>,
    any_in_panic: bool,
}

impl Index {
    /// The endpoints of each subset, numbered from 1, and how to find them.
    pub(super) fn new(config: &Subsets, members: &[Member<'_>]) -> (Vec<Vec<u32>>, Self) {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut numbers: HashMap<Vec<Criterion>, usize> = HashMap::new();
        for (at, member) in members.iter().enumerate() {
            for selector in &config.selectors {
                for values in combinations(selector, labels(member), config.list_as_any) {
                    let next = numbers.len();
                    if next >= SUBSETS && !numbers.contains_key(&values) {
                        continue;
                    }
                    let number = *numbers.entry(values).or_insert(next);
                    if number == groups.len() {
                        groups.push(Vec::new());
                    }
                    let members = &mut groups[number];
                    let has_room = members.is_empty() || !selector.is_single;
                    if has_room && members.last() != Some(&index(at)) {
                        members.push(index(at));
                    }
                }
            }
        }
        let wants_default = config.fallback == Fallback::Default
            || config.selectors.iter().any(|selector| selector.fallback == Some(Fallback::Default));
        let default = wants_default.then(|| {
            let matching = members.iter().enumerate().filter(|(_, member)| {
                config.default.iter().all(|(key, value)| has(labels(member), key, value, config.list_as_any))
            });
            groups.push(matching.map(|(at, _)| index(at)).collect());
            groups.len()
        });
        let index = Self {
            groups: numbers.into_iter().map(|(values, number)| (values, number + 1)).collect(),
            selectors: config.selectors.clone(),
            fallback: config.fallback,
            default,
            any_in_panic: config.any_in_panic,
        };
        (groups, index)
    }

    /// The group that has exactly these keys and values.
    pub(super) fn find(&self, wanted: &[Criterion]) -> Option<usize> {
        self.groups.get(wanted).copied()
    }

    /// What the selector with exactly these keys falls back to, and the keys it keeps.
    pub(super) fn fallback_of(&self, wanted: &[Criterion]) -> (Option<Fallback>, &[Arc<str>]) {
        let has_these = |selector: &&Selector| {
            selector.keys.len() == wanted.len()
                && selector.keys.iter().zip(wanted).all(|(key, (wanted, _))| key == wanted)
        };
        let found = self.selectors.iter().find(has_these).filter(|_| !wanted.is_empty());
        found.map_or((None, &[]), |selector| (selector.fallback, &selector.fallback_keys))
    }

    /// The group of the default subset.
    pub(super) fn default_group(&self) -> Option<usize> {
        self.default
    }

    /// The group that the cluster falls back to.
    pub(super) fn cluster_fallback(&self) -> Option<usize> {
        match self.fallback {
            Fallback::Any => Some(0),
            Fallback::Default => self.default,
            Fallback::Nobody | Fallback::Keys => None,
        }
    }

    pub(super) fn any_in_panic(&self) -> bool {
        self.any_in_panic
    }

    pub(super) fn selectors(&self) -> usize {
        self.selectors.len()
    }
}

fn labels<'m>(member: &Member<'m>) -> Option<&'m MetadataStruct> {
    member.endpoint.metadata.get(BALANCING)
}

fn has(labels: Option<&MetadataStruct>, key: &str, value: &MetadataValue, list_as_any: bool) -> bool {
    match labels.and_then(|labels| labels.get(key)) {
        Some(MetadataValue::List(items)) if list_as_any => items.contains(value),
        found => found == Some(value),
    }
}

/// The values that an endpoint has for a selector's keys; several where lists stand for each of their items.
fn combinations(
    selector: &Selector,
    labels: Option<&MetadataStruct>,
    list_as_any: bool,
) -> Vec<Vec<Criterion>> {
    let mut all = vec![Vec::new()];
    for key in &selector.keys {
        let Some(value) = labels.and_then(|labels| labels.get(key)) else { return Vec::new() };
        let values: &[MetadataValue] = match value {
            MetadataValue::List(items) if list_as_any => items,
            value => std::slice::from_ref(value),
        };
        let with = |so_far: &Vec<Criterion>, value: &MetadataValue| {
            so_far.iter().cloned().chain([(Arc::clone(key), value.clone())]).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(|so_far| values.iter().map(move |value| with(so_far, value))).collect();
    }
    all.retain(|values| !values.is_empty());
    all
}

//! Whole plans: who is picked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::proxy::{BALANCING, Maglev, MetadataStruct, MetadataValue, Place, RingHash, Selector, Subsets};

fn at(port: u16) -> Endpoint {
    Endpoint::new(([127, 0, 0, 1], port).into())
}

fn placed(port: u16, priority: u32, region: &str, weight: u32) -> Endpoint {
    let mut place = Place { priority, weight: Some(weight), ..Place::default() };
    place.locality.region = region.into();
    Endpoint { place: Arc::new(place), ..at(port) }
}

fn labelled(port: u16, labels: &[(&str, &str)]) -> Endpoint {
    let text = |value: &str| MetadataValue::Text(value.into());
    let labels: MetadataStruct = labels.iter().map(|(key, value)| ((*key).into(), text(value))).collect();
    Endpoint { metadata: Arc::new([(BALANCING.into(), labels)].into()), ..at(port) }
}

fn member(endpoint: &Endpoint) -> Member<'_> {
    let health = if endpoint.health == Health::Unknown { Health::Healthy } else { endpoint.health };
    Member { endpoint, health, is_excluded: false }
}

fn plan(balancing: Balancing, spread: &Spread, endpoints: &[Endpoint]) -> Plan {
    let members: Vec<_> = endpoints.iter().map(member).collect();
    Plan::new(balancing, spread, &LoadPolicy::default(), &members)
}

fn context(random: u64) -> Context<'static> {
    Context { hash: None, subset: &[], avoid: None, again: 0, random }
}

/// How often each is picked.
fn counts(plan: &Plan, times: u64, make: impl Fn(u64) -> Context<'static>) -> BTreeMap<usize, u32> {
    let mut worker = Worker::default();
    let mut random = Draws(7);
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        if let Some(picked) = pick(plan, &mut worker, &make(random.next())) {
            *counts.entry(picked).or_insert(0) += 1;
        }
    }
    counts
}

#[test]
fn turns_visit_all_and_weights_count() {
    let all = [at(1), at(2), at(3)];
    let counted = counts(&plan(Balancing::ROUND_ROBIN, &Spread::default(), &all), 30, context);
    assert_eq!(counted, [(0, 10), (1, 10), (2, 10)].into());
    let all = [at(1), Endpoint { weight: 3, ..at(2) }];
    let counted = counts(&plan(Balancing::ROUND_ROBIN, &Spread::default(), &all), 400, context);
    assert!(counted[&0].abs_diff(100) <= 1 && counted[&1].abs_diff(300) <= 1, "{counted:?}");
}

#[test]
fn the_less_loaded_is_taken_and_who_is_avoided_is_not() {
    let all = [at(1), at(2)];
    let least = plan(Balancing::LEAST_REQUEST, &Spread::default(), &all);
    let mut worker = Worker { active: vec![5, 0], ..Worker::default() };
    let picked: Vec<_> = (0..100).filter_map(|n| pick(&least, &mut worker, &context(n))).collect();
    assert!(picked.iter().filter(|at| **at == 1).count() > 60);
    for balancing in [Balancing::ROUND_ROBIN, Balancing::Random, Balancing::LEAST_REQUEST] {
        let plan = plan(balancing, &Spread::default(), &all);
        for random in 0..50 {
            let avoid = |at: usize| at == 0;
            let context = Context { avoid: Some(&avoid), again: u32::MAX, ..context(random) };
            assert_eq!(pick(&plan, &mut Worker::default(), &context), Some(1));
        }
    }
    let nobody = plan(Balancing::Random, &Spread::default(), &[]);
    assert_eq!(pick(&nobody, &mut Worker::default(), &context(0)), None);
}

#[test]
fn priorities_localities_and_panic() {
    let check = |spread: &Spread, endpoints: &[Endpoint], expected: &[(usize, u32)]| {
        let counted = counts(&plan(Balancing::ROUND_ROBIN, spread, endpoints), 4000, context);
        for &(at, expected) in expected {
            let counted = counted.get(&at).copied().unwrap_or(0);
            assert!(counted.abs_diff(expected) <= expected / 10, "{at}: {counted} for {expected}");
        }
        assert_eq!(counted.values().sum::<u32>(), expected.iter().map(|(_, count)| count).sum::<u32>());
    };
    let sick = |endpoint: Endpoint| Endpoint { health: Health::Unhealthy, ..endpoint };
    let plain = Spread::default();
    check(&plain, &[placed(1, 0, "", 1), placed(2, 1, "", 1)], &[(0, 4000)]);
    check(&plain, &[sick(placed(1, 0, "", 1)), placed(2, 1, "", 1)], &[(1, 4000)]);
    check(&plain, &[sick(at(1)), sick(at(2))], &[(0, 2000), (1, 2000)]);
    let strict = Spread { fails_in_panic: true, ..Spread::default() };
    check(&strict, &[sick(at(1)), sick(at(2))], &[]);
    let calm = Spread { panic_threshold: 0, ..Spread::default() };
    check(&calm, &[sick(at(1)), sick(at(2)), at(3)], &[(2, 4000)]);
    let local = Spread { by_locality: true, ..Spread::default() };
    check(
        &local,
        &[placed(1, 0, "a", 1), placed(2, 0, "b", 3), placed(3, 0, "b", 3)],
        &[(0, 1000), (1, 1500), (2, 1500)],
    );
}

#[test]
fn a_hash_meets_the_same_endpoint_and_shares_follow_weights() {
    let all: Vec<_> = (1..=5).map(at).collect();
    for balancing in [Balancing::RingHash(RingHash::default()), Balancing::Maglev(Maglev::default())] {
        let whole = plan(balancing, &Spread::default(), &all);
        let fewer = plan(balancing, &Spread::default(), &all[..4]);
        let of = |plan: &Plan, hash| {
            pick(plan, &mut Worker::default(), &Context { hash: Some(hash), ..context(1) }).expect("one")
        };
        let mut moved = 0;
        for number in 0u64..1000 {
            let hash = crate::xxhash::xxhash64(&number.to_le_bytes(), 0);
            let (one, other) = (of(&whole, hash), of(&fewer, hash));
            assert_eq!(one, of(&whole, hash));
            moved += u32::from(one < 4 && one != other);
        }
        assert!(moved < 200, "{balancing:?}: {moved}");
    }
    let heavy = [at(1), Endpoint { weight: 3, ..at(2) }];
    let heavy = plan(Balancing::Maglev(Maglev::default()), &Spread::default(), &heavy);
    let counted = counts(&heavy, 4000, context);
    assert!(counted[&0].abs_diff(1000) < 150, "{counted:?}");
}

#[test]
fn subsets_are_found_and_fall_back() {
    let selector = |keys: &[&str], fallback| Selector {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        is_single: false,
        fallback,
        fallback_keys: vec!["version".into()],
    };
    let subsets = |fallback, selectors: &[Selector]| Spread {
        subsets: Some(Subsets {
            fallback,
            default: [("version".into(), MetadataValue::Text("1".into()))].into(),
            selectors: selectors.to_vec(),
            weighs_localities: false,
            scales_localities: false,
            any_in_panic: false,
            list_as_any: false,
        }),
        ..Spread::default()
    };
    let all =
        [labelled(1, &[("version", "1")]), labelled(2, &[("version", "2"), ("zone", "a")]), labelled(3, &[])];
    let check = |spread: &Spread, wanted: &[(&str, &str)], expected: &[usize]| {
        let wanted: Vec<Criterion> =
            wanted.iter().map(|(key, value)| ((*key).into(), MetadataValue::Text((*value).into()))).collect();
        let plan = plan(Balancing::ROUND_ROBIN, spread, &all);
        let mut worker = Worker::default();
        let mut picked: Vec<_> = (0..12)
            .filter_map(|n| pick(&plan, &mut worker, &Context { subset: &wanted, ..context(n) }))
            .collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, expected, "{wanted:?}");
    };
    let by_version = [selector(&["version"], None), selector(&["version", "zone"], Some(Fallback::Keys))];
    let nobody = subsets(Fallback::Nobody, &by_version);
    check(&nobody, &[("version", "2")], &[1]);
    check(&nobody, &[("version", "3")], &[]);
    check(&nobody, &[], &[]);
    check(&nobody, &[("version", "2"), ("zone", "a")], &[1]);
    check(&nobody, &[("version", "1"), ("zone", "a")], &[0]);
    check(&subsets(Fallback::Any, &by_version), &[("version", "3")], &[0, 1, 2]);
    check(&subsets(Fallback::Default, &by_version), &[("version", "3")], &[0]);
    let own = [selector(&["version"], Some(Fallback::Any))];
    check(&subsets(Fallback::Nobody, &own), &[("version", "3")], &[0, 1, 2]);
}

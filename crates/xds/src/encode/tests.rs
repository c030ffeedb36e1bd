//! Every feature in every dialect, against goldens; `UPDATE=1` renews them.

use std::path::PathBuf;

use super::features::features;
use super::random::{Plain, Random};
use crate::{Dialect, SdsSource, decode, dump, encode};
use meshwork_model::proxy::Resource;
use serde_json::{Map, Value};

fn dialects() -> [(&'static str, Dialect, SdsSource); 3] {
    [
        ("meshwork", Dialect::Meshwork, SdsSource::Named),
        ("envoy", Dialect::Envoy, SdsSource::Directory("/run/meshwork".to_owned())),
        ("grpc", Dialect::Grpc, SdsSource::Grpc),
    ]
}

fn check(feature: &str, resource: &Resource) {
    let mut dialect_to_message = Map::new();
    for (name, dialect, sds) in dialects() {
        dialect_to_message.insert(name.to_owned(), dump(&encode(resource, dialect, &sds)));
    }
    let actual = serde_saphyr::to_string(&Value::Object(dialect_to_message)).unwrap();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/dialects/{feature}.yaml"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(actual, expected, "{feature}: run with UPDATE=1 if this is what it should be");
}

#[test]
fn each_dialect_says_each_feature_as_its_golden_does() {
    for (feature, resource) in features() {
        check(feature, &resource);
    }
}

#[test]
fn our_own_dialect_loses_nothing() {
    for (feature, resource) in features() {
        let encoded = encode(&resource, Dialect::Meshwork, &SdsSource::Named);
        let decoded = decode(encoded.type_url(), &encoded.bytes);
        assert_eq!(decoded.as_ref(), Ok(&resource), "{feature}");
    }
}

#[test]
fn equal_resources_have_equal_bytes_and_versions() {
    for (name, dialect, sds) in dialects() {
        for (feature, resource) in features() {
            let first = encode(&resource, dialect, &sds);
            for _ in 0..10 {
                assert_eq!(encode(&resource, dialect, &sds), first, "{feature} for {name}");
            }
        }
    }
}

#[test]
fn our_own_dialect_loses_nothing_of_anything() {
    for seed in 0..2000 {
        let resource = Random(fastrand::Rng::with_seed(seed), Plain::No).resource();
        let encoded = encode(&resource, Dialect::Meshwork, &SdsSource::Named);
        let decoded = decode(encoded.type_url(), &encoded.bytes);
        assert_eq!(decoded.as_ref(), Ok(&resource), "seed {seed}");
    }
}

#[test]
fn what_is_garbled_is_refused_and_never_panics() {
    for seed in 0..2000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let encoded = encode(&Random(rng.fork(), Plain::No).resource(), Dialect::Meshwork, &SdsSource::Named);
        let mut bytes = encoded.bytes.to_vec();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(0..bytes.len());
            bytes[at] = rng.u8(..);
        }
        bytes.truncate(rng.usize(0..=bytes.len()));
        // Either is right; a panic is not.
        drop(decode(encoded.type_url(), &bytes));
    }
}

/// For `cargo xtask peers` and whoever has an Envoy at hand: one message a file, in the folder that
/// `ENVOY_MESSAGES` names, for `envoy --mode validate`.
#[test]
#[ignore = "writes files for Envoy to judge"]
fn messages_for_envoy() {
    let folder = PathBuf::from(std::env::var_os("ENVOY_MESSAGES").expect("a folder"));
    for seed in 0..500 {
        let resource = Random(fastrand::Rng::with_seed(seed), Plain::Yes).resource();
        if matches!(&resource, Resource::Listener(listener) if listener.address.is_none()) {
            continue;
        }
        let encoded = encode(&resource, Dialect::Envoy, &SdsSource::Directory("/run/meshwork".to_owned()));
        let path = folder.join(format!("{:?}-{seed}.json", resource.kind()));
        std::fs::write(path, dump(&encoded).to_string()).unwrap();
    }
}

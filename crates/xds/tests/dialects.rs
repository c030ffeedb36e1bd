//! Every feature in every dialect, against goldens; `UPDATE=1` renews them.

mod common;

use std::path::PathBuf;

use meshwork_model::proxy::Resource;
use meshwork_xds::{Dialect, SdsSource, decode, dump, encode};
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
    for (feature, resource) in common::features() {
        check(feature, &resource);
    }
}

#[test]
fn our_own_dialect_loses_nothing() {
    for (feature, resource) in common::features() {
        let encoded = encode(&resource, Dialect::Meshwork, &SdsSource::Named);
        let decoded = decode(encoded.type_url(), &encoded.bytes);
        assert_eq!(decoded.as_ref(), Ok(&resource), "{feature}");
    }
}

#[test]
fn equal_resources_have_equal_bytes_and_versions() {
    for (name, dialect, sds) in dialects() {
        for (feature, resource) in common::features() {
            let first = encode(&resource, dialect, &sds);
            for _ in 0..10 {
                assert_eq!(encode(&resource, dialect, &sds), first, "{feature} for {name}");
            }
        }
    }
}

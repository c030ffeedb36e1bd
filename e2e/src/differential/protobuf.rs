//! Messages of the gRPC services that origins play, as JSON: their methods' types come from the `.proto` files that the
//! `envoy-types` crate carries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::Value;

const INCLUDES: &[&str] = &["data-plane-api", "xds", "googleapis", "protoc-gen-validate", "cel-spec/proto"];

const FILES: &[&str] =
    &["envoy/service/auth/v3/external_auth.proto", "envoy/service/ratelimit/v3/rls.proto", "health.proto"];

const HEALTH: &str = r#"
syntax = "proto3";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }
"#;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let folder = envoy_types().join("proto");
    let own = tempfile::tempdir().expect("a folder");
    std::fs::write(own.path().join("health.proto"), HEALTH).expect("written");
    let mut includes: Vec<PathBuf> = INCLUDES.iter().map(|include| folder.join(include)).collect();
    includes.push(own.path().to_owned());
    let mut compiler = protox::Compiler::new(includes).expect("folders");
    compiler.include_imports(true);
    compiler.open_files(FILES).expect("Envoy's files");
    compiler.descriptor_pool()
});

/// The folder of the `envoy-types` crate.
fn envoy_types() -> PathBuf {
    let arguments = ["metadata", "--format-version", "1", "--offline", "--locked"];
    let text = crate::program::output(Command::new("cargo").args(arguments).current_dir(crate::root()));
    let packages = crate::json(&text);
    let packages = packages["packages"].as_array().cloned().unwrap_or_default();
    let found = packages.iter().find(|package| package["name"] == "envoy-types");
    let manifest = found.and_then(|package| package["manifest_path"].as_str()).expect("envoy-types");
    Path::new(manifest).parent().expect("a folder").to_owned()
}

/// The method that a path `/package.Service/Method` names, where it is of a service that origins play.
pub(super) fn method(path: &str) -> Option<MethodDescriptor> {
    // For other calls the descriptors, which take a while to read, are not needed.
    if !path.starts_with("/envoy.service.") && !path.starts_with("/grpc.health.") {
        return None;
    }
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    POOL.get_service_by_name(service)?.methods().find(|method| method.name() == name)
}

/// A message from JSON, in gRPC's frame; a text is taken as it is where the type is not known.
pub(super) fn frame(descriptor: Option<MessageDescriptor>, message: &Value) -> Vec<u8> {
    let bytes = match descriptor {
        Some(descriptor) => {
            let read = DynamicMessage::deserialize(descriptor, message.clone());
            read.unwrap_or_else(|e| panic!("{message}: {e}")).encode_to_vec()
        }
        None => message.as_str().unwrap_or_default().as_bytes().to_vec(),
    };
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).expect("a small message").to_be_bytes());
    framed.extend(bytes);
    framed
}

/// The messages of a gRPC body as JSON.
pub(super) fn unframe(descriptor: Option<&MessageDescriptor>, mut body: &[u8]) -> Option<Value> {
    let mut messages = Vec::new();
    while let [_, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let bytes = rest.get(..length)?;
        messages.push(match descriptor {
            Some(descriptor) => shown(&DynamicMessage::decode(descriptor.clone(), bytes).ok()?)?,
            None => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        });
        body = &rest[length..];
    }
    body.is_empty().then_some(Value::Array(messages))
}

fn shown(message: &DynamicMessage) -> Option<Value> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).ok()
}

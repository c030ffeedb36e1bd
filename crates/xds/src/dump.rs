//! Encoded resources for people: protobuf's JSON, with the names of the `.proto` files.

use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::descriptors;
use crate::resource::Encoded;

/// Shows a resource as protobuf JSON, an `Any` by its content; `null` for bytes that are no such message.
pub fn dump(resource: &Encoded) -> Value {
    shown(resource).unwrap_or(Value::Null)
}

/// Shows a resource as [`dump`] does, in YAML.
pub fn to_yaml(resource: &Encoded) -> String {
    serde_saphyr::to_string(&dump(resource)).unwrap_or_default()
}

fn shown(resource: &Encoded) -> Option<Value> {
    let descriptor = descriptors::message(resource.type_url())?;
    let message = DynamicMessage::decode(descriptor, resource.bytes.clone()).ok()?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).ok()
}

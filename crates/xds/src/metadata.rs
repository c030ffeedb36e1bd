//! The keys of `filter_metadata` that are read and written, and plain values in protobuf's `Struct`.

use std::sync::Arc;

use meshwork_model::proxy::{BALANCING, Criterion, Metadata, MetadataStruct, MetadataValue};
use serde_json::{Map, Number, Value};

use crate::path::{Noted, Path, Problems};
use crate::pb;

/// Where Istio keeps what it knows of clusters and endpoints.
pub(crate) const ISTIO: &str = "istio";
/// In [`ISTIO`], of an endpoint: `<name>;<namespace>;<app>;<version>;<cluster>`.
pub(crate) const WORKLOAD: &str = "workload";
/// In [`ISTIO`], of a cluster: a list of `{host, name, namespace}`.
pub(crate) const SERVICES: &str = "services";
/// What an endpoint's transport is picked by. Source: Envoy `Cluster.transport_socket_matches`.
pub(crate) const TRANSPORT: &str = "envoy.transport_socket_match";
/// In [`TRANSPORT`]: the SPIFFE ID that the endpoint must prove.
pub(crate) const IDENTITY: &str = "meshwork.identity";

/// Where we keep what others need not know.
pub(crate) const OWN: &str = "meshwork";
/// In [`OWN`], of a cluster: whether addresses near the host are not believed.
pub(crate) const ONLY_FAR: &str = "only_far";

/// The text of a key in one filter's metadata.
pub(crate) fn text<'m>(metadata: Option<&'m pb::core::Metadata>, filter: &str, key: &str) -> Option<&'m str> {
    match metadata?.filter_metadata.get(filter)?.fields.get(key)?.kind.as_ref()? {
        pb::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// What transports are matched by: the key `meshwork.identity`, if it is there, and all others, sorted.
///
/// # Errors
/// An identity is not a text.
pub(crate) fn marks(
    marks: &pb::Struct,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<(Option<Arc<str>>, Vec<Criterion>), Noted> {
    let mut labels = struct_as_is(marks);
    let identity = match labels.remove(IDENTITY) {
        None => None,
        Some(MetadataValue::Text(identity)) => Some(identity),
        Some(_) => return problems.refuse(&at.key(IDENTITY), "an identity is a text", ""),
    };
    Ok((identity, labels.into_iter().collect()))
}

/// Metadata as the model has it, without what our own keys say.
pub(crate) fn others(metadata: Option<&pb::core::Metadata>) -> Metadata {
    let Some(metadata) = metadata else { return Metadata::new() };
    let is_ours =
        |filter: &str, key: &str| matches!((filter, key), (ISTIO, WORKLOAD) | (TRANSPORT, IDENTITY));
    let fields = |filter: &str, values: &pb::Struct| -> MetadataStruct {
        let others = values.fields.iter().filter(|(key, _)| !is_ours(filter, key));
        others.map(|(key, value)| (key.as_str().into(), value_of(value))).collect()
    };
    let all = metadata.filter_metadata.iter();
    let all = all.map(|(filter, values)| (filter.as_str().into(), fields(filter, values)));
    all.filter(|(_, fields): &(_, MetadataStruct)| !fields.is_empty()).collect()
}

/// A `Struct` as the model has it.
pub(crate) fn struct_as_is(values: &pb::Struct) -> MetadataStruct {
    values.fields.iter().map(|(key, value)| (key.as_str().into(), value_of(value))).collect()
}

/// A value as the model has it.
pub(crate) fn value_of(value: &pb::Value) -> MetadataValue {
    use pb::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => MetadataValue::Null,
        Some(Kind::BoolValue(value)) => MetadataValue::Bool(*value),
        Some(Kind::NumberValue(value)) => MetadataValue::Number(*value),
        Some(Kind::StringValue(value)) => MetadataValue::Text(value.as_str().into()),
        Some(Kind::StructValue(value)) => MetadataValue::Struct(struct_as_is(value)),
        Some(Kind::ListValue(list)) => MetadataValue::List(list.values.iter().map(value_of).collect()),
    }
}

/// A `Struct` of the model's values.
pub(crate) fn to_struct<'v>(
    values: impl IntoIterator<Item = (&'v Arc<str>, &'v MetadataValue)>,
) -> pb::Struct {
    let fields = values.into_iter().map(|(key, value)| (key.to_string(), to_value(value)));
    pb::Struct { fields: fields.collect() }
}

/// A value of the model.
fn to_value(value: &MetadataValue) -> pb::Value {
    use pb::value::Kind;
    let kind = match value {
        MetadataValue::Null => Kind::NullValue(0),
        MetadataValue::Bool(value) => Kind::BoolValue(*value),
        MetadataValue::Number(value) => Kind::NumberValue(*value),
        MetadataValue::Text(text) => Kind::StringValue(text.to_string()),
        MetadataValue::List(values) => {
            Kind::ListValue(pb::ListValue { values: values.iter().map(to_value).collect() })
        }
        MetadataValue::Struct(values) => Kind::StructValue(to_struct(values)),
    };
    pb::Value { kind: Some(kind) }
}

/// What balancing is to ask for, as metadata; `None` where that is nothing.
pub(crate) fn of_balancing(criteria: &[Criterion]) -> Option<pb::core::Metadata> {
    let asked = || to_struct(criteria.iter().map(|(key, value)| (key, value)));
    (!criteria.is_empty()).then(|| pb::core::Metadata {
        filter_metadata: [(BALANCING.to_owned(), asked())].into(),
        ..pb::core::Metadata::default()
    })
}

/// A `Struct` as a JSON object.
pub(crate) fn to_json(message: &pb::Struct) -> Value {
    Value::Object(message.fields.iter().map(|(key, value)| (key.clone(), value_to_json(value))).collect())
}

fn value_to_json(value: &pb::Value) -> Value {
    use pb::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(value)) => Value::String(value.clone()),
        Some(Kind::StructValue(value)) => to_json(value),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(value_to_json).collect()),
    }
}

/// The largest double below which every whole number is exact.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// Whole numbers stay whole: `Struct` knows doubles only.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= MAX_WHOLE {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within 53 bits")]
        return Value::Number((value as i64).into());
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// A JSON object as a `Struct`; of anything else, an empty one.
pub(crate) fn from_json(value: &Value) -> pb::Struct {
    let Value::Object(fields) = value else { return pb::Struct::default() };
    struct_of(fields)
}

fn struct_of(fields: &Map<String, Value>) -> pb::Struct {
    pb::Struct { fields: fields.iter().map(|(key, value)| (key.clone(), value_from_json(value))).collect() }
}

fn value_from_json(value: &Value) -> pb::Value {
    use envoy_types::pb::google::protobuf::ListValue;
    use pb::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.iter().map(value_from_json).collect() })
        }
        Value::Object(fields) => Kind::StructValue(struct_of(fields)),
    };
    pb::Value { kind: Some(kind) }
}

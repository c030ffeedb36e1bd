use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A plain value of metadata. Source: `google.protobuf.Value`.
#[derive(Clone, Debug)]
pub enum MetadataValue {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number, never NaN.
    Number(f64),
    /// A text.
    Text(Arc<str>),
    /// Values in order.
    List(Vec<MetadataValue>),
    /// Values by name.
    Struct(MetadataStruct),
}

/// Values by name.
pub type MetadataStruct = BTreeMap<Arc<str>, MetadataValue>;

/// What is known of an endpoint, a locality, a route or a cluster, by the name of the filter that reads it.
pub type Metadata = BTreeMap<Arc<str>, MetadataStruct>;

/// A key and the value that it must have. Lists of them are sorted by key, each key once.
pub type Criterion = (Arc<str>, MetadataValue);

/// The metadata that balancing reads: `hash_key`, and the keys of subsets. Source: Envoy `envoy.lb`.
pub const BALANCING: &str = "envoy.lb";

/// The metadata that transports are matched by. Source: Envoy `Cluster.transport_socket_matches`.
pub const TRANSPORT_MATCH: &str = "envoy.transport_socket_match";

impl MetadataValue {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What makes two values equal: 0 and -0 are.
    fn key(&self) -> (u8, u64) {
        match self {
            Self::Null => (0, 0),
            Self::Bool(value) => (1, u64::from(*value)),
            Self::Number(value) => (2, (value + 0.0).to_bits()),
            Self::Text(_) => (3, 0),
            Self::List(_) => (4, 0),
            Self::Struct(_) => (5, 0),
        }
    }
}

impl PartialEq for MetadataValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(mine), Self::Text(theirs)) => mine == theirs,
            (Self::List(mine), Self::List(theirs)) => mine == theirs,
            (Self::Struct(mine), Self::Struct(theirs)) => mine == theirs,
            _ => self.key() == other.key(),
        }
    }
}

impl Eq for MetadataValue {}

impl Hash for MetadataValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        match self {
            Self::Text(text) => text.hash(state),
            Self::List(values) => values.hash(state),
            Self::Struct(values) => values.hash(state),
            Self::Null | Self::Bool(_) | Self::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_equal_by_kind_and_content() {
        use MetadataValue::{Bool, List, Null, Number, Struct, Text};
        let text = |text: &str| Text(text.into());
        let all = [
            Null,
            Bool(false),
            Bool(true),
            Number(0.0),
            Number(1.0),
            text(""),
            text("1"),
            List(vec![]),
            List(vec![text("1")]),
            Struct(MetadataStruct::new()),
            Struct([("a".into(), Null)].into()),
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(one == other, at == other_at, "{one:?} {other:?}");
            }
        }
        assert_eq!(Number(0.0), Number(-0.0));
    }
}

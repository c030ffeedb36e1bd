//! JSON of tokens, read more strictly than JSON asks for: each member once, and not nested deep. A member that stands
//! twice is read one way here and another way by whoever gets the token next.
//!
//! Source: RFC 7515 §4, RFC 7519 §4; RFC 8725 §2.4.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use meshwork_model::metadata::Value;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The deepest nesting; issuers have three or four.
const DEPTH: usize = 32;

/// An object, and nothing behind it.
pub(super) fn object(text: &[u8]) -> Option<BTreeMap<Arc<str>, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Within(DEPTH).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Map(fields) => Some(fields),
        _ => None,
    }
}

/// A value that is nested so deep at most.
struct Within(usize);

impl Within {
    fn below<E: Error>(&self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("it is nested too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Within {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Within {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
        Ok(Value::Bool(bool))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(float(&number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(float(&number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.below()?)? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.below()?)?;
            if fields.insert(Arc::from(name), value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Map(fields))
    }
}

fn float(number: &serde_json::Number) -> Value {
    Value::Number(number.as_f64().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_one_way_or_not_at_all() {
        let good = object(br#"{"a": 1, "b": {"a": [null, true, -2.5, "x"]}, "c": {"a": {}}}"#).expect("good");
        let list = vec![Value::Null, Value::Bool(true), Value::Number(-2.5), Value::Text("x".into())];
        assert_eq!(good["a"], Value::Number(1.0));
        assert_eq!(good["b"], Value::Map([("a".into(), Value::List(list))].into()));
        for bad in [
            "",
            "[]",
            "1",
            "{} {}",
            "{} x",
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"{"b": {"a": 1, "a": 2}}"#,
            r#"{"b": [{"a": 1, "a": 2}]}"#,
            "{'a': 1}",
            "{\"a\": 1,}",
            "{\"a\": 1e999}",
            "{\"a\": NaN}",
        ] {
            assert!(object(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(object(b"{\"a\": \"\xff\"}").is_none());
    }

    #[test]
    fn depth_has_a_bound() {
        let nested = |depth: usize| format!("{{\"a\": {}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(object(nested(DEPTH - 1).as_bytes()).is_some());
        assert!(object(nested(DEPTH).as_bytes()).is_none());
        assert!(object(nested(30_000).as_bytes()).is_none());
    }
}

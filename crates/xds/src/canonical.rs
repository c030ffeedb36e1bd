//! One encoding for one message: map entries in the order of their bytes, also inside an `Any`.
//!
//! Protobuf leaves the order of a map's entries open, and the generated types keep them in hash maps, so the same
//! message has many encodings. Versions are hashes of bytes, so they need one.

use std::cmp::Ordering;

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{Kind, MessageDescriptor};

use crate::descriptors;

/// The same message with its map entries in order. The bytes must be an encoding of such a message; what is not
/// is kept as it is.
pub(crate) fn canonical(descriptor: &MessageDescriptor, bytes: &[u8]) -> Vec<u8> {
    fields(descriptor, bytes).unwrap_or_else(|| bytes.to_vec())
}

/// A field, encoded again.
struct Field {
    number: u32,
    is_map: bool,
    bytes: Vec<u8>,
}

fn fields(descriptor: &MessageDescriptor, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes;
    let mut fields: Vec<Field> = Vec::new();
    while !rest.is_empty() {
        fields.push(field(descriptor, &mut rest)?);
    }
    // Stable: elements of a repeated field keep their order.
    fields.sort_by(|a, b| {
        let same = if a.is_map { a.bytes.cmp(&b.bytes) } else { Ordering::Equal };
        a.number.cmp(&b.number).then(same)
    });
    Some(fields.into_iter().flat_map(|field| field.bytes).collect())
}

fn field(descriptor: &MessageDescriptor, rest: &mut &[u8]) -> Option<Field> {
    let (number, wire_type) = decode_key(rest).ok()?;
    let known = descriptor.get_field(number);
    let mut bytes = Vec::new();
    encode_key(number, wire_type, &mut bytes);
    match wire_type {
        WireType::Varint => encode_varint(decode_varint(rest).ok()?, &mut bytes),
        WireType::SixtyFourBit => bytes.extend_from_slice(take(rest, 8)?),
        WireType::ThirtyTwoBit => bytes.extend_from_slice(take(rest, 4)?),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
            let value = take(rest, length)?;
            let value = match known.as_ref().map(prost_reflect::FieldDescriptor::kind) {
                Some(Kind::Message(nested)) if nested.full_name() == "google.protobuf.Any" => {
                    any(&nested, value)
                }
                Some(Kind::Message(nested)) => canonical(&nested, value),
                _ => value.to_vec(),
            };
            encode_varint(u64::try_from(value.len()).ok()?, &mut bytes);
            bytes.extend(value);
        }
        WireType::StartGroup | WireType::EndGroup => return None,
    }
    Some(Field { number, is_map: known.is_some_and(|field| field.is_map()), bytes })
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn any(descriptor: &MessageDescriptor, bytes: &[u8]) -> Vec<u8> {
    use prost::Message as _;
    let Ok(mut any) = crate::pb::Any::decode(bytes) else { return canonical(descriptor, bytes) };
    if let Some(nested) = descriptors::message(&any.type_url) {
        any.value = canonical(&nested, &any.value);
    }
    any.encode_to_vec()
}

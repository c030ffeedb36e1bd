//! What a rule cannot do without, as keys that an index can find it by.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cidr::Cidr;
use crate::metadata::Value;
use crate::proxy::{
    HeaderMatch, HeaderTest, MetadataMatch, Permission, Principal, Rule, StringMatch, ValueMatch,
};

/// Something that a request or connection may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A text at a place, one of whose texts is such.
    Text(Place, Shape, Box<[u8]>),
    /// The port that the connection was made to.
    Port(u16),
    /// An address in a range.
    Address(Side, Cidr),
}

/// Where a text stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The peer's names.
    Peer,
    /// The path without query.
    Path,
    /// Path and query.
    Target,
    /// The authority, in lowercase.
    Host,
    /// The method.
    Method,
    /// The server name.
    ServerName,
    /// A header field.
    Field(Arc<str>),
    /// What a filter found out, by its name and the keys on the way.
    Found(Arc<str>, Arc<[Arc<str>]>),
}

/// What of a text is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// All of it.
    Exact,
    /// How it begins.
    Start,
    /// How it ends.
    End,
    /// That it is there.
    Any,
}

/// Whose address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Direct,
    Remote,
    Source,
    Destination,
}

/// What a test cannot hold without.
#[derive(Debug)]
pub(super) enum Need {
    /// It may hold without anything that could be looked up.
    Nothing,
    /// That.
    Key(Key),
    /// All of these.
    All(Vec<Need>),
    /// One of these; without any it never holds.
    OneOf(Vec<Need>),
}

/// In how many rules each key occurs.
pub(super) type Counts = HashMap<Key, u32>;

/// How many rules a look-up with these keys finds, more or less; and the keys.
type Cover = (u64, Vec<Key>);

/// Of keys that are as rare as each other, those come first that few requests have.
const RANKS: u64 = 8;

/// What a rule cannot apply without.
pub(super) fn of_rule(rule: &Rule) -> Need {
    let permissions = rule.permissions.iter().map(of_permission).collect();
    let principals = rule.principals.iter().map(of_principal).collect();
    Need::All(vec![Need::OneOf(permissions), Need::OneOf(principals)])
}

fn of_permission(permission: &Permission) -> Need {
    match permission {
        Permission::Any | Permission::DestinationPorts { .. } | Permission::Not(_) => Need::Nothing,
        Permission::All(all) => Need::All(all.iter().map(of_permission).collect()),
        Permission::OneOf(any) => Need::OneOf(any.iter().map(of_permission).collect()),
        Permission::Path(text) => of_text(Place::Path, text),
        Permission::Header(test) => of_header(test),
        Permission::DestinationAddress(range) => Need::Key(Key::Address(Side::Destination, *range)),
        Permission::DestinationPort(port) => Need::Key(Key::Port(*port)),
        Permission::ServerName(text) => of_text(Place::ServerName, text),
        Permission::Metadata(test) => of_metadata(test),
    }
}

fn of_principal(principal: &Principal) -> Need {
    match principal {
        Principal::Any | Principal::Not(_) => Need::Nothing,
        Principal::All(all) => Need::All(all.iter().map(of_principal).collect()),
        Principal::OneOf(any) => Need::OneOf(any.iter().map(of_principal).collect()),
        Principal::Authenticated(None) => any_text(Place::Peer),
        Principal::Authenticated(Some(text)) => of_text(Place::Peer, text),
        Principal::DirectAddress(range) => Need::Key(Key::Address(Side::Direct, *range)),
        Principal::RemoteAddress(range) => Need::Key(Key::Address(Side::Remote, *range)),
        Principal::SourceAddress(range) => Need::Key(Key::Address(Side::Source, *range)),
        Principal::Header(test) => of_header(test),
        Principal::EachValue { name, tests } => match place_of(name) {
            Some(place) => Need::OneOf(tests.iter().map(|test| of_text(place.clone(), test)).collect()),
            None => Need::Nothing,
        },
        Principal::Path(text) => of_text(Place::Path, text),
        Principal::Metadata(test) => of_metadata(test),
    }
}

fn of_header(test: &HeaderMatch) -> Need {
    let Some(place) = place_of(&test.name).filter(|_| !test.invert) else { return Need::Nothing };
    match &test.test {
        HeaderTest::Present | HeaderTest::Range { .. } => any_text(place),
        HeaderTest::Value(text) => of_text(place, text),
        HeaderTest::OrMissing(_) => Need::Nothing,
    }
}

fn place_of(name: &Arc<str>) -> Option<Place> {
    match &**name {
        ":method" => Some(Place::Method),
        ":path" => Some(Place::Target),
        ":authority" | "host" => Some(Place::Host),
        // It has two values; nothing is gained by looking it up. The others are not among the fields.
        ":scheme" | "content-length" | "transfer-encoding" | "upgrade" => None,
        _ => Some(Place::Field(Arc::clone(name))),
    }
}

fn of_metadata(test: &MetadataMatch) -> Need {
    if test.invert {
        return Need::Nothing;
    }
    let place = Place::Found(Arc::clone(&test.filter), test.path.as_slice().into());
    of_value(&place, &test.value)
}

fn of_value(place: &Place, test: &ValueMatch) -> Need {
    match test {
        ValueMatch::Text(text) => of_text(place.clone(), text),
        ValueMatch::OneOf(within) => of_value(place, within),
        ValueMatch::Or(tests) => Need::OneOf(tests.iter().map(|test| of_value(place, test)).collect()),
        // Other values are not looked up.
        _ => Need::Nothing,
    }
}

fn any_text(place: Place) -> Need {
    Need::Key(Key::Text(place, Shape::Any, Box::default()))
}

fn of_text(place: Place, test: &StringMatch) -> Need {
    let (shape, text) = match test {
        StringMatch::Exact(text) => (Shape::Exact, text.to_string()),
        StringMatch::Prefix(text) => (Shape::Start, text.to_string()),
        StringMatch::Suffix(text) => (Shape::End, text.to_string()),
        StringMatch::Regex(regex) => (Shape::Start, regex.literal_start()),
        StringMatch::AnyCase(test) if place == Place::Host => return of_text(place, test),
        StringMatch::Contains(_) | StringMatch::AnyCase(_) => (Shape::Any, String::new()),
    };
    let shape = if text.is_empty() && shape != Shape::Exact { Shape::Any } else { shape };
    // Hosts are looked up in lowercase: who passes a test in which case counts passes it without, too.
    let text = if place == Place::Host { text.to_ascii_lowercase() } else { text };
    Need::Key(Key::Text(place, shape, text.into_bytes().into()))
}

/// Visits a value's texts: itself, or those in a list, as tests of values see them.
pub(super) fn each_text(value: &Value, visit: &mut impl FnMut(&[u8])) {
    match value {
        Value::Text(text) => visit(text.as_bytes()),
        Value::List(values) => values.iter().for_each(|value| each_text(value, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Map(_) => {}
    }
}

// === impl Need ===

impl Need {
    /// Visits all keys.
    pub(super) fn each_key<'n>(&'n self, visit: &mut impl FnMut(&'n Key)) {
        match self {
            Self::Nothing => {}
            Self::Key(key) => visit(key),
            Self::All(needs) | Self::OneOf(needs) => needs.iter().for_each(|need| need.each_key(visit)),
        }
    }

    /// Keys of which one is there wherever the test holds: those that are the rarest. `None` where there are none such.
    pub(super) fn cover(&self, counts: &Counts) -> Option<Cover> {
        match self {
            Self::Nothing => None,
            Self::Key(key) => {
                let count = counts.get(key).copied().unwrap_or(0);
                Some((u64::from(count) * RANKS + key.rank(), vec![key.clone()]))
            }
            Self::All(needs) => {
                needs.iter().filter_map(|need| need.cover(counts)).min_by_key(|(cost, _)| *cost)
            }
            Self::OneOf(needs) => needs.iter().try_fold((0, Vec::new()), |(sum, mut keys), need| {
                let (cost, more) = need.cover(counts)?;
                keys.extend(more);
                Some((sum + cost, keys))
            }),
        }
    }
}

impl Key {
    fn rank(&self) -> u64 {
        match self {
            Self::Text(Place::Method, ..) | Self::Port(_) => 6,
            Self::Text(_, Shape::Exact, _) => 0,
            Self::Text(_, Shape::Start, _) => 1,
            Self::Text(_, Shape::End, _) => 2,
            Self::Address(..) => 3,
            Self::Text(_, Shape::Any, _) => 7,
        }
    }
}

//! Random resources: all that the model can say and Envoy's messages can carry to our own proxy.

mod cluster;
mod filter;
mod listener;
mod log;
mod policy;
mod route;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use meshwork_model::cidr::Cidr;
use meshwork_model::format::Template;
use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{Criterion, Metadata, MetadataStruct, MetadataValue, Resource, StringMatch};
use meshwork_model::regex::{Regex, Rewrite};
use meshwork_model::spiffe::SpiffeId;

/// How deeply tests of tests, and values of values, are nested.
const DEPTH: usize = 3;

/// Makes resources; `plain` ones have nothing in them that Envoy refuses by what it knows beside the message: letters
/// that no field has, files that are not there.
pub(super) struct Random(pub(super) Rng, pub(super) Plain);

/// See [`Random`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    No,
    Yes,
}

impl Random {
    pub(super) fn resource(&mut self) -> Resource {
        match self.0.u8(0..5) {
            0 => Resource::Listener(self.listener()),
            4 => Resource::Names(self.names()),
            1 => Resource::Routes(self.table()),
            2 => Resource::Cluster(self.cluster()),
            _ => Resource::Endpoints(self.endpoints()),
        }
    }

    fn text(&mut self) -> Arc<str> {
        let length = self.0.usize(1..8);
        let letters = ['a', 'b', 'z', '0', '9', '-', '/', '|', 'é'];
        let letters = if self.1 == Plain::Yes { &letters[..5] } else { &letters[..] };
        (0..length).map(|_| letters[self.0.usize(0..letters.len())]).collect::<String>().into()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.0.bool().then(|| make(self))
    }

    fn some<T>(&mut self, least: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.0.usize(least..least + 3);
        (0..count).map(|_| make(self)).collect()
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(0..choices.len())]
    }

    fn time(&mut self) -> Duration {
        Duration::new(self.0.u64(0..1000), self.0.u32(1..1_000_000_000))
    }

    fn address(&mut self) -> SocketAddr {
        let port = self.0.u16(..);
        if self.0.bool() {
            (self.0.u32(..).to_be_bytes(), port).into()
        } else {
            (self.0.u128(..).to_be_bytes(), port).into()
        }
    }

    fn identity(&mut self) -> SpiffeId {
        SpiffeId::workload("mesh.local", "shop", &format!("sa-{}", self.0.u8(..))).unwrap()
    }

    /// What stands in a map: sorted, each once.
    fn sorted<T>(&mut self, make: impl FnMut(&mut Self) -> T, key: impl Fn(&T) -> Arc<str>) -> Vec<T> {
        let mut all = self.some(0, make);
        all.sort_by_key(|item| key(item));
        all.dedup_by_key(|item| key(item));
        all
    }

    fn time_or(&mut self, other: Duration) -> Duration {
        self.maybe(Self::time).unwrap_or(other)
    }

    fn optional_text(&mut self) -> Arc<str> {
        self.maybe(Self::text).unwrap_or_default()
    }

    /// The name of a field that may be changed.
    fn field(&mut self) -> Arc<str> {
        self.pick(&["x-a", "x-b", "accept", "user-agent"]).into()
    }

    fn cidr(&mut self) -> Cidr {
        Cidr::new(self.address().ip(), self.0.u32(0..129))
    }

    fn host_name(&mut self) -> Arc<str> {
        let label = |random: &mut Self| random.pick(&["a", "b-2", "cdn", "example", "_x"]);
        self.some(2, label).join(".").into()
    }

    fn share(&mut self) -> Fraction {
        Fraction { numerator: self.0.u32(1..), denominator: self.pick(&[100, 10_000, 1_000_000]) }
    }

    fn template(&mut self) -> Template {
        let formats = ["", "plain", "100%%", "%REQ(x-a)%", "a %PROTOCOL% b", "%REQ_WITHOUT_QUERY(:path)%"];
        Template::parse(self.pick(&formats)).unwrap()
    }

    /// A template of a field's value, where no extension is asked for.
    fn value(&mut self) -> Template {
        Template::parse(self.pick(&["", "plain", "100%%", "%REQ(x-a)%", "a %PROTOCOL% b"])).unwrap()
    }

    fn rewrite(&mut self) -> Rewrite {
        let (pattern, with) = self.pick(&[("/(a|b)", "/\\1"), ("^/x/?", "/"), ("[0-9]+", "n")]);
        Rewrite::new(pattern, with).unwrap()
    }

    fn string(&mut self) -> StringMatch {
        match self.0.u8(0..6) {
            0 => StringMatch::Exact(self.text()),
            1 => StringMatch::Prefix(self.text()),
            2 => StringMatch::Suffix(self.text()),
            3 => StringMatch::Contains(self.text()),
            4 => StringMatch::Regex(Regex::new(self.pick(&["a|b", "/[0-9]+", ".*"])).unwrap()),
            _ => StringMatch::AnyCase(Box::new(StringMatch::Exact(self.text()))),
        }
    }

    fn known(&mut self, depth: usize) -> MetadataValue {
        match self.0.u8(if depth == 0 { 0..4 } else { 0..6 }) {
            0 => MetadataValue::Null,
            1 => MetadataValue::Bool(self.0.bool()),
            2 => MetadataValue::Number(self.0.f64() * 1000.0),
            3 => MetadataValue::Text(self.optional_text()),
            4 => MetadataValue::List(self.some(0, |random| random.known(depth - 1))),
            _ => MetadataValue::Struct(self.values(0, depth - 1)),
        }
    }

    fn values(&mut self, least: usize, depth: usize) -> MetadataStruct {
        self.some(least, |random| (random.text(), random.known(depth))).into_iter().collect()
    }

    fn metadata(&mut self) -> Metadata {
        let filter = |random: &mut Self| {
            random.pick(&["envoy.lb", "istio", "envoy.transport_socket_match", "other"]).into()
        };
        self.some(0, |random| (filter(random), random.values(1, DEPTH))).into_iter().collect()
    }

    fn criteria(&mut self) -> Vec<Criterion> {
        self.values(0, 1).into_iter().collect()
    }
}

//! What the client does, step by step, as a case says it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::answer::{Headers, duration};
use super::template;

/// A step as it was written: a request, a pause, a look at the admin interface.
#[derive(Clone, Debug)]
pub(super) struct Step(Value);

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = match Value::deserialize(deserializer)? {
            Value::String(line) => serde_json::json!({ "request": line }),
            other => other,
        };
        Fields::deserialize(&value).map_err(serde::de::Error::custom)?;
        Ok(Self(value))
    }
}

impl Step {
    /// Whether it expects something else of each program.
    pub(super) fn tells_apart(&self) -> bool {
        !self.0["meshwork"].is_null() || !self.0["envoy"].is_null()
    }

    /// The step with the meaning of its placeholders.
    pub(super) fn filled(&self, meaning: &dyn Fn(&str, &str) -> Option<String>) -> Fields {
        let mut value = self.0.clone();
        template::fill_texts(&mut value, meaning);
        Fields::deserialize(value).expect("it was one before")
    }
}

/// The fields of a step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word that a case may say")]
pub(super) struct Fields {
    pub(super) name: Option<String>,
    /// The listener, by the name of its port; `$LISTEN` is `main`.
    #[serde(default = "main")]
    pub(super) to: String,
    /// The client's own address, when not 127.0.0.1.
    pub(super) from: Option<String>,
    /// Steps with the same connection share it.
    pub(super) connection: Option<String>,

    /// `GET /path`.
    pub(super) request: Option<String>,
    /// 1 or 2.
    #[serde(default = "one")]
    pub(super) http: u8,
    /// The authority; without it `shop.example`.
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) headers: Headers,
    pub(super) body: Option<String>,
    pub(super) body_bytes: Option<usize>,
    /// A chunked body, where it is HTTP/1.1.
    #[serde(default)]
    pub(super) chunked: bool,
    #[serde(default)]
    pub(super) trailers: Headers,
    /// A gRPC call: its path, and the request as JSON.
    pub(super) grpc: Option<Grpc>,

    /// HTTP/1.1 as bytes, one for each character.
    pub(super) raw: Option<String>,
    /// How many answers come to raw bytes.
    #[serde(default = "one_answer")]
    pub(super) answers: usize,
    /// Whether it is judged that the connection is closed behind the last answer, or is not.
    #[serde(default)]
    pub(super) then_closed: bool,

    /// Bytes that follow the last answer, behind an upgrade; as many come back, or `reads`.
    pub(super) then_sends: Option<String>,

    /// Raw bytes, then the client's half is closed, unless it stays; the answer is all that comes.
    pub(super) tcp: Option<String>,
    /// The raw client's half stays open, and this many bytes are waited for.
    pub(super) reads: Option<usize>,

    /// Bytes before everything, TLS included: a PROXY-protocol header.
    #[serde(default)]
    pub(super) prefix: String,
    /// The same in hexadecimal.
    #[serde(default)]
    pub(super) prefix_hex: String,
    pub(super) tls: Option<TlsClient>,

    /// A request to the admin interface: `GET /ready`.
    pub(super) admin: Option<String>,

    /// A pause before it.
    #[serde(default, deserialize_with = "duration")]
    pub(super) wait: Duration,
    /// The client gives up after this time and resets.
    #[serde(default, deserialize_with = "duration")]
    pub(super) gives_up: Duration,
    /// How often it is done; `$N` in paths and values counts from 0.
    #[serde(default = "one_answer")]
    pub(super) repeat: usize,
    /// The repetitions go out at once.
    #[serde(default)]
    pub(super) parallel: bool,
    /// They are judged by their distribution.
    pub(super) distribution: Option<Distribution>,
    /// How many requests these origins see of it, where they come after the answer: mirrors.
    #[serde(default)]
    pub(super) sees: BTreeMap<String, usize>,
    /// It is repeated until its `expect` holds.
    #[serde(default)]
    pub(super) eventually: bool,
    /// What both must do, as a part of the outcome.
    pub(super) expect: Option<Value>,
    /// What we must do instead of what Envoy does.
    pub(super) meshwork: Option<Value>,
    /// What Envoy does then.
    pub(super) envoy: Option<Value>,
    /// The wording of answers that the programs make themselves is judged, too.
    #[serde(default)]
    pub(super) words: bool,
    /// Files below `$DIR` that are written before the request.
    #[serde(default)]
    pub(super) writes: BTreeMap<String, String>,
}

impl Default for Fields {
    fn default() -> Self {
        serde_json::from_str("{}").expect("every field has a default")
    }
}

impl Fields {
    /// Whether nothing is sent.
    pub(super) fn is_pause(&self) -> bool {
        let sends = self.request.is_some() || self.raw.is_some() || self.tcp.is_some() || self.grpc.is_some();
        !sends && self.admin.is_none() && self.body.is_none() && self.body_bytes.is_none()
    }
}

fn main() -> String {
    "main".to_owned()
}

fn one() -> u8 {
    1
}

fn one_answer() -> usize {
    1
}

/// A gRPC call with one message.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grpc {
    /// `/package.Service/Method`; a method that no descriptor knows takes the message as text.
    pub(super) method: String,
    pub(super) message: Value,
}

/// The client's TLS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsClient {
    /// None is sent where it is not said.
    pub(super) sni: Option<String>,
    #[serde(default)]
    pub(super) alpn: Vec<String>,
    /// The client's certificate, by its name.
    pub(super) cert: Option<String>,
    /// The only version: 1.2 or 1.3.
    pub(super) version: Option<String>,
}

/// How repetitions are judged.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Distribution {
    /// `origin`, `status`, or the name of a field of the answer.
    pub(super) by: String,
    /// The counts must be equal; otherwise they may differ as much as chance allows.
    #[serde(default)]
    pub(super) exact: bool,
}

//! What an origin is and answers, as a case says it.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An origin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    /// What it answers, each `times` times and for requests that fit `when`; the last one forever.
    #[serde(default)]
    pub(super) answers: Vec<Answer>,
    /// HTTP/2 from its default cluster; it speaks both in any case.
    #[serde(default)]
    pub(super) http2: bool,
    pub(super) tls: Option<TlsServer>,
    /// Raw TCP: what it does with a connection.
    pub(super) tcp: Option<Tcp>,
    /// A PROXY-protocol header comes first, and is recorded.
    #[serde(default)]
    pub(super) proxy_protocol: bool,
    /// Nobody listens there.
    #[serde(default)]
    pub(super) closed: bool,
    /// Where it listens, when not on 127.0.0.1.
    pub(super) address: Option<String>,
}

/// TLS that an origin speaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsServer {
    /// The certificate, by its name.
    #[serde(default = "server")]
    pub(super) cert: String,
    /// Clients must show a certificate of this authority.
    pub(super) client_ca: Option<String>,
    #[serde(default)]
    pub(super) alpn: Vec<String>,
    /// The only version: 1.2 or 1.3.
    pub(super) version: Option<String>,
}

fn server() -> String {
    "server".to_owned()
}

/// What a raw origin does: it greets, reads until the peer closes or `reads` bytes have come, answers, and closes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    #[serde(default)]
    pub(super) greets: String,
    pub(super) reads: Option<usize>,
    #[serde(default)]
    pub(super) answers: String,
    /// Every byte goes back at once.
    #[serde(default)]
    pub(super) echo: bool,
    /// It does not close by itself.
    #[serde(default)]
    pub(super) stays: bool,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    pub(super) when: Option<When>,
    /// How many requests get it; all, when not said.
    pub(super) times: Option<usize>,
    #[serde(default = "ok")]
    pub(super) status: u16,
    #[serde(default)]
    pub(super) headers: Headers,
    #[serde(default = "hello")]
    pub(super) body: String,
    /// A body of this many bytes instead.
    pub(super) body_bytes: Option<usize>,
    #[serde(default)]
    pub(super) trailers: Headers,
    #[serde(default, deserialize_with = "duration")]
    pub(super) delay: Duration,
    /// Time between head and body.
    #[serde(default, deserialize_with = "duration")]
    pub(super) pause: Duration,
    /// These bytes instead of a message (HTTP/1.1).
    pub(super) raw: Option<String>,
    /// Interim answers before it: 103.
    #[serde(default)]
    pub(super) interim: Vec<u16>,
    /// The connection closes behind it.
    #[serde(default)]
    pub(super) close: bool,
    /// The connection, or the stream with this code, is reset in place of an answer.
    pub(super) reset: Option<String>,
    /// The body is cut off in the middle and the connection, or the stream, reset.
    #[serde(default)]
    pub(super) cut: bool,
    /// A gRPC answer: the message as JSON of the type that the method in the path has; `null` for none.
    pub(super) grpc: Option<Value>,
    /// Its status; 0 when not said.
    pub(super) grpc_status: Option<u16>,
    /// Whether the body is the request's, sent back.
    #[serde(default)]
    pub(super) echo: bool,
}

impl Default for Answer {
    fn default() -> Self {
        serde_json::from_str("{}").expect("every field has a default")
    }
}

fn ok() -> u16 {
    200
}

fn hello() -> String {
    "hello".to_owned()
}

/// Which requests get an answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct When {
    /// The path begins so.
    pub(super) path: Option<String>,
    pub(super) method: Option<String>,
    /// It has this field, `name: value`.
    pub(super) header: Option<String>,
}

/// Fields: a map of names to values or lists of them, or a list of pairs.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Vec::new();
        match Value::deserialize(deserializer)? {
            Value::Object(map) => {
                for (name, value) in &map {
                    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                    fields.extend(values.iter().map(|value| (name.clone(), text(value))));
                }
            }
            Value::Array(pairs) => {
                fields.extend(pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))));
            }
            other => return Err(serde::de::Error::custom(format!("not fields: {other}"))),
        }
        Ok(Self(fields))
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Reads `100ms` or `2s`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = match text.strip_suffix("ms") {
        Some(number) => number.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s').and_then(|number| number.parse().ok()).map(Duration::from_secs_f64),
    };
    parsed.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no duration: 100ms, 2s")))
}

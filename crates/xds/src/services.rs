//! Messages of the services that filters ask: external authorization.
//!
//! Envoy's protobufs stop here; the data plane sees bytes and plain values.
//! Source: Envoy `service.auth.v3`.

#![expect(deprecated, reason = "programs in use read and write the older forms, too")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use meshwork_model::metadata::{Metadata, Value};
use prost::Message as _;

use crate::pb::{self, auth};

/// Where a check is asked for.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What an authorization service is asked.
#[derive(Default)]
pub struct Check<'c> {
    /// Who asks.
    pub source: CheckPeer<'c>,
    /// Who is asked.
    pub destination: CheckPeer<'c>,
    /// When.
    pub time: Option<SystemTime>,
    /// The request's number.
    pub id: String,
    /// Its method.
    pub method: &'c str,
    /// Its path and query.
    pub path: &'c str,
    /// Its host.
    pub host: &'c str,
    /// Its scheme.
    pub scheme: &'c str,
    /// Its protocol, as `HTTP/1.1`.
    pub protocol: &'c str,
    /// Its fields, several values of one joined.
    pub headers: Vec<(String, String)>,
    /// How many bytes of its body have come.
    pub size: i64,
    /// Its body, as far as it is sent along.
    pub body: Option<(&'c [u8], bool)>,
    /// What config says besides.
    pub extensions: Vec<(String, String)>,
    /// What filters found out, by their names.
    pub metadata: Option<(&'c Metadata, Vec<&'c str>)>,
    /// The server name that the connection asked for.
    pub server_name: Option<&'c str>,
}

/// One end of a request.
#[derive(Default)]
pub struct CheckPeer<'c> {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// The name in its certificate.
    pub principal: &'c str,
    /// Its certificate, PEM in percent encoding.
    pub certificate: String,
}

/// What an authorization service answers.
#[derive(Debug, Default, PartialEq)]
pub struct Checked {
    /// Whether the request passes.
    pub is_allowed: bool,
    /// The status of a refusal.
    pub status: Option<u16>,
    /// The body of a refusal.
    pub body: String,
    /// Fields of the request, or of a refusal, in the place of what is there.
    pub set: Vec<(String, String)>,
    /// Fields that the request gets besides what is there.
    pub add: Vec<(String, String)>,
    /// Fields that are appended to what is there.
    pub append: Vec<(String, String)>,
    /// Fields that the request loses.
    pub remove: Vec<String>,
    /// Fields that the response gets besides.
    pub response_add: Vec<(String, String)>,
    /// Fields that the response gets in the place of what is there.
    pub response_set: Vec<(String, String)>,
    /// Parameters of the query that are set.
    pub query_set: Vec<(String, String)>,
    /// Parameters that are removed.
    pub query_remove: Vec<String>,
    /// What it found out.
    pub metadata: Vec<(String, Value)>,
}

impl Check<'_> {
    /// The message's bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut http = auth::attribute_context::HttpRequest {
            id: self.id,
            method: self.method.to_owned(),
            headers: self.headers.into_iter().collect(),
            path: self.path.to_owned(),
            host: self.host.to_owned(),
            scheme: self.scheme.to_owned(),
            protocol: self.protocol.to_owned(),
            size: self.size,
            ..auth::attribute_context::HttpRequest::default()
        };
        match self.body {
            Some((body, true)) => http.raw_body = body.to_vec(),
            Some((body, false)) => http.body = String::from_utf8_lossy(body).into_owned(),
            None => {}
        }
        let metadata_context = self.metadata.map(|(metadata, names)| {
            let of = |name: &&str| Some(((*name).to_owned(), to_struct(metadata.of(name)?)));
            pb::core::Metadata {
                filter_metadata: names.iter().filter_map(of).collect(),
                ..pb::core::Metadata::default()
            }
        });
        let sni = |name: &str| auth::attribute_context::TlsSession { sni: name.to_owned() };
        let attributes = auth::AttributeContext {
            source: Some(self.source.message()),
            destination: Some(self.destination.message()),
            request: Some(auth::attribute_context::Request {
                time: self.time.map(timestamp),
                http: Some(http),
            }),
            context_extensions: self.extensions.into_iter().collect::<HashMap<_, _>>(),
            metadata_context: Some(metadata_context.unwrap_or_default()),
            route_metadata_context: Some(pb::core::Metadata::default()),
            tls_session: self.server_name.map(sni),
        };
        auth::CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }
}

impl CheckPeer<'_> {
    fn message(self) -> auth::attribute_context::Peer {
        auth::attribute_context::Peer {
            address: self.address.map(address),
            principal: self.principal.to_owned(),
            certificate: self.certificate,
            ..auth::attribute_context::Peer::default()
        }
    }
}

impl Checked {
    /// Reads a service's answer.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        use auth::check_response::HttpResponse;
        let message = auth::CheckResponse::decode(bytes).map_err(|error| error.to_string())?;
        let is_allowed = message.status.as_ref().is_none_or(|status| status.code == 0);
        let mut checked = Self { is_allowed, ..Self::default() };
        if let Some(found) = message.dynamic_metadata {
            checked.metadata = found.fields.into_iter().map(|(key, found)| (key, value(found))).collect();
        }
        match message.http_response {
            Some(HttpResponse::OkResponse(ok)) if is_allowed => checked.allowed(ok),
            Some(HttpResponse::DeniedResponse(denied)) if !is_allowed => checked.denied(denied),
            _ => {}
        }
        Ok(checked)
    }

    fn allowed(&mut self, ok: auth::OkHttpResponse) {
        for option in ok.headers {
            let appends = option.append.is_some_and(|append| append.value);
            let list = if appends { &mut self.append } else { &mut self.set };
            list.extend(pair(option));
        }
        self.remove = ok.headers_to_remove;
        for option in ok.response_headers_to_add {
            let sets = match &option.append {
                Some(append) => !append.value,
                None => {
                    option.append_action
                        == pb::core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32
                }
            };
            let list = if sets { &mut self.response_set } else { &mut self.response_add };
            list.extend(pair(option));
        }
        self.query_set = ok
            .query_parameters_to_set
            .into_iter()
            .map(|parameter| (parameter.key, parameter.value))
            .collect();
        self.query_remove = ok.query_parameters_to_remove;
    }

    fn denied(&mut self, denied: auth::DeniedHttpResponse) {
        self.status = denied.status.and_then(|status| u16::try_from(status.code).ok());
        self.body = denied.body;
        for option in denied.headers {
            let appends = option.append.is_some_and(|append| append.value);
            let list = if appends { &mut self.append } else { &mut self.set };
            list.extend(pair(option));
        }
    }
}

fn pair(option: pb::core::HeaderValueOption) -> Option<(String, String)> {
    let header = option.header?;
    let value = if header.raw_value.is_empty() {
        header.value
    } else {
        String::from_utf8_lossy(&header.raw_value).into_owned()
    };
    Some((header.key.to_ascii_lowercase(), value))
}

fn address(address: SocketAddr) -> pb::core::Address {
    use pb::core::socket_address::PortSpecifier;
    let socket = pb::core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..pb::core::SocketAddress::default()
    };
    pb::core::Address { address: Some(pb::core::address::Address::SocketAddress(socket)) }
}

fn timestamp(time: SystemTime) -> pb::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    pb::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

fn to_struct<'m>(values: impl IntoIterator<Item = (&'m std::sync::Arc<str>, &'m Value)>) -> pb::Struct {
    pb::Struct { fields: values.into_iter().map(|(key, value)| (key.to_string(), to_value(value))).collect() }
}

fn to_value(value: &Value) -> pb::Value {
    use pb::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(bool) => Kind::BoolValue(*bool),
        Value::Number(number) => Kind::NumberValue(*number),
        Value::Text(text) => Kind::StringValue(text.to_string()),
        Value::List(values) => {
            Kind::ListValue(pb::ListValue { values: values.iter().map(to_value).collect() })
        }
        Value::Map(values) => Kind::StructValue(to_struct(values)),
    };
    pb::Value { kind: Some(kind) }
}

fn value(value_: pb::Value) -> Value {
    use pb::value::Kind;
    match value_.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(bool)) => Value::Bool(bool),
        Some(Kind::NumberValue(number)) => Value::Number(number),
        Some(Kind::StringValue(text)) => Value::Text(text.into()),
        Some(Kind::ListValue(list)) => Value::List(list.values.into_iter().map(value).collect()),
        Some(Kind::StructValue(fields)) => {
            Value::Map(fields.fields.into_iter().map(|(key, field)| (key.into(), value(field))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        use auth::check_response::HttpResponse;
        let option = |key: &str, append: Option<bool>| pb::core::HeaderValueOption {
            header: Some(pb::core::HeaderValue {
                key: key.into(),
                value: "v".into(),
                ..pb::core::HeaderValue::default()
            }),
            append: append.map(|value| pb::BoolValue { value }),
            ..pb::core::HeaderValueOption::default()
        };
        let ok = auth::OkHttpResponse {
            headers: vec![option("X-A", None), option("x-b", Some(true))],
            headers_to_remove: vec!["x-c".into()],
            response_headers_to_add: vec![option("x-d", None), option("x-e", Some(false))],
            ..auth::OkHttpResponse::default()
        };
        let allowed = auth::CheckResponse {
            http_response: Some(HttpResponse::OkResponse(ok.clone())),
            ..auth::CheckResponse::default()
        };
        let pair = |name: &str| vec![(name.to_owned(), "v".to_owned())];
        let checked = Checked::decode(&allowed.encode_to_vec()).expect("read");
        assert!(checked.is_allowed);
        assert_eq!((checked.set, checked.append), (pair("x-a"), pair("x-b")));
        assert_eq!((checked.response_add, checked.response_set), (pair("x-d"), pair("x-e")));
        // The status decides, whatever stands beside it.
        let status = Some(pb::Status { code: 7, ..pb::Status::default() });
        let denied =
            auth::CheckResponse { status, http_response: Some(HttpResponse::OkResponse(ok)), ..allowed };
        let checked = Checked::decode(&denied.encode_to_vec()).expect("read");
        assert_eq!(checked, Checked::default());
        assert!(Checked::decode(b"\xff").is_err());
    }
}

//! What format strings read of a request or connection: a view on what is at hand, made when something is written.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use meshwork_identity::{CertificateFacts, certificates_pem};
use meshwork_model::flag::Flags;
use meshwork_model::format::{Address, Facts, Number, Point, Side, Text, Time, Tls, Wrote};
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::metadata::Value;

use crate::config::{Chain, Filter};
use crate::http::exchange::Place;
use crate::peer::Peer;
use crate::record::Record;
use crate::worker::Worker;

/// A request, or a connection of bytes, as far as it has come.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// The worker.
    pub(crate) worker: &'a Worker,
    /// Who asks.
    pub(crate) peer: &'a Peer,
    /// The chain that took the connection.
    pub(crate) chain: &'a Chain,
    /// What is known so far.
    pub(crate) record: &'a Record,
    /// The request's head; of bytes there is none.
    pub(crate) request: Option<&'a RequestHead>,
    /// The response's head, once there is one.
    pub(crate) response: Option<&'a ResponseHead>,
    /// The version that the client speaks; empty for bytes.
    pub(crate) protocol: &'a str,
    /// The body of an answer that the proxy gives itself.
    pub(crate) body: &'a [u8],
}

impl<'a> Seen<'a> {
    /// A request before there is a response.
    pub(crate) fn of(
        place: Place<'a>,
        record: &'a Record,
        request: &'a RequestHead,
        protocol: &'a str,
    ) -> Self {
        let Place { worker, peer, chain, .. } = place;
        Self { worker, peer, chain, record, request: Some(request), response: None, protocol, body: &[] }
    }
}

impl Facts for Seen<'_> {
    fn request(&self) -> Option<&RequestHead> {
        self.request
    }

    fn response(&self) -> Option<&ResponseHead> {
        self.response.filter(|head| head.status != 0)
    }

    fn trailers(&self) -> Option<&Fields> {
        self.record.trailers.as_deref()
    }

    fn request_length(&self) -> Option<u64> {
        self.record.declared
    }

    fn text(&self, which: Text, out: &mut Vec<u8>) -> bool {
        let text = match which {
            Text::Protocol => self.protocol,
            Text::UpstreamProtocol => self.record.upstream_protocol,
            Text::Details => self.record.details(),
            Text::Cluster => return self.record.cluster_name(|name| put(out, name)),
            Text::HostName => {
                return self.address(Address::UpstreamHost).is_some_and(|host| show(out, &host));
            }
            Text::Route => self.record.route_name(),
            Text::VirtualHost => self.virtual_host().unwrap_or_default(),
            Text::FilterChain => &self.chain.name,
            Text::ServerName => self.peer.server_name.as_deref().unwrap_or_default(),
            Text::Machine => return machine(|name| put(out, name)),
            Text::StreamId => return self.field(b"x-request-id", out),
            Text::TraceId => return self.trace_id(out),
            Text::LocalReplyBody => {
                out.extend_from_slice(self.body);
                return true;
            }
            Text::LogType if self.request.is_some() => "DownstreamEnd",
            Text::LogType => "TcpConnectionEnd",
            Text::UniqueId => {
                out.extend_from_slice(&self.worker.with_random(crate::http::fields::request_id));
                return true;
            }
            Text::Tls(Side::Downstream, which) => return self.tls(which, out),
            Text::Tls(Side::Upstream, Tls::PeerUriSans) => self.record.upstream_principal(),
            Text::UpstreamFailure => return self.record.failure(|text| put(out, text)),
            _ => "",
        };
        put(out, text)
    }

    fn number(&self, which: Number) -> Option<u64> {
        Some(match which {
            Number::Status => self.record.status.into(),
            Number::BytesReceived => self.record.bytes_in,
            Number::BytesSent => self.record.bytes_out,
            Number::GrpcStatus => {
                let is_grpc = self.request.is_some_and(RequestHead::is_grpc);
                return is_grpc.then(|| self.grpc_status().into());
            }
            Number::Attempts => self.record.attempts.into(),
            Number::ConnectionId => self.peer.number,
            Number::UpstreamConnectionId => 0,
        })
    }

    fn address(&self, which: Address) -> Option<SocketAddr> {
        match which {
            Address::Remote => Some(self.record.client.unwrap_or(self.peer.address)),
            Address::DirectRemote => Some(self.peer.direct),
            Address::Local | Address::DirectLocal => Some(self.peer.local),
            Address::UpstreamHost | Address::UpstreamRemote => self.record.upstream_address(),
            Address::UpstreamLocal => None,
        }
    }

    fn time(&self, which: Time) -> Option<Duration> {
        let time = match which {
            Time::Start => self.record.began(),
            Time::Emit => SystemTime::now(),
            Time::PeerCertificateFrom => self.peer.certificate()?.not_before,
            Time::PeerCertificateUntil => self.peer.certificate()?.not_after,
            Time::UpstreamCertificateFrom | Time::UpstreamCertificateUntil => return None,
        };
        Some(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    fn point(&self, which: Point) -> Option<Duration> {
        match which {
            Point::RequestBegin => Some(Duration::ZERO),
            Point::End => Some(self.record.duration()),
            other => self.record.points.as_ref()?.at(other),
        }
    }

    fn flags(&self) -> Flags {
        self.record.flags()
    }

    fn metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> Wrote {
        let Some(metadata) = self.record.metadata.as_deref() else { return Wrote::Nothing };
        if path.is_empty() {
            let of_filter = metadata.of(namespace).map(|values| Value::Map(values.clone()));
            return of_filter.map_or(Wrote::Nothing, |values| show_value(&values, out));
        }
        metadata.find(namespace, path).map_or(Wrote::Nothing, |value| show_value(value, out))
    }
}

impl Seen<'_> {
    /// The name of the virtual host that the request is for.
    fn virtual_host(&self) -> Option<&str> {
        let Filter::Http(http) = &self.chain.filter else { return None };
        Some(&http.routes.host(self.request?.authority())?.name)
    }

    /// The status of a call, which is told by its status of HTTP where gRPC tells none.
    pub(crate) fn grpc_status(&self) -> u8 {
        // Source: grpc `http-grpc-status-mapping.md`.
        self.record.grpc_status.unwrap_or(match self.record.status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        })
    }

    fn field(&self, name: &[u8], out: &mut Vec<u8>) -> bool {
        let value = self.request.and_then(|head| head.fields.find(name));
        out.extend_from_slice(value.unwrap_or_default());
        value.is_some()
    }

    /// Source: W3C Trace Context §3.2.
    fn trace_id(&self, out: &mut Vec<u8>) -> bool {
        let parent = self.request.and_then(|head| head.fields.find(b"traceparent"));
        let id = parent.and_then(|parent| parent.split(|b| *b == b'-').nth(1)).filter(|id| id.len() == 32);
        out.extend_from_slice(id.unwrap_or_default());
        id.is_some()
    }

    fn tls(&self, which: Tls, out: &mut Vec<u8>) -> bool {
        let tls = self.peer.tls.as_deref();
        let facts = || self.peer.certificate();
        match which {
            Tls::Version => put(out, tls.map_or("", |tls| tls.version)),
            Tls::Cipher => put(out, tls.map_or("", |tls| tls.cipher)),
            Tls::PeerUriSans => facts().is_some_and(|facts| joined(out, &facts.uris)),
            Tls::PeerDnsSans => facts().is_some_and(|facts| joined(out, &facts.dns_names)),
            Tls::PeerIpSans => facts().is_some_and(|facts| joined(out, &facts.addresses)),
            Tls::PeerEmailSans => facts().is_some_and(|facts| joined(out, &facts.emails)),
            Tls::PeerSubject => of(facts(), out, |facts| &facts.subject),
            Tls::PeerIssuer => of(facts(), out, |facts| &facts.issuer),
            Tls::PeerFingerprint256 => of(facts(), out, |facts| &facts.sha256),
            Tls::PeerSerial => of(facts(), out, |facts| &facts.serial),
            Tls::PeerCertificate => match self.peer.certificates() {
                [] => false,
                [own, ..] => {
                    percent_encode(certificates_pem(std::slice::from_ref(own)).as_bytes(), out);
                    true
                }
            },
            Tls::LocalUriSans => match &self.worker.node.identity {
                Some(id) if tls.is_some() => put(out, id.as_str()),
                _ => false,
            },
            Tls::SessionId | Tls::PeerFingerprint1 | Tls::LocalDnsSans | Tls::LocalSubject => false,
        }
    }
}

/// A text as it is, everything else as JSON.
fn show_value(value: &Value, out: &mut Vec<u8>) -> Wrote {
    match value {
        Value::Text(text) => {
            put(out, text);
            Wrote::Text
        }
        Value::Number(_) => {
            show(out, value);
            Wrote::Number
        }
        _ => {
            show(out, value);
            Wrote::Json
        }
    }
}

fn put(out: &mut Vec<u8>, text: &str) -> bool {
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}

/// Writing to a Vec does not fail.
fn show(out: &mut Vec<u8>, value: &impl std::fmt::Display) -> bool {
    write!(out, "{value}").is_ok()
}

fn of(facts: Option<&CertificateFacts>, out: &mut Vec<u8>, text: impl Fn(&CertificateFacts) -> &str) -> bool {
    facts.is_some_and(|facts| put(out, text(facts)))
}

fn joined(out: &mut Vec<u8>, values: &[impl std::fmt::Display]) -> bool {
    for (at, value) in values.iter().enumerate() {
        let _ = if at == 0 { show(out, value) } else { write!(out, ",{value}").is_ok() };
    }
    !values.is_empty()
}

/// Escapes all but unreserved characters of a URL. Source: RFC 3986 §2.3.
pub(crate) fn percent_encode(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

thread_local! {
    static MACHINE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// This machine's name, looked up once.
fn machine(read: impl FnOnce(&str) -> bool) -> bool {
    MACHINE.with_borrow_mut(|known| {
        read(known.get_or_insert_with(|| rustix::system::uname().nodename().to_string_lossy().into_owned()))
    })
}

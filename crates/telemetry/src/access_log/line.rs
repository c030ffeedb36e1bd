//! One line of the log: JSON (RFC 8259), written by hand because serde would allocate and the fields are fixed.
//!
//! Methods, paths and authorities are a peer's bytes: they are escaped, what is not UTF-8 becomes U+FFFD, and
//! each is cut after [`MAX_FIELD_BYTES`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::Entry;

/// How much of one field is logged: a line must not become as long as the largest head.
const MAX_FIELD_BYTES: usize = 8192;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A key as it stands in a line, made when the program is compiled.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// The parameter in which clients send tokens that they cannot put into a field. Source: RFC 6750 §2.3.
const TOKEN: &[u8] = b"access_token=";

/// A path with its query, but for tokens: whoever reads the log could use them.
fn without_token(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(query) = path.iter().position(|byte| *byte == b'?') else { return path.into() };
    let (path_alone, query) = path.split_at(query + 1);
    if !query.split(|byte| *byte == b'&').any(|pair| pair.starts_with(TOKEN)) {
        return path.into();
    }
    let pairs = query.split(|byte| *byte == b'&');
    let shown: Vec<Vec<u8>> = pairs
        .map(|pair| if pair.starts_with(TOKEN) { [TOKEN, b"(hidden)"].concat() } else { pair.to_vec() })
        .collect();
    [path_alone, shown.join(&b'&').as_slice()].concat().into()
}

/// A buffer of finished lines.
#[derive(Debug, Default)]
pub(super) struct LineWriter {
    bytes: Vec<u8>,
    /// The second of the last line, and its text up to the seconds: most lines share it with the one before.
    second: u64,
    date: String,
}

impl LineWriter {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The finished lines, for others behind them.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Exchanges the finished lines for an empty buffer.
    pub(super) fn swap(&mut self, empty: &mut Vec<u8>) {
        std::mem::swap(&mut self.bytes, empty);
    }

    /// Appends a line.
    pub(super) fn push(&mut self, entry: &Entry<'_>) {
        let words = entry.reason.map(meshwork_model::reason::Reason::words);
        self.start_time(entry.start);
        self.text(key!("direction"), entry.direction.as_bytes());
        self.text(key!("protocol"), entry.protocol.as_bytes());
        self.text(key!("method"), entry.method);
        self.text(key!("authority"), entry.authority);
        self.text(key!("path"), &without_token(entry.path));
        self.number(key!("response_code"), u64::from(entry.status));
        if let Some(status) = entry.grpc_status {
            self.number(key!("grpc_status"), u64::from(status));
        }
        self.text(key!("response_flags"), flags(words.map_or("", |w| w.flag)).as_bytes());
        self.text(key!("reason_code"), words.map_or("", |w| w.code).as_bytes());
        self.text(key!("reason"), words.map_or("", |w| w.what).as_bytes());
        self.milliseconds(key!("duration"), entry.duration);
        self.number(key!("bytes_received"), entry.bytes_in);
        self.number(key!("bytes_sent"), entry.bytes_out);
        self.text(key!("request_id"), entry.request_id);
        self.address(key!("downstream_remote_address"), entry.downstream);
        if entry.meant_for.is_some() {
            self.address(key!("downstream_local_address"), entry.meant_for);
        }
        self.text(key!("downstream_peer"), entry.downstream_peer.as_bytes());
        self.text(key!("route_name"), entry.route.as_bytes());
        self.text(key!("upstream_cluster"), entry.cluster.as_bytes());
        self.address(key!("upstream_host"), entry.upstream);
        self.text(key!("upstream_peer"), entry.upstream_peer.as_bytes());
        self.told(key!("upstream_transport_failure_reason"), entry.upstream_failure);
        self.told(key!("policy_dry_run"), entry.dry_run);
        self.told(key!("policy_audit"), entry.audit);
        self.text(key!("config_version"), entry.config_version.as_bytes());
        self.bytes.extend_from_slice(b"}\n");
    }

    /// A text that is left out where there is none.
    fn told(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.text(key, text.as_bytes());
        }
    }

    fn start_time(&mut self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.date.is_empty() || since.as_secs() != self.second {
            self.second = since.as_secs();
            self.date.clear();
            let timestamp =
                i64::try_from(self.second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            let text = timestamp.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S");
            let _ = write!(self.date, "{text}");
        }
        let millis = since.subsec_millis();
        self.bytes.extend_from_slice(b"{\"start_time\":\"");
        self.bytes.extend_from_slice(self.date.as_bytes());
        self.bytes.push(b'.');
        self.three_digits(millis);
        self.bytes.extend_from_slice(b"Z\"");
    }

    fn text(&mut self, key: &str, value: &[u8]) {
        self.bytes.extend_from_slice(key.as_bytes());
        if value.is_empty() {
            self.bytes.extend_from_slice(b"null");
            return;
        }
        self.bytes.push(b'"');
        self.escaped(value);
        self.bytes.push(b'"');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.bytes.extend_from_slice(key.as_bytes());
        self.digits(value);
    }

    fn milliseconds(&mut self, key: &str, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.number(key, micros / 1000);
        self.bytes.push(b'.');
        self.three_digits(u32::try_from(micros % 1000).unwrap_or(0));
    }

    fn three_digits(&mut self, n: u32) {
        for digit in [n / 100, n / 10, n] {
            self.bytes.push(HEX[(digit % 10) as usize]);
        }
    }

    fn address(&mut self, key: &str, value: Option<SocketAddr>) {
        self.bytes.extend_from_slice(key.as_bytes());
        match value {
            Some(SocketAddr::V4(address)) => {
                self.bytes.push(b'"');
                for (octet, separator) in address.ip().octets().into_iter().zip(*b"...:") {
                    self.digits(octet.into());
                    self.bytes.push(separator);
                }
                self.digits(address.port().into());
                self.bytes.push(b'"');
            }
            // An address has no character that JSON escapes; writing to a Vec does not fail.
            Some(address) => drop(std::io::Write::write_fmt(&mut self.bytes, format_args!("\"{address}\""))),
            None => self.bytes.extend_from_slice(b"null"),
        }
    }

    fn digits(&mut self, value: u64) {
        self.bytes.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn escaped(&mut self, value: &[u8]) {
        let cut = value.len() > MAX_FIELD_BYTES;
        let value = &value[..value.len().min(MAX_FIELD_BYTES)];
        // Without an early end the compiler makes vector code of it, and nearly every value is plain.
        if value.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
            self.bytes.extend_from_slice(value);
        } else {
            self.escape_chunks(value);
        }
        if cut {
            self.bytes.extend_from_slice("…".as_bytes());
        }
    }

    fn escape_chunks(&mut self, value: &[u8]) {
        for chunk in value.utf8_chunks() {
            for byte in chunk.valid().bytes() {
                match byte {
                    b'"' | b'\\' => self.bytes.extend_from_slice(&[b'\\', byte]),
                    0..0x20 | 0x7f => {
                        let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                        self.bytes.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
                    }
                    _ => self.bytes.push(byte),
                }
            }
            if !chunk.invalid().is_empty() {
                self.bytes.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
}

/// `-` where there is no flag, as Envoy writes it.
fn flags(flag: &str) -> &str {
    if flag.is_empty() { "-" } else { flag }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

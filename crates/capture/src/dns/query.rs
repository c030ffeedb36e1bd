//! What a client asks, and the bytes of its answer.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use tracing::dispatcher::{Dispatch, with_default};

use super::content::Content;
use super::limits::{UDP_ANSWER_BYTES, UDP_ANSWER_BYTES_PLAIN, UPSTREAM_UDP_BYTES};

/// Length of a message's header. Source: RFC 1035 §4.1.1.
const HEADER_BYTES: usize = 12;

/// How a query came, which says how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A question as it is asked upstream and kept in the cache. Its name is lowercase.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) record: RecordType,
    /// Whether DNSSEC's records are wanted (EDNS flag DO).
    pub(super) signatures: bool,
    /// Whether nobody upstream shall validate (header flag CD).
    pub(super) unchecked: bool,
}

/// A query of a client.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    header: Metadata,
    /// With the name in the case in which it was asked.
    query: Query,
    edns: bool,
    signatures: bool,
    /// Bytes of the longest answer that the client takes.
    longest: u16,
}

/// Bytes that are no query that could be answered with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswerable {
    /// Nothing is said to them: they are an answer themselves, or have not even a header.
    Silently,
    /// This is said to them.
    With(Vec<u8>),
}

impl Asked {
    /// Reads a query.
    pub(super) fn read(bytes: &[u8], transport: Transport) -> Result<Self, Unanswerable> {
        let (Some(header), Some([high, low])) = (bytes.get(..HEADER_BYTES), bytes.first_chunk()) else {
            return Err(Unanswerable::Silently);
        };
        let id = u16::from_be_bytes([*high, *low]);
        let op_code = OpCode::from_u8(header[2] >> 3 & 0x0f);
        if header[2] & 0x80 != 0 {
            return Err(Unanswerable::Silently);
        }
        if op_code != OpCode::Query {
            return Err(refusal(id, op_code, ResponseCode::NotImp));
        }
        let Some(mut message) = decode(bytes) else {
            return Err(refusal(id, op_code, ResponseCode::FormErr));
        };
        let Some(query) = message.queries.pop() else {
            return Err(refusal(id, op_code, ResponseCode::FormErr));
        };
        let longest = match (transport, &message.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => UDP_ANSWER_BYTES_PLAIN,
            (Transport::Udp, Some(edns)) => {
                edns.max_payload().clamp(UDP_ANSWER_BYTES_PLAIN, UDP_ANSWER_BYTES)
            }
        };
        let asked = Self {
            header: message.metadata,
            query,
            edns: message.edns.is_some(),
            signatures: message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            longest,
        };
        match asked.objection(message.version()) {
            None => Ok(asked),
            Some(code) => Err(Unanswerable::With(asked.reply(&Content::empty(code)))),
        }
    }

    fn objection(&self, edns_version: u8) -> Option<ResponseCode> {
        let record = u16::from(self.query.query_type);
        match self.query.query_class {
            _ if edns_version > 0 => Some(ResponseCode::BADVERS),
            DNSClass::IN | DNSClass::ANY => match record {
                // OPT is no question; zone transfers and the other meta-types up to MAILA are for servers.
                41 => Some(ResponseCode::FormErr),
                249..=254 => Some(ResponseCode::Refused),
                _ => None,
            },
            _ => Some(ResponseCode::Refused),
        }
    }

    /// The name in the case in which it was asked.
    pub(super) fn name(&self) -> &Name {
        &self.query.name
    }

    pub(super) fn record(&self) -> RecordType {
        self.query.query_type
    }

    /// The same question for everybody who asks it.
    pub(super) fn question(&self) -> Question {
        Question {
            name: self.query.name.to_lowercase(),
            record: self.query.query_type,
            signatures: self.signatures,
            unchecked: self.header.checking_disabled,
        }
    }

    /// The answer's bytes: cut short and marked so where the client would not take it all.
    pub(super) fn reply(&self, content: &Content) -> Vec<u8> {
        let mut message = self.message(content);
        loop {
            let Ok(bytes) = message.to_vec() else {
                // Nothing that was decoded is too long to be encoded, but for what no message can hold.
                return self.bare(ResponseCode::ServFail);
            };
            if bytes.len() <= usize::from(self.longest) {
                return bytes;
            }
            if message.answers.is_empty() && message.authorities.is_empty() {
                return self.bare(ResponseCode::ServFail);
            }
            // Old clients (musl before 1.2.4) make do with what there is instead of asking again over TCP.
            message.metadata.truncation = true;
            message.authorities.clear();
            message.answers.truncate(message.answers.len() / 2);
        }
    }

    fn message(&self, content: &Content) -> Message {
        let mut message = Message::response(self.header.id, OpCode::Query);
        message.metadata.authoritative = content.authoritative;
        message.metadata.recursion_desired = self.header.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.header.checking_disabled;
        message.metadata.response_code = content.code;
        message.queries.push(self.query.clone());
        message.answers.clone_from(&content.answers);
        message.authorities.clone_from(&content.authorities);
        for record in message.answers.iter_mut().filter(|record| record.name == self.query.name) {
            record.name = self.query.name.clone();
        }
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_ANSWER_BYTES).set_dnssec_ok(self.signatures);
            message.edns = Some(edns);
        }
        message
    }

    fn bare(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = Message::error_msg(self.header.id, OpCode::Query, code);
        message.queries.push(self.query.clone());
        message.to_vec().unwrap_or_default()
    }
}

impl Question {
    /// The message that asks it, under an id that cannot be guessed.
    pub(super) fn message(&self, edns: bool) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.unchecked;
        message.queries.push(Query::query(self.name.clone(), self.record));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UPSTREAM_UDP_BYTES).set_dnssec_ok(self.signatures);
            message.edns = Some(edns);
        }
        message
    }

    /// Whether a message is an answer to this question, asked under that id.
    pub(super) fn is_answered_by(&self, id: u16, message: &Message) -> bool {
        let same = |query: &Query| {
            query.name == self.name && query.query_type == self.record && query.query_class == DNSClass::IN
        };
        message.metadata.id == id
            && message.metadata.message_type == MessageType::Response
            && message.metadata.op_code == OpCode::Query
            && matches!(message.queries.as_slice(), [query] if same(query))
    }
}

/// A message with one question; `None` where the bytes are none.
pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
    // Looked at first: hickory reserves room for as many questions as the header says.
    let has_one_question = bytes.len() > HEADER_BYTES && bytes[4..6] == [0, 1];
    // hickory warns of odd bytes: whoever sends them would fill the log.
    let silent = Dispatch::none();
    let decoded = || with_default(&silent, || Message::from_vec(bytes).ok());
    has_one_question.then(decoded).flatten()
}

fn refusal(id: u16, op_code: OpCode, code: ResponseCode) -> Unanswerable {
    match Message::error_msg(id, op_code, code).to_vec() {
        Ok(bytes) => Unanswerable::With(bytes),
        Err(_) => Unanswerable::Silently,
    }
}

//! What an answer says, whoever it is for; and what of an upstream's message becomes one.

use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::limits::{ALIASES, TTL_ABSENT_MAX, TTL_FAILURE, TTL_MAX, TTL_MIN};
use super::query::Question;

/// The most that a TTL may be; with the highest bit set it counts as zero. Source: RFC 2181 §8.
const TTL_VALID: u32 = i32::MAX as u32;

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub(super) code: ResponseCode,
    /// Whether the mesh itself says so.
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Record>,
    /// For what does not exist: the SOA that says for how long that may be believed.
    pub(super) authorities: Vec<Record>,
}

impl Content {
    /// Says nothing but a code.
    pub(super) fn empty(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authorities: Vec::new() }
    }

    /// Takes from an upstream's message what the question was about: the aliases from the name asked for, and the records at
    /// their end; or the proof that there are none. All else is left: nobody asked for it, and whoever sends it may
    /// have no say in it.
    ///
    /// `None` where its aliases do not end.
    pub(super) fn of_reply(question: &Question, message: Message) -> Option<Self> {
        let code = message.metadata.response_code;
        let (answers, end) = follow(question, &message.answers)?;
        let found = answers.iter().any(|record| question.wants(record.record_type()));
        let authorities = if found { Vec::new() } else { proof(question, &end, message.authorities) };
        Some(Self { code, authoritative: false, answers, authorities })
    }

    /// For how long it may be kept; `None` where that is not said.
    pub(super) fn keep(&self, question: &Question) -> Option<Duration> {
        let seconds = |ttl: u32| Duration::from_secs(u64::from(if ttl > TTL_VALID { 0 } else { ttl }));
        let least = self.answers.iter().map(|record| seconds(record.ttl)).min();
        let found = self.answers.iter().any(|record| question.wants(record.record_type()));
        match self.code {
            ResponseCode::NoError if found => Some(least?.clamp(TTL_MIN, TTL_MAX)),
            ResponseCode::NoError | ResponseCode::NXDomain => {
                let soa = self.authorities.iter().find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(seconds(record.ttl).min(seconds(soa.minimum))),
                    _ => None,
                })?;
                Some(least.map_or(soa, |least| least.min(soa)).clamp(TTL_MIN, TTL_ABSENT_MAX))
            }
            ResponseCode::ServFail => Some(TTL_FAILURE),
            _ => None,
        }
    }

    /// The same, `age` later.
    pub(super) fn aged(mut self, age: Duration) -> Self {
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in self.answers.iter_mut().chain(&mut self.authorities) {
            record.decrement_ttl(age);
        }
        self
    }

    /// As bytes, which take less memory than records.
    pub(super) fn pack(&self) -> Option<Box<[u8]>> {
        let mut message = Message::error_msg(0, OpCode::Query, self.code);
        message.answers.clone_from(&self.answers);
        message.authorities.clone_from(&self.authorities);
        message.to_vec().ok().map(Vec::into_boxed_slice)
    }

    /// What [`Content::pack`] made.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        let code = message.metadata.response_code;
        Some(Self { code, authoritative: false, answers: message.answers, authorities: message.authorities })
    }
}

impl Question {
    /// Whether a record of this type is what the question asks for.
    fn wants(&self, record: RecordType) -> bool {
        record == self.record || self.record == RecordType::ANY
    }
}

/// The records at the name asked for and at the ends of its aliases, and the last of these names.
fn follow(question: &Question, records: &[Record]) -> Option<(Vec<Record>, Name)> {
    let mut kept = Vec::new();
    let mut name = question.name.clone();
    for _ in 0..ALIASES {
        let mut alias = None;
        for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
            let here = record.name == name;
            let signs = question.signatures && record.record_type() == RecordType::RRSIG;
            match &record.data {
                RData::CNAME(target) if here => {
                    alias.get_or_insert_with(|| target.0.clone());
                    kept.push(record.clone());
                }
                _ if here && (question.wants(record.record_type()) || signs) => kept.push(record.clone()),
                _ => {}
            }
        }
        match alias {
            Some(target) if !question.wants(RecordType::CNAME) => name = target,
            _ => return Some((kept, name)),
        }
    }
    None
}

/// The SOA of a zone that the name is in, and DNSSEC's proofs from that zone where they are wanted.
fn proof(question: &Question, name: &Name, records: Vec<Record>) -> Vec<Record> {
    let soa =
        records.iter().find(|record| record.record_type() == RecordType::SOA && record.name.zone_of(name));
    let Some(zone) = soa.map(|record| record.name.clone()) else { return Vec::new() };
    let belongs = |record: &Record| match record.record_type() {
        RecordType::SOA => record.name == zone,
        RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG => {
            question.signatures && zone.zone_of(&record.name)
        }
        _ => false,
    };
    records.into_iter().filter(|record| record.dns_class == DNSClass::IN && belongs(record)).collect()
}

//! What of an upstream's message is passed on, for how long it is kept, and that the cache stays small. Pure.

use hickory_proto::rr::DNSClass;
use tokio::time::Instant;

use super::*;
use crate::dns::cache::Cache;
use crate::dns::content::Content;
use crate::dns::query::{Asked, Question, Transport, Unanswerable};

fn question(text: &str, record: RecordType) -> Question {
    let bytes = query(text, record).to_vec().unwrap();
    Asked::read(&bytes, Transport::Udp).unwrap().question()
}

#[test]
fn only_what_was_asked_for_is_passed_on() {
    let check = |answers: Vec<Record>, authorities: Vec<Record>, expected: &[&str], keep: Option<u64>| {
        let question = question("example.com.", RecordType::A);
        let mut message = reply(&query("example.com.", RecordType::A));
        message.answers = answers;
        message.authorities = authorities;
        message.additionals = vec![address("bank.test.", 60, [192, 0, 2, 66])];
        let content = Content::of_reply(&question, message).unwrap();
        let said: Vec<_> = content
            .answers
            .iter()
            .chain(&content.authorities)
            .map(|record| format!("{} {}", record.name, record.record_type()))
            .collect();
        assert_eq!(said, expected);
        assert_eq!(content.keep(&question), keep.map(Duration::from_secs));
    };
    let ours = || address("example.com.", 60, [192, 0, 2, 1]);
    let strange = || address("bank.test.", 60, [192, 0, 2, 66]);
    let text = Record::from_rdata(name("example.com."), 60, RData::TXT(TXT::new(vec!["x".into()])));
    check(vec![ours()], vec![], &["example.com. A"], Some(60));
    check(vec![strange(), ours(), text], vec![soa("com.", 9, 9)], &["example.com. A"], Some(60));
    // Aliases in any order; the shortest TTL counts.
    let chain = vec![
        address("b.test.", 60, [192, 0, 2, 1]),
        alias("a.test.", 7, "b.test."),
        alias("example.com.", 300, "a.test."),
        strange(),
    ];
    check(chain, vec![], &["example.com. CNAME", "a.test. CNAME", "b.test. A"], Some(7));
    // An alias to nothing: the SOA of where it leads counts, not another's.
    let dangling = || vec![alias("example.com.", 300, "a.test.")];
    check(dangling(), vec![soa("test.", 20, 90)], &["example.com. CNAME", "test. SOA"], Some(20));
    check(dangling(), vec![soa("bank.", 20, 90)], &["example.com. CNAME"], None);
    check(vec![], vec![soa("com.", 3600, 30)], &["com. SOA"], Some(30));
    check(vec![], vec![soa("com.", 86_400, 86_400)], &["com. SOA"], Some(300));
    check(vec![], vec![soa("com.", 0, 0)], &["com. SOA"], Some(1));
    check(vec![strange()], vec![], &[], None);
    check(vec![address("example.com.", u32::MAX, [192, 0, 2, 1])], vec![], &["example.com. A"], Some(1));
}

#[test]
fn aliases_that_do_not_end_are_no_answer() {
    let mut message = reply(&query("example.com.", RecordType::A));
    message.answers = vec![alias("example.com.", 60, "a.test."), alias("a.test.", 60, "example.com.")];
    assert!(Content::of_reply(&question("example.com.", RecordType::A), message).is_none());
}

#[test]
fn an_alias_is_an_answer_for_who_asks_for_aliases() {
    let mut message = reply(&query("example.com.", RecordType::CNAME));
    message.answers = vec![alias("example.com.", 60, "example.com.")];
    let content = Content::of_reply(&question("example.com.", RecordType::CNAME), message).unwrap();
    assert_eq!(content.answers.len(), 1);
}

#[test]
fn queries_that_cannot_be_answered_are_told_why_or_nothing() {
    let check = |bytes: &[u8], expected: Option<ResponseCode>| {
        let Err(refused) = Asked::read(bytes, Transport::Udp) else { panic!("{bytes:?} is a query") };
        let said = match refused {
            Unanswerable::Silently => None,
            Unanswerable::With(reply) => {
                let message = Message::from_vec(&reply).unwrap();
                assert_eq!(message.id.to_be_bytes(), bytes[..2]);
                assert_eq!(message.message_type, MessageType::Response);
                Some(message.response_code)
            }
        };
        assert_eq!(said, expected, "{bytes:?}");
    };
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = query("example.com.", RecordType::A);
        change(&mut message);
        message.to_vec().unwrap()
    };
    let with_type = |record: u16| changed(&|m| m.queries[0].query_type = record.into());
    check(&[], None);
    check(&[1; 11], None);
    check(&changed(&|m| m.metadata.message_type = MessageType::Response), None);
    check(&changed(&|m| m.metadata.op_code = OpCode::Update), Some(ResponseCode::NotImp));
    check(&changed(&|m| m.metadata.op_code = OpCode::Unknown(9)), Some(ResponseCode::NotImp));
    check(&changed(&|m| m.queries.clear()), Some(ResponseCode::FormErr));
    check(&changed(&|m| m.queries.push(m.queries[0].clone())), Some(ResponseCode::FormErr));
    check(&changed(&|m| m.queries[0].query_class = DNSClass::CH), Some(ResponseCode::Refused));
    check(&with_type(252), Some(ResponseCode::Refused));
    check(&with_type(41), Some(ResponseCode::FormErr));
    let newer = |m: &mut Message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        m.edns = Some(edns);
    };
    // hickory reads 16 as BADSIG, which has the same number.
    check(&changed(&newer), Some(ResponseCode::BADSIG));
    let mut cut = query("example.com.", RecordType::A).to_vec().unwrap();
    cut.truncate(20);
    check(&cut, Some(ResponseCode::FormErr));
    let mut many = query("example.com.", RecordType::A).to_vec().unwrap();
    many[4..6].copy_from_slice(&[0xff, 0xff]);
    check(&many, Some(ResponseCode::FormErr));
}

#[test]
fn the_cache_stays_within_its_bounds_and_drops_what_ends_soonest() {
    let now = Instant::now();
    let content = |text: &str, records: u8| {
        let mut content = Content::empty(ResponseCode::NoError);
        content.answers = (0..records).map(|i| address(text, 60, [192, 0, 2, i])).collect();
        content
    };
    for records in [1, 100] {
        let mut cache = Cache::default();
        for i in 0..3000_u64 {
            let text = format!("{i}.example.com.");
            let keep = Duration::from_secs(10 + i);
            cache.store(question(&text, RecordType::A), &content(&text, records), keep, now);
            let (entries, bytes) = cache.size();
            assert!(entries <= limits::CACHE_ANSWERS && bytes <= limits::CACHE_BYTES, "{entries} {bytes}");
        }
        assert!(cache.find(&question("2999.example.com.", RecordType::A), now).is_some());
        assert!(cache.find(&question("0.example.com.", RecordType::A), now).is_none());
        cache.clear();
        assert_eq!(cache.size(), (0, 0));
    }
    let mut cache = Cache::default();
    let long = (0..10).flat_map(|_| content("example.com.", 100).answers).collect();
    let long = Content { answers: long, ..Content::empty(ResponseCode::NoError) };
    cache.store(question("example.com.", RecordType::A), &long, Duration::from_secs(9), now);
    assert_eq!(cache.size(), (0, 0), "too long to be kept");
}

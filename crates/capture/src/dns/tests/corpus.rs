//! Bytes that strangers send: nothing of them panics, and what is accepted can be said again.

use super::*;
use crate::dns::content::Content;
use crate::dns::exchange::is_accepted;
use crate::dns::query::{Asked, Transport, Unanswerable};

const QUERIES: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// Reads bytes as a client's query and as a server's reply to `asked`.
fn try_all(bytes: &[u8], asked: &Message) -> (bool, bool) {
    let mut is_query = false;
    for transport in QUERIES {
        match Asked::read(bytes, transport) {
            Ok(query) => {
                is_query = true;
                let _ = table::answer(query.name(), query.record(), Some(&super::table()));
                let said = query.reply(&Content::empty(ResponseCode::NoError));
                assert!(Message::from_vec(&said).is_ok());
            }
            Err(Unanswerable::With(said)) => assert!(Message::from_vec(&said).is_ok()),
            Err(Unanswerable::Silently) => {}
        }
    }
    let client = Asked::read(&asked.to_vec().unwrap(), Transport::Udp).unwrap();
    let content = is_accepted(bytes, &client.question(), asked.id);
    if let Some(content) = &content {
        let said = client.reply(content);
        assert!(said.len() <= 512);
        assert!(Message::from_vec(&said).is_ok());
        let packed = content.pack().unwrap();
        assert_eq!(Content::unpack(&packed).unwrap().answers, content.answers);
    }
    (is_query, content.is_some())
}

/// `asked` is what `dns` of the corpus answers: `example.com. A` under the id 4660.
fn asked() -> Message {
    let mut message = query("example.com.", RecordType::A);
    message.metadata.id = 0x1234;
    message
}

#[test]
fn files_of_the_corpus_are_taken_for_what_their_names_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dns");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected = match name.split('.').next().unwrap() {
            "query" => (true, false),
            "reply" => (false, true),
            "neither" => (false, false),
            other => panic!("{name}: what is {other}?"),
        };
        assert_eq!(try_all(&std::fs::read(&path).unwrap(), &asked()), expected, "{name}");
        seen += 1;
    }
    assert!(seen >= 12, "{seen} files in {folder}");
}

#[test]
fn mutations_and_noise_harm_nobody() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dns");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<_> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let rounds: u64 = std::env::var("MESHWORK_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in 0..20_000 * rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = random.choice(&seeds).unwrap().clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(0..=bytes.len());
            match random.u8(0..5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random.u8(..)),
                2 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
                // A pointer to somewhere before, itself included.
                3 if at + 1 < bytes.len() => bytes[at..at + 2].copy_from_slice(&[0xc0, random.u8(..)]),
                _ if at < bytes.len() => bytes[at] = *random.choice(&[0, 1, 0x3f, 0x40, 0xc0, 0xff]).unwrap(),
                _ => bytes.extend((0..random.usize(0..40)).map(|_| random.u8(..))),
            }
        }
        try_all(&bytes, &asked());
    }
}

#[test]
fn odd_bytes_do_not_fill_the_log() {
    let odd = corpus().into_iter().find(|(name, _)| *name == "query.odd-edns-option").unwrap().1;
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        assert_eq!(try_all(&odd, &asked()), (true, false));
    });
    assert_eq!(lines.count(), 0);
}

/// Writes the corpus anew: `UPDATE=1 cargo test -p meshwork-capture corpus`.
#[test]
fn the_corpus_is_what_is_written_here() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dns"));
    let update = std::env::var_os("UPDATE").is_some();
    for (name, bytes) in corpus() {
        let path = folder.join(name);
        if update {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
}

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let plain = asked();
    let mut edns = asked();
    edns.edns = Some(Edns::new());
    let mut answer = reply(&plain);
    answer.answers.push(address("example.com.", 60, [192, 0, 2, 1]));
    let mut aliased = reply(&plain);
    aliased.answers.push(alias("example.com.", 60, "a.example.net."));
    aliased.answers.push(address("a.example.net.", 60, [192, 0, 2, 1]));
    let mut absent = reply(&plain);
    absent.metadata.response_code = ResponseCode::NXDomain;
    absent.authorities.push(soa("com.", 60, 60));
    let mut other_id = answer.clone();
    other_id.metadata.id = 7;
    let mut other_question = answer.clone();
    other_question.queries[0].name = name("example.net.");
    let mut endless = reply(&plain);
    endless.answers.push(alias("example.com.", 60, "a.test."));
    endless.answers.push(alias("a.test.", 60, "example.com."));
    let header = |flags: u8, counts: [u8; 8]| [&[0x12, 0x34, flags, 0][..], &counts].concat();
    let itself = [header(0x80, [0, 1, 0, 0, 0, 0, 0, 0]), vec![0xc0, 12, 0, 1, 0, 1]].concat();
    let each_other = [header(1, [0, 1, 0, 0, 0, 0, 0, 0]), vec![0xc0, 14, 0xc0, 12, 0, 1, 0, 1]].concat();
    let long_label = [header(1, [0, 1, 0, 0, 0, 0, 0, 0]), vec![63; 300]].concat();
    let bytes = |message: Message| message.to_vec().unwrap();
    let mut short_address = bytes(answer.clone());
    let at = short_address.len() - 5;
    short_address[at] = 3;
    // An option of which only half is there.
    let mut odd_option = bytes(edns.clone());
    let at = odd_option.len() - 1;
    odd_option[at] = 6;
    odd_option.extend([0, 10, 0, 4, 1, 2]);
    vec![
        ("query.odd-edns-option", odd_option),
        ("query.plain", bytes(plain)),
        ("query.edns", bytes(edns)),
        ("reply.address", bytes(answer)),
        ("reply.alias", bytes(aliased)),
        ("reply.absent", bytes(absent)),
        ("neither.other-id", bytes(other_id)),
        ("neither.other-question", bytes(other_question)),
        ("neither.endless-aliases", bytes(endless)),
        ("neither.pointer-to-itself", itself),
        ("neither.pointers-in-a-loop", each_other),
        ("neither.label-past-the-end", long_label),
        ("neither.counts-without-records", header(1, [0xff; 8])),
        ("neither.address-of-three-bytes", short_address),
        ("neither.nothing", Vec::new()),
    ]
}

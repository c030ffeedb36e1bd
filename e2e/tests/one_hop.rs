//! One listener, one route, one cluster: Envoy and Meshwork run the same file, get the same bytes, and must agree on
//! what the origin sees and what the client gets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use e2e::http::{Answer, Connection};
use e2e::origin::Origin;
use e2e::program::Program;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-origin: yes\r\nserver: origin\r\n\r\nhello";

/// Fields that the two proxies may set differently, with the reason.
const MAY_DIFFER: &[&str] = &[
    // Envoy adds a date where the origin sent none; we pass on what the origin said.
    "date",
    // Envoy says in a field that it closes after an error, for HTTP/1.1 as well; so do we, at other moments.
    "connection",
    // Local replies are worded by each proxy.
    "x-meshwork-reason",
];

/// What a request led to, as far as both proxies must agree.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: u16,
    fields: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    origin: Vec<String>,
}

struct Side {
    name: &'static str,
    address: SocketAddr,
    origin: Origin,
    _program: Program,
}

fn side(name: &'static str, dir: &Path, start: impl FnOnce(&Path) -> Program) -> Side {
    let origin = Origin::start(ANSWER);
    let address = e2e::free_address();
    let text = std::fs::read_to_string(e2e::root().join("e2e/testdata/one-hop.yaml")).expect("the file");
    let text = text
        .replace("$LISTEN", &address.port().to_string())
        .replace("$ADMIN", &e2e::free_address().port().to_string())
        .replace("$ORIGIN", &origin.address().port().to_string());
    let file: PathBuf = dir.join(format!("{name}.yaml"));
    std::fs::write(&file, text).expect("the file");
    let mut program = start(&file);
    program.listens(address);
    Side { name, address, origin, _program: program }
}

fn sides(dir: &Path) -> [Side; 2] {
    [
        side("meshwork", dir, |file| {
            Program::meshwork("meshwork", dir, ["proxy", "-c", &file.to_string_lossy()])
        }),
        side("envoy", dir, |file| Program::envoy("envoy", dir, file)),
    ]
}

fn outcome(side: &Side, request: &[u8]) -> Outcome {
    let answer = e2e::http::exchange(side.address, request);
    let answer = answer.unwrap_or_else(|e| Answer {
        status: 0,
        fields: vec![],
        body: e.kind().to_string().into_bytes(),
    });
    let local = answer.field("x-origin").is_none();
    let worded_locally = |name: &str| local && ["content-length", "content-type", "server"].contains(&name);
    let keep = |name: &str| !(MAY_DIFFER.contains(&name) || worded_locally(name));
    let mut fields: Vec<_> = answer.fields.iter().filter(|(n, _)| keep(n)).cloned().collect();
    fields.sort();
    let origin = side.origin.take().iter().map(|bytes| seen(bytes)).collect();
    Outcome { status: answer.status, fields, body: (!local).then_some(answer.body), origin }
}

/// A request as the origin saw it: fields sorted, chunk boundaries taken off, since each proxy may cut anew.
fn seen(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines: Vec<_> = head.split("\r\n").map(str::to_owned).collect();
    lines[1..].sort();
    let chunked = lines.iter().any(|l| l == "transfer-encoding: chunked");
    let body = if chunked {
        let (data, last) = e2e::http::dechunk(body.as_bytes());
        format!("{}, then {}", String::from_utf8_lossy(&data), String::from_utf8_lossy(last))
    } else {
        body.to_owned()
    };
    format!("{}\n\n{body}", lines.join("\n"))
}

/// Requests that both must forward, or answer, alike.
const ALIKE: &[(&str, &str)] = &[
    ("get", "GET /exact HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    ("query", "GET /exact?a=b&c=%2F HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    ("head", "HEAD /exact HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    ("post", "POST /api HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\n\r\nabc"),
    (
        "chunked",
        "POST /api/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    ),
    ("many fields", "GET /api HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-b:2\r\nX-a: 3\r\nAccept:  */* \r\n\r\n"),
    ("by segment", "GET /apix HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("no route", "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("header route", "GET /by-header HTTP/1.1\r\nHost: h\r\nX-Preview: yes\r\n\r\n"),
    ("header route, other value", "GET /by-header HTTP/1.1\r\nHost: h\r\nX-Preview: no\r\n\r\n"),
    ("dot segments", "GET /a/../api/./x HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("merged slashes", "GET //api///x HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("escaped unreserved", "GET /%61pi HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("escaped slash", "GET /api%2fx HTTP/1.1\r\nHost: h\r\n\r\n"),
    (
        "hop by hop",
        "GET /exact HTTP/1.1\r\nHost: h\r\nConnection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\r\n",
    ),
    (
        "trace headers",
        "GET /exact HTTP/1.1\r\nHost: h\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    ),
    (
        "length and chunked",
        "POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths", "POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    ("signed length", "POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc"),
    ("space before colon", "GET /exact HTTP/1.1\r\nHost : h\r\n\r\n"),
    ("NUL in a value", "GET /exact HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n\r\n"),
    ("no host", "GET /exact HTTP/1.1\r\n\r\n"),
];

/// Requests that we refuse before a byte of them reaches the origin, where Envoy is more patient: it forwards the head
/// of a request whose body then turns out to be broken, and unfolds folded fields (RFC 9112 §5.2 lets a proxy choose).
const STRICTER: &[(&str, &str)] = &[
    ("bad chunk", "POST /api HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ("folded field", "GET /exact HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n 2\r\n\r\n"),
    ("odd version", "GET /exact HTTP/1.9\r\nHost: h\r\n\r\n"),
];

#[test]
fn one_file_means_the_same_to_envoy_and_to_us() {
    let dir = tempfile::tempdir().expect("a folder");
    let [ours, envoy] = sides(dir.path());
    let mut differences = Vec::new();
    for (name, request) in ALIKE {
        let (got, expected) = (outcome(&ours, request.as_bytes()), outcome(&envoy, request.as_bytes()));
        if got != expected {
            differences.push(format!("== {name}\n{}: {got:#?}\n{}: {expected:#?}", ours.name, envoy.name));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn what_we_refuse_never_reaches_the_origin() {
    let dir = tempfile::tempdir().expect("a folder");
    let [ours, _envoy] = sides(dir.path());
    for (name, request) in STRICTER {
        let got = outcome(&ours, request.as_bytes());
        assert!((400..600).contains(&got.status), "{name}: {got:?}");
        assert!(got.origin.is_empty(), "{name}: {got:?}");
    }
}

#[test]
fn requests_follow_one_another_on_one_connection() {
    let dir = tempfile::tempdir().expect("a folder");
    for side in sides(dir.path()) {
        let mut connection = Connection::open(side.address).expect("a connection");
        for n in 0..20 {
            let request = format!("POST /api/{n} HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbody");
            connection.send(request.as_bytes()).expect("sent");
            let answer = connection.answer(false).expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{} {n}", side.name);
        }
        assert_eq!(side.origin.take().len(), 20, "{}", side.name);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_nothing_behind_a_bad_one_is_processed() {
    let dir = tempfile::tempdir().expect("a folder");
    let [ours, _envoy] = sides(dir.path());
    let mut connection = Connection::open(ours.address).expect("a connection");
    let good = "GET /exact HTTP/1.1\r\nhost: h\r\n\r\n";
    let bad = "GET /exact HTTP/1.1\r\nhost: h\r\ncontent-length: 0x1\r\n\r\n";
    connection.send(format!("{good}{good}{bad}{good}").as_bytes()).expect("sent");
    let statuses: Vec<_> = (0..3).map(|_| connection.answer(false).expect("an answer").status).collect();
    assert_eq!(statuses, [200, 200, 400]);
    assert_eq!(connection.rest().expect("closed").len(), 0);
    assert_eq!(ours.origin.take().len(), 2);
}

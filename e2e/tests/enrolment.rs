//! Certificates for who has not proved that they are theirs: stolen tokens, requests that ask for more, another's
//! identity. Each is refused in words and stands in the audit log; none ends the control plane.

#![expect(clippy::panic, reason = "to panic is how a test fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::captured::Mesh;
use e2e::drill::Chance;
use e2e::forge::{self, Shown};
use e2e::grpc::{Channel, Refusal};
use e2e::issuance::{P256, Wanted, ask, request, request_of};
use e2e::program::{Program, output};
use e2e::{eventually, free_address};

/// Statuses of gRPC: the caller's fault each. Source: gRPC `Status`.
const INVALID: u32 = 3;
const DENIED: u32 = 7;
const PRECONDITION: u32 = 9;
const UNAUTHENTICATED: u32 = 16;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";

/// How many changed requests are sent.
const MUTATIONS: u64 = 5000;

struct World {
    at: SocketAddr,
    cart: Program,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start("");
        let outbound = format!("cart.shop:80={}", free_address());
        let cart = mesh.explicit("cart", &["--outbound", &outbound]);
        let state = mesh.state_of("cart");
        eventually("the cart has enrolled", || state.join("identity.pem").exists());
        Self { at: mesh.listen_address(), mesh, cart }
    }

    fn own(&self) -> Shown {
        Shown::of(&self.mesh.state_of("cart"))
    }

    fn request(&self, extensions: &[&str]) -> String {
        request(self.mesh.scratch(), P256, extensions).0
    }

    /// The lines of the audit log.
    fn audited(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.mesh.control_plane_state().join("audit.jsonl"));
        text.unwrap_or_default().lines().map(e2e::json).collect()
    }

    /// Asks for what must be refused in these words, and audited.
    fn refused(&self, what: &str, shown: Option<&Shown>, wanted: &Wanted<'_>, words: &[&str]) {
        let before = self.audited().len();
        let refusal = match ask(self.at, shown, wanted) {
            Ok(chain) => panic!("{what} has a certificate: {}", described(&chain)),
            Err(refusal) => refusal,
        };
        let code = refusal.code.unwrap_or_else(|| panic!("{what}: the connection ended: {refusal:?}"));
        assert!([INVALID, DENIED, PRECONDITION, UNAUTHENTICATED].contains(&code), "{what}: {refusal:?}");
        let told = |text: &str| words.iter().any(|word| text.contains(word));
        assert!(told(&refusal.words), "{what} is not told as {words:?}: {refusal:?}");
        let mut since = Vec::new();
        eventually(&format!("{what} is audited"), || {
            since = self.audited().split_off(before);
            !since.is_empty()
        });
        assert!(
            since.iter().any(|line| told(&line.to_string())),
            "{what} is not audited as {words:?}: {since:#?}"
        );
        // By whom: at least where from.
        assert!(since.iter().any(|line| line.to_string().contains("127.0.0.1")), "{what}: {since:#?}");
    }
}

fn by<'a>(csr: &'a str, token: &'a str) -> Wanted<'a> {
    Wanted { csr, token: Some(token), ..Wanted::default() }
}

fn described(chain: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-text"]);
    let child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    let mut child = child.expect("openssl");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), chain.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("openssl ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Panics unless a chain begins with a plain certificate of a workload.
fn is_plain(chain: &str, id: &str) {
    let text = described(chain);
    assert!(text.contains(&format!("URI:{id}")) && text.matches("URI:").count() == 1, "{text}");
    assert!(text.contains("CA:FALSE") && !text.contains("CA:TRUE"), "{text}");
    assert!(!text.contains("DNS:") && !text.contains("IP Address:") && !text.contains("email:"), "{text}");
    assert!(text.contains("Digital Signature") && !text.contains("Certificate Sign"), "{text}");
}

#[test]
fn a_token_is_good_once_for_its_workload_and_key() {
    let mut world = World::start();
    let token = world.mesh.token("web", &[]);
    let (csr, thief) = (world.request(&[]), world.request(&[]));
    world.refused("garbage", None, &by(&csr, "garbage"), &["token"]);
    world.refused("a cut token", None, &by(&csr, &token[..token.len() - 1]), &["token"]);
    world.refused("a longer token", None, &by(&csr, &format!("{token}x")), &["token"]);
    world.refused("no proof", None, &Wanted { csr: &csr, ..Wanted::default() }, &["token", "certificate"]);
    let expired = world.mesh.token("late", &["--ttl", "1s"]);
    std::thread::sleep(Duration::from_millis(1100));
    world.refused("an expired token", None, &by(&csr, &expired), &["expired", "token"]);
    // For another identity than its own, whoever asks.
    let other = world.request(&[&format!("subjectAltName=URI:{CART}")]);
    world.refused("another's name", None, &by(&other, &token), &["sa/cart"]);
    world.refused(
        "another's name, with a certificate",
        Some(&world.own()),
        &by(&other, &token),
        &["sa/cart"],
    );
    let foreign = Wanted { impersonated: Some(CART), ..by(&csr, &token) };
    world.refused(
        "in the name of another",
        None,
        &foreign,
        &["sa/cart", "token", "agent", "impersonat", "another"],
    );

    // What was refused has not used it up; then it is the first one's.
    let chain = ask(world.at, None, &by(&csr, &token)).expect("a certificate");
    is_plain(&chain, WEB);
    world.refused("a thief", None, &by(&thief, &token), &["used", "token"]);
    // An answer that was lost on the way is given again, to the same key.
    let again = ask(world.at, None, &by(&csr, &token)).expect("the same again");
    is_plain(&again, WEB);
    assert!(world.cart.alive() && world.mesh.control_plane().alive());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of requests")]
fn a_request_gets_no_more_than_its_sender_proved() {
    let mut world = World::start();
    let (own, scratch) = (world.own(), world.mesh.scratch().to_path_buf());
    let token = world.mesh.token("web", &[]);
    let asked = |csr: &str, shown: Option<&Shown>, what: &str, words: &[&str]| {
        let by_token = Wanted { csr, token: Some(&token), ..Wanted::default() };
        world.refused(&format!("{what}, by token"), None, &by_token, words);
        if shown.is_some() {
            world.refused(what, shown, &Wanted { csr, ..Wanted::default() }, words);
        }
    };
    let own_uri = format!("subjectAltName=URI:{CART}");
    for (what, extensions, words) in [
        ("an authority", &["basicConstraints=critical,CA:TRUE"][..], &["CA", "authority"][..]),
        ("to sign certificates", &["keyUsage=critical,keyCertSign,digitalSignature"], &["usage", "sign"]),
        ("a name of DNS", &["subjectAltName=DNS:bank.example.com"], &["bank.example.com", "name"]),
        ("an address", &["subjectAltName=IP:10.0.0.1"], &["10.0.0.1", "name", "address"]),
        ("a name of mail", &["subjectAltName=email:root@bank.example.com"], &["root@bank", "name"]),
        ("another's URI", &["subjectAltName=URI:spiffe://mesh.local/ns/shop/sa/boss"], &["sa/boss"]),
        (
            "the control plane's URI",
            &["subjectAltName=URI:spiffe://mesh.local/ns/meshwork-system/sa/control-plane"],
            &["control-plane"],
        ),
        ("the trust domain's URI", &["subjectAltName=URI:spiffe://mesh.local"], &["spiffe://mesh.local"]),
        (
            "another trust domain's URI",
            &["subjectAltName=URI:spiffe://bank.example/ns/shop/sa/cart"],
            &["bank.example"],
        ),
    ] {
        asked(&world.request(extensions), Some(&own), what, words);
    }
    let both = format!("subjectAltName=URI:{CART},URI:spiffe://mesh.local/ns/shop/sa/boss");
    world.refused(
        "a second URI",
        Some(&own),
        &Wanted { csr: &world.request(&[&both]), ..Wanted::default() },
        &["sa/boss"],
    );
    let more = format!("subjectAltName=URI:{CART},DNS:bank.example.com");
    world.refused(
        "a name beside",
        Some(&own),
        &Wanted { csr: &world.request(&[&more]), ..Wanted::default() },
        &["bank.example.com", "name"],
    );

    for (what, options) in [
        ("P-224", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-224"][..]),
        ("secp256k1", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"]),
        ("RSA of 1024 bits", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]),
    ] {
        asked(&request(&scratch, options, &[]).0, Some(&own), what, &["key", "curve", "bits"]);
    }
    let (csr, _) = request(&scratch, P256, &[&own_uri]);
    asked(&signed_by_another(&scratch, &csr), Some(&own), "a key that is not the sender's", &["signature"]);
    asked(&broken_hash(&scratch), Some(&own), "a broken hash", &["hash", "signature"]);
    for (what, text) in [
        ("nothing", String::new()),
        ("garbage", "garbage".to_owned()),
        ("a certificate", own.chain_pem()),
        ("a private key", own.key_pem()),
        ("garbage as a request", forge::section("CERTIFICATE REQUEST", &[0x30, 0x82, 0xff, 0xff, 1])),
        ("a request and more", forge::section("CERTIFICATE REQUEST", &[der(&csr), vec![0; 9]].concat())),
        ("much", forge::section("CERTIFICATE REQUEST", &vec![0x30; 20_000])),
    ] {
        asked(&text, Some(&own), what, &["request", "PEM", "larger", "parse"]);
    }

    // What is larger than any request is not read at all.
    let huge = forge::section("CERTIFICATE REQUEST", &vec![0x30; 200_000]);
    let refusal =
        ask(world.at, Some(&own), &Wanted { csr: &huge, ..Wanted::default() }).expect_err("too large");
    assert!(refusal.words.contains("too large"), "{refusal:?}");

    // Its own name, and none, are as they should be.
    for csr in [csr, world.request(&[])] {
        let chain = ask(world.at, Some(&own), &Wanted { csr: &csr, ..Wanted::default() }).expect("renewed");
        is_plain(&chain, CART);
    }
    let control_plane = world.mesh.control_plane();
    assert!(
        control_plane.alive() && !control_plane.output().contains("panicked"),
        "{}",
        control_plane.output()
    );
}

/// The bytes of a request.
fn der(csr: &str) -> Vec<u8> {
    let text: String = csr.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(text).expect("base64")
}

/// A request whose key is another's: only the public half is put in.
fn signed_by_another(scratch: &std::path::Path, csr: &str) -> String {
    let (_, other) = request(scratch, P256, &[]);
    let file = scratch.join("other-key.pem");
    std::fs::write(&file, other).expect("a file");
    let (mut bytes, other) = (der(csr), der(&request_of(&file, &[])));
    // Both have the same curve, so the point stands at the same place: behind the same marks.
    let mark = [0x03, 0x42, 0x00, 0x04];
    let place = |bytes: &[u8]| bytes.windows(4).position(|w| w == mark).expect("a point") + 4;
    let (to, from) = (place(&bytes), place(&other));
    bytes[to..to + 64].copy_from_slice(&other[from..from + 64]);
    forge::section("CERTIFICATE REQUEST", &bytes)
}

fn broken_hash(scratch: &std::path::Path) -> String {
    let key = scratch.join("request-key.pem");
    output(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
            .arg(&key),
    );
    output(
        Command::new("openssl")
            .args(["req", "-new", "-sha1", "-subj", "/", "-config", "/dev/null", "-key"])
            .arg(&key),
    )
}

#[test]
fn a_certificate_renews_its_own_identity_only() {
    let world = World::start();
    let own = world.own();
    let boss = world.request(&["subjectAltName=URI:spiffe://mesh.local/ns/shop/sa/boss"]);
    world.refused("another's renewal", Some(&own), &Wanted { csr: &boss, ..Wanted::default() }, &["sa/boss"]);
    let csr = world.request(&[]);
    for id in ["spiffe://mesh.local/ns/shop/sa/boss", "spiffe://bank.example/ns/shop/sa/cart", "", "cart"] {
        let wanted = Wanted { csr: &csr, impersonated: Some(id), ..Wanted::default() };
        let words = ["agent", "registration", "impersonat", "ImpersonatedIdentity", "not", "SPIFFE"];
        world.refused(&format!("in the name of {id:?}"), Some(&own), &wanted, &words);
    }
    // A good certificate of somebody who never enrolled: signed by the right root, and nobody's.
    let forge = forge::Forge::of(&world.mesh.control_plane_state().join("ca"));
    let ghost = forge.sign(&forge::leaf(&["spiffe://mesh.local/ns/shop/sa/ghost"]));
    world.refused(
        "nobody's renewal",
        Some(&ghost),
        &Wanted { csr: &csr, ..Wanted::default() },
        &["enrolled"],
    );
    // However long it asks for, it gets no more than the mesh gives.
    for seconds in [i64::MAX, i64::MIN, -1, 0, 1_000_000_000] {
        let chain = ask(world.at, Some(&own), &Wanted { csr: &csr, seconds, ..Wanted::default() });
        let text = described(&chain.expect("renewed"));
        let check = ["x509", "-noout", "-checkend", "90000"];
        let file = world.mesh.scratch().join("long.pem");
        std::fs::write(
            &file,
            ask(world.at, Some(&own), &Wanted { csr: &csr, seconds, ..Wanted::default() }).expect("renewed"),
        )
        .expect("a file");
        let ends = Command::new("openssl").args(check).arg("-in").arg(&file).output().expect("openssl");
        assert!(!ends.status.success(), "longer than a day: {seconds} {text}");
    }
}

#[test]
fn whose_certificate_a_handshake_refuses_is_written_down() {
    let world = World::start();
    let stranger = forge::Forge::new("mesh.local").sign(&forge::leaf(&[CART]));
    let csr = world.request(&[]);
    ask(world.at, Some(&stranger), &Wanted { csr: &csr, ..Wanted::default() }).expect_err("refused");
    eventually("it is audited", || {
        let is_it = |line: &serde_json::Value| {
            let text = line.to_string();
            ["connect", "sa/cart", "127.0.0.1", "is not proven"].iter().all(|word| text.contains(word))
        };
        world.audited().iter().any(is_it)
    });
}

#[test]
fn thousands_of_damaged_requests_are_refused_and_nothing_breaks() {
    let mut world = World::start();
    let own = world.own();
    let csr = world.request(&[&format!("subjectAltName=URI:{CART}")]);
    let good = der(&csr);
    let mut chance = Chance::new();
    let mut channel = Channel::open(world.at, Some(&own)).expect("a connection");
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..MUTATIONS {
        let text = mutated(&good, &csr, &mut chance);
        match channel.certificate(&Wanted { csr: &text, ..Wanted::default() }) {
            // What was changed does not matter, such as the text around it: it is the same request.
            Ok(chain) => {
                assert_eq!(key_of(&chain), key_of_request(&good), "{number}: {text}");
                *kinds.entry("signed, unchanged in what counts".to_owned()).or_default() += 1;
            }
            Err(Refusal { code: Some(code), words }) => {
                assert_eq!(code, INVALID, "{number}: {words} {text}");
                assert!(!words.is_empty(), "{number}: {text}");
                *kinds.entry(words).or_default() += 1;
            }
            Err(refusal) => panic!("{number}: the connection ended: {refusal:?} {text}"),
        }
    }
    let refused: u64 = kinds.iter().filter(|(words, _)| !words.starts_with("signed")).map(|(_, n)| n).sum();
    assert!(refused > MUTATIONS * 9 / 10, "{kinds:#?}");
    let chain = channel.certificate(&Wanted { csr: &csr, ..Wanted::default() }).expect("the good one");
    is_plain(&chain, CART);
    let control_plane = world.mesh.control_plane();
    assert!(
        control_plane.alive() && !control_plane.output().contains("panicked"),
        "{}",
        control_plane.output()
    );
}

/// The point of a certificate's, or request's, key, which is on P-256.
fn point(bytes: &[u8]) -> Vec<u8> {
    let at = bytes.windows(4).position(|w| w == [0x03, 0x42, 0x00, 0x04]).expect("a point") + 4;
    bytes[at..at + 64].to_vec()
}

fn key_of(chain: &str) -> Vec<u8> {
    point(&forge::certificates(chain)[0])
}

fn key_of_request(der: &[u8]) -> Vec<u8> {
    point(der)
}

fn mutated(good: &[u8], csr: &str, chance: &mut Chance) -> String {
    let mut at = |len: usize| usize::try_from(chance.below(len as u64)).expect("an index");
    let mut bytes = good.to_vec();
    match at(8) {
        0 => {
            let place = at(bytes.len());
            bytes[place] ^= 1 << at(8);
        }
        1 => {
            let place = at(bytes.len());
            bytes[place] = u8::try_from(at(256)).expect("a byte");
        }
        2 => bytes.truncate(at(good.len())),
        3 => bytes.extend(std::iter::repeat_n(0x30, at(64) + 1)),
        4 => {
            let (from, to) = (at(good.len()), at(good.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
        5 => {
            let (from, to) = (at(good.len()), at(good.len()));
            let piece = good[from.min(to)..from.max(to)].to_vec();
            let place = at(bytes.len());
            bytes.splice(place..place, piece);
        }
        6 => {
            for _ in 0..=at(16) {
                let place = at(bytes.len());
                bytes[place] = u8::try_from(at(256)).expect("a byte");
            }
        }
        _ => {
            // In the text, which is ASCII.
            let mut text = csr.as_bytes().to_vec();
            let place = at(text.len());
            text[place] = b' ' + u8::try_from(at(95)).expect("a character");
            return String::from_utf8(text).expect("ASCII");
        }
    }
    forge::section("CERTIFICATE REQUEST", &bytes)
}

#[test]
fn two_processes_never_share_one_identity() {
    let mut world = World::start();
    let outbound = format!("cart.shop:80={}", free_address());
    let options = ["--outbound", outbound.as_str()];
    let mut second = world.mesh.explicit_again("cart", &options);
    eventually("the second one ends", || !second.alive());
    let text = second.output();
    assert!(text.contains("another process uses the identity"), "{text}");
    assert!(text.contains("state directory of its own"), "{text}");
    assert!(world.cart.alive());
    world.cart.kill();
    let mut third = world.mesh.explicit_again("cart", &options);
    eventually("after the first is gone, it is free", || {
        assert!(third.alive(), "{}", third.output());
        world.mesh.proxy("cart").is_some_and(|proxy| proxy["connected"] != false)
            && third.output().contains("has an identity")
    });
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = world.mesh.state_of("cart").join(name);
        std::fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode()
            & 0o777
    };
    assert_eq!((mode("."), mode("identity.pem")), (0o700, 0o600));
}

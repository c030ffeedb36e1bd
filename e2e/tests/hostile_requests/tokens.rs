//! Tokens that are wrong in one way each, and keys that are fetched: rotated, withdrawn, gone.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::captured::Mesh;
use e2e::forge::Shown;
use e2e::http::Answer;
use e2e::jwt::{self, Key, by_secret, compact};
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, tls};
use serde_json::{Value, json};

use super::{request, status, values};

const ISSUER: &str = "https://issuer.example.com";
const FETCHED: &str = "https://fetched.example.com";
const LOOP: &str = "https://loop.example.com";
const MOVED: &str = "https://moved.example.com";
const AUDIENCE: &str = "cart";

/// How long fetched keys are believed in this mesh, seconds.
const CACHE: u64 = 2;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims(issuer: &str) -> Value {
    json!({ "iss": issuer, "sub": "alice", "aud": AUDIENCE, "iat": now() - 5, "exp": now() + 600 })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims(ISSUER);
    change(&mut claims);
    claims
}

fn without(claim: &str) -> Value {
    with(|claims| drop(claims.as_object_mut().expect("a map").remove(claim)))
}

fn config(keys: &str, local: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: cart, namespace: shop }}
spec: {{ selector: {{ app: cart }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: keys, namespace: shop }}
spec: {{ selector: {{ app: keys }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}
---
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {{ name: default, namespace: meshwork-system }}
spec: {{ jwks: {{ cacheDuration: {CACHE}s }} }}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{ name: tokens, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: cart }} }}
  jwtRules:
    - issuer: {ISSUER}
      audiences: [{AUDIENCE}]
      jwks: '{keys}'
      outputPayloadToHeader: x-payload
      outputClaimToHeaders: [{{ header: x-subject, claim: sub }}]
    - issuer: {FETCHED}
      audiences: [{AUDIENCE}]
      jwksUri: http://keys.shop.svc.cluster.local/keys
      timeout: 1s
    - issuer: {LOOP}
      audiences: [{AUDIENCE}]
      jwksUri: {local}
      timeout: 1s
    - issuer: {MOVED}
      audiences: [{AUDIENCE}]
      jwksUri: http://keys.shop.svc.cluster.local/moved
      timeout: 1s
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: tokens, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: cart }} }}
  action: DENY
  rules:
    - from: [{{ source: {{ notRequestPrincipals: [\"*\"] }} }}]
      to: [{{ operation: {{ notPaths: [\"/public\"] }} }}]
"
    )
}

/// A name of loopback that nobody can tell by its looks; where the host has none, one of nobody.
fn loopback_name() -> String {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().filter(|line| line.starts_with("127."));
    let mut names = lines.flat_map(|line| line.split_whitespace().skip(1));
    let found =
        names.find(|name| !name.starts_with("localhost") && name.ends_with(|c: char| c.is_ascii_lowercase()));
    found.unwrap_or("loopback.invalid").to_owned()
}

/// A server of keys: what it answers, and how often it was asked.
struct Keys {
    origin: Origin,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Keys {
    /// `/keys` are the keys, `/moved` leads elsewhere.
    fn start(elsewhere: SocketAddr) -> Self {
        let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let origin = Origin::answering(move |request, stream| {
            if request.starts_with(b"GET /moved") {
                let to = format!("http://{elsewhere}/keys");
                return write!(stream, "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
            }
            count.fetch_add(1, Ordering::Relaxed);
            let body = shared.lock().expect("no panic").clone();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())?;
            stream.write_all(&body)
        });
        Self { origin, answer, asked }
    }

    fn serve(&self, keys: &str) {
        *self.answer.lock().expect("no panic") = keys.as_bytes().to_vec();
    }
}

struct World {
    origin: Origin,
    cart: SocketAddr,
    web: Shown,
    /// Whose keys stand in the config: one of each kind.
    curve: Key,
    rsa: Key,
    keys: Keys,
    /// Where nobody may fetch keys, and what came there.
    local: Origin,
    programs: Vec<Program>,
    keys_proxy: Program,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start() -> Self {
        let (curve, rsa) = (Key::curve("a"), Key::rsa("b"));
        let stolen = jwt::set(&[&curve]);
        let local = Origin::answering(move |_, stream| {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{stolen}", stolen.len())
        });
        let keys = Keys::start(local.address());
        let at = format!("http://{}:{}/keys", loopback_name(), local.address().port());
        let mesh = Mesh::start(&config(&jwt::set(&[&curve, &rsa]), &at));
        let origin = Origin::start(HELLO);
        let (cart, keys_at) = (free_address(), free_address());
        let inbound = |bind: SocketAddr, to: SocketAddr| format!("8080={bind}>{to}");
        let keys_proxy = mesh.explicit("keys", &["--inbound", &inbound(keys_at, keys.origin.address())]);
        let programs = vec![
            mesh.explicit("cart", &["--inbound", &inbound(cart, origin.address())]),
            mesh.explicit("web", &["--outbound", &format!("cart.shop:80={}", free_address())]),
        ];
        let state = mesh.state_of("web");
        eventually("the caller has enrolled", || state.join("identity.pem").exists());
        let web = Shown::of(&state);
        let world = Self { origin, cart, web, curve, rsa, keys, local, programs, keys_proxy, mesh };
        eventually("tokens are looked at", || {
            let errors = world.mesh.errors();
            assert!(errors.is_empty(), "{errors:#?}");
            world.with(&world.curve.token(&claims(ISSUER))) == Some(200)
                && status(&world.ask("/private", "")) == Some(403)
        });
        drop(world.origin.take());
        world
    }

    fn ask(&self, path: &str, fields: &str) -> Result<Answer, String> {
        tls::ask(self.cart, Some(&self.web), &request(path, "cart", fields))
    }

    /// What a request with a token is answered.
    fn with(&self, token: &str) -> Option<u16> {
        status(&self.ask("/private", &format!("authorization: Bearer {token}\r\n")))
    }
}

/// Tokens of which none is good.
fn forged(world: &World) -> Vec<(&'static str, String)> {
    let (curve, rsa, good) = (&world.curve, &world.rsa, claims(ISSUER));
    let mut all = unsigned(curve, &good);
    all.extend(confused(curve, rsa, &good));
    all.extend(misnamed(curve, rsa, &good));
    all.extend(ill_claimed(curve));
    all.extend(misshapen(curve, &good));
    all
}

fn unsigned(curve: &Key, good: &Value) -> Vec<(&'static str, String)> {
    let none = |name: &str| compact(&json!({ "alg": name, "typ": "JWT" }), good, b"");
    let signed = |name: Value| curve.token_of(&json!({ "alg": name, "kid": "a" }), good);
    vec![
        ("none", none("none")),
        ("None", none("None")),
        ("NONE", none("NONE")),
        ("nOnE", none("nOnE")),
        ("none, signed by something", compact(&json!({ "alg": "none", "kid": "a" }), good, b"x")),
        ("none, well signed", signed(json!("none"))),
        ("no algorithm", curve.token_of(&json!({ "kid": "a" }), good)),
        ("an empty algorithm", signed(json!(""))),
        ("a list of algorithms", signed(json!(["ES256", "none"]))),
        ("a number", signed(json!(1))),
        ("null", signed(Value::Null)),
        ("another case", signed(json!("es256"))),
        ("an empty signature", compact(&json!({ "alg": "ES256", "kid": "a" }), good, b"")),
        ("zeros", compact(&json!({ "alg": "ES256", "kid": "a" }), good, &[0; 64])),
        ("ones", compact(&json!({ "alg": "ES256", "kid": "a" }), good, &[0xff; 64])),
        ("a short one", compact(&json!({ "alg": "ES256", "kid": "a" }), good, &[1; 32])),
        ("a long one", compact(&json!({ "alg": "ES256", "kid": "a" }), good, &[1; 5000])),
    ]
}

fn confused(curve: &Key, rsa: &Key, good: &Value) -> Vec<(&'static str, String)> {
    let (public, pem) = (rsa.public(), e2e::forge::section("RSA PUBLIC KEY", rsa.public_bytes()));
    let modulus = public["n"].as_str().expect("text").to_owned();
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    let hs = |secret: &[u8], kid: &str| by_secret(secret, &header("HS256", kid), good);
    vec![
        ("HS256 by the point", hs(curve.public_bytes(), "a")),
        ("HS256 by the point's numbers", hs(&curve.public_bytes()[1..], "a")),
        ("HS256 by the key's JSON", hs(curve.public().to_string().as_bytes(), "a")),
        ("HS256 by RSA's bytes", hs(rsa.public_bytes(), "b")),
        ("HS256 by RSA's PEM", hs(pem.as_bytes(), "b")),
        ("HS256 by RSA's modulus", hs(modulus.as_bytes(), "b")),
        ("HS256 by nothing", hs(b"", "a")),
        ("HS256 without a name", by_secret(rsa.public_bytes(), &json!({ "alg": "HS256" }), good)),
        ("ES256 said to be RS256", curve.token_of(&header("RS256", "a"), good)),
        ("ES256 said to be ES384", curve.token_of(&header("ES384", "a"), good)),
        ("ES256 said to be EdDSA", curve.token_of(&header("EdDSA", "a"), good)),
        ("RS256 said to be ES256", rsa.token_of(&header("ES256", "b"), good)),
        ("RS256 said to be PS256", rsa.token_of(&header("PS256", "b"), good)),
        ("RS256 said to be RS512", rsa.token_of(&header("RS512", "b"), good)),
        ("RS256 under the curve's name", rsa.token_of(&header("RS256", "a"), good)),
        ("ES256 under RSA's name", curve.token_of(&header("ES256", "b"), good)),
    ]
}

fn misnamed(curve: &Key, rsa: &Key, good: &Value) -> Vec<(&'static str, String)> {
    let stranger = Key::curve("a");
    let named = |kid: Value| stranger.token_of(&json!({ "alg": "ES256", "kid": kid }), good);
    let brought = |extra: Value| {
        let mut header = json!({ "alg": "ES256", "kid": "mine" });
        header.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        stranger.token_of(&header, good)
    };
    vec![
        ("a stranger's key", stranger.token(good)),
        ("a stranger's key without a name", stranger.token_of(&json!({ "alg": "ES256" }), good)),
        ("a path for a name", named(json!("../../../../../../dev/null"))),
        ("a longer path for a name", named(json!("/proc/self/environ"))),
        ("a query for a name", named(json!("x' UNION SELECT 'a"))),
        ("a command for a name", named(json!("a|id"))),
        ("a list for a name", named(json!(["a"]))),
        ("a NUL in the name", named(json!("a\u{0}"))),
        ("an unknown name, well signed", curve.token_of(&json!({ "alg": "ES256", "kid": "c" }), good)),
        ("its own key", brought(json!({ "jwk": stranger.public() }))),
        ("an address of keys", brought(json!({ "jku": "https://evil.example/keys" }))),
        ("an address of certificates", brought(json!({ "x5u": "https://evil.example/chain" }))),
        ("its own certificate", brought(json!({ "x5c": ["MIIB"] }))),
        ("something critical", curve.token_of(&json!({ "alg": "ES256", "kid": "a", "crit": ["exp"] }), good)),
        (
            "not encoded",
            curve.token_of(&json!({ "alg": "ES256", "kid": "a", "b64": false, "crit": ["b64"] }), good),
        ),
        ("RSA by a stranger", Key::rsa(&rsa.id).token(good)),
    ]
}

fn ill_claimed(curve: &Key) -> Vec<(&'static str, String)> {
    let set = |claim: &str, value: Value| curve.token(&with(|claims| claims[claim] = value));
    let text =
        |payload: String| curve.token_text(&json!({ "alg": "ES256", "kid": "a" }).to_string(), &payload);
    let later = now() + 600;
    vec![
        ("an unknown issuer", set("iss", json!("https://evil.example.com"))),
        ("an issuer with a slash", set("iss", json!(format!("{ISSUER}/")))),
        ("an issuer in capitals", set("iss", json!(ISSUER.to_uppercase()))),
        ("issuers", set("iss", json!([ISSUER]))),
        ("the issuer of other keys", set("iss", json!(FETCHED))),
        ("no issuer", curve.token(&without("iss"))),
        ("an empty issuer", set("iss", json!(""))),
        ("no expiry", curve.token(&without("exp"))),
        ("no expiry but null", set("exp", Value::Null)),
        ("an expiry in words", set("exp", json!("never"))),
        ("an expiry in a list", set("exp", json!([later]))),
        ("expired", set("exp", json!(now() - 3600))),
        ("expired at zero", set("exp", json!(0))),
        ("expired below zero", set("exp", json!(-1))),
        ("not valid yet", set("nbf", json!(now() + 3600))),
        ("issued later", set("iat", json!(now() + 3600))),
        ("another audience", set("aud", json!("bank"))),
        ("other audiences", set("aud", json!(["bank", "carts", "car"]))),
        ("no audience", curve.token(&without("aud"))),
        ("an audience with a space", set("aud", json!("cart bank"))),
        ("an audience of another kind", set("aud", json!({ "cart": true }))),
        ("claims that are a list", text("[]".to_owned())),
        ("claims that are a text", text("\"x\"".to_owned())),
        ("no claims", text(String::new())),
        ("claims with more behind", text(format!("{}x", claims(ISSUER)))),
        ("claims that are cut", text(claims(ISSUER).to_string()[..40].to_owned())),
        (
            "the issuer twice",
            text(format!(
                "{{\"iss\":\"{ISSUER}\",\"iss\":\"https://evil.example.com\",\"aud\":\"{AUDIENCE}\",\"exp\":{later}}}"
            )),
        ),
        (
            "the expiry twice",
            text(format!("{{\"iss\":\"{ISSUER}\",\"aud\":\"{AUDIENCE}\",\"exp\":{later},\"exp\":1}}")),
        ),
        ("claims in a deep hole", text("[".repeat(20_000))),
    ]
}

fn misshapen(curve: &Key, good: &Value) -> Vec<(&'static str, String)> {
    let token = curve.token(good);
    let parts: Vec<&str> = token.split('.').collect();
    let other = jwt::encode(with(|claims| claims["sub"] = json!("root")).to_string().as_bytes());
    let header = jwt::encode(json!({ "alg": "ES256", "kid": "a", "x": 1 }).to_string().as_bytes());
    let deep = jwt::encode("{\"a\":".repeat(20_000).as_bytes());
    vec![
        ("other claims", format!("{}.{other}.{}", parts[0], parts[2])),
        ("another header", format!("{header}.{}.{}", parts[1], parts[2])),
        ("another signature", format!("{}.{}.{}", parts[0], parts[1], jwt::encode(&[7; 64]))),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{token}.x")),
        ("five parts", format!("{token}.x.y")),
        ("only dots", "..".to_owned()),
        ("a part that is empty", format!("{}..{}", parts[0], parts[2])),
        ("padding", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
        ("a signature with a sign", format!("{token}!")),
        ("a header that is no JSON", format!("{}.{}.{}", jwt::encode(b"{{{"), parts[1], parts[2])),
        ("a header in a deep hole", format!("{deep}.{}.{}", parts[1], parts[2])),
        ("two with a comma", format!("{token}x, {token}")),
        ("bytes that are no text", format!("{}.{}.{}", jwt::encode(&[0xff; 30]), parts[1], parts[2])),
        ("very long", format!("{token}{}", "A".repeat(30_000))),
    ]
}

#[test]
fn no_forged_token_passes() {
    let mut world = World::start();
    let mut wrong = Vec::new();
    for (name, token) in forged(&world) {
        for (path, fields) in [
            ("/private".to_owned(), format!("authorization: Bearer {token}\r\n")),
            (format!("/private?access_token={token}"), String::new()),
        ] {
            let answer = world.ask(&path, &fields);
            let arrived = world.origin.take().len();
            if arrived > 0 || !matches!(status(&answer), None | Some(400 | 401 | 403 | 414 | 431)) {
                let place = if fields.is_empty() { "parameter" } else { "field" };
                wrong.push(format!(
                    "{name} ({place}): {:?}, {arrived} arrived",
                    answer.map(|a| (a.status, a.text()))
                ));
            }
        }
    }
    let token = world.curve.token(&claims(ISSUER));
    for (fields, path) in several(&world, &token) {
        let answer = world.ask(&path, &fields);
        let arrived = world.origin.take().len();
        if arrived > 0 || !matches!(status(&answer), None | Some(400 | 401 | 403)) {
            wrong.push(format!(
                "{fields:?} {path}: {:?}, {arrived} arrived",
                answer.map(|a| (a.status, a.text()))
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for good in [&world.curve, &world.rsa] {
        assert_eq!(world.with(&good.token(&claims(ISSUER))), Some(200), "{}", good.id);
    }
    drop(world.origin.take());
    only_the_proxy_sets_its_fields(&world, &token);
    the_living(&mut world);
}

fn the_living(world: &mut World) {
    for program in world.programs.iter_mut().chain([world.mesh.control_plane()]) {
        assert!(program.alive() && !program.output().contains("panicked"), "{}", program.output());
    }
}

/// Requests with a good token and another one.
fn several(world: &World, good: &str) -> Vec<(String, String)> {
    let bad = Key::curve("a").token(&claims(ISSUER));
    let other = world.rsa.token(&with(|claims| claims["sub"] = json!("bob")));
    let path = || "/private".to_owned();
    vec![
        (format!("authorization: Bearer {good}\r\nauthorization: Bearer {bad}\r\n"), path()),
        (format!("authorization: Bearer {bad}\r\nauthorization: Bearer {good}\r\n"), path()),
        (format!("authorization: Bearer {good}\r\nauthorization: Bearer {other}\r\n"), path()),
        (format!("authorization: Bearer {good}, Bearer {bad}\r\n"), path()),
        (format!("authorization: Bearer {bad}, Bearer {good}\r\n"), path()),
        (format!("authorization: Bearer {good}\r\n"), format!("/private?access_token={bad}")),
        (format!("authorization: Bearer {bad}\r\n"), format!("/private?access_token={good}")),
        (format!("authorization: Bearer {good}\r\n"), format!("/private?access%5Ftoken={bad}")),
        (format!("authorization: Bearer {good}\r\nauthorization: bearer {bad}\r\n"), path()),
        (String::new(), format!("/private?access_token={bad}&access_token={good}")),
        (String::new(), format!("/private?access_token={good}&access_token={bad}")),
        (format!("authorization: Basic {good}\r\n"), path()),
        (format!("x-authorization: Bearer {good}\r\n"), path()),
        (format!("cookie: access_token={good}\r\n"), path()),
    ]
}

/// Fields that tell claims are the proxy's: nobody sets them, and nobody has them taken off.
fn only_the_proxy_sets_its_fields(world: &World, good: &str) {
    let ask = |path: &str, fields: &str| {
        let answer = world.ask(path, fields);
        let arrived = world.origin.take();
        (answer, arrived)
    };
    let forged = "x-payload: forged\r\nx-subject: root\r\nX-Subject: root\r\nx_subject: root\r\n";
    let (answer, arrived) = ask("/public", forged);
    assert_eq!(status(&answer), Some(200), "{answer:?}");
    for name in ["x-payload", "x-subject", "x_subject"] {
        assert_eq!(
            values(&arrived[0], name),
            Vec::<String>::new(),
            "{}",
            String::from_utf8_lossy(&arrived[0])
        );
    }
    let tricky = format!(
        "authorization: Bearer {good}\r\nx-subject: root\r\nconnection: x-subject\r\nconnection: x-payload, authorization\r\n"
    );
    let (answer, arrived) = ask("/private", &tricky);
    for one in &arrived {
        assert_eq!(values(one, "x-subject"), ["alice"], "{answer:?}: {}", String::from_utf8_lossy(one));
        assert_eq!(values(one, "x-payload").len(), 1, "{}", String::from_utf8_lossy(one));
    }
}

/// Asks until a token is answered so; a fetch of keys takes its time.
fn becomes(world: &World, what: &str, token: &str, expected: u16) {
    let mut last = None;
    eventually(&format!("{what}: {expected}"), || {
        last = world.with(token);
        std::thread::sleep(Duration::from_millis(100));
        last == Some(expected)
    });
}

#[test]
fn fetched_keys_come_and_go() {
    let mut world = World::start();
    let (first, second) = (Key::curve("first"), Key::curve("second"));
    let (by_first, by_second) = (first.token(&claims(FETCHED)), second.token(&claims(FETCHED)));
    world.keys.serve(&jwt::set(&[&first]));
    becomes(&world, "the first key", &by_first, 200);
    assert_eq!(world.with(&by_second), Some(401));
    // One fetch serves all who wait, and a token of a key that nobody knows makes no flood of them.
    let before = world.keys.asked.load(Ordering::Relaxed);
    for _ in 0..50 {
        assert_eq!(world.with(&by_second), Some(401));
    }
    let asked = world.keys.asked.load(Ordering::Relaxed) - before;
    assert!(asked <= 25, "{asked} fetches for 50 requests");

    world.keys.serve(&jwt::set(&[&first, &second]));
    becomes(&world, "a key that was added", &by_second, 200);
    assert_eq!(world.with(&by_first), Some(200));
    world.keys.serve(&jwt::set(&[&second]));
    becomes(&world, "a key that was removed", &by_first, 401);
    assert_eq!(world.with(&by_second), Some(200));

    // What is served in their place is none: the last good ones hold for a while.
    world.keys.serve("<html>it works</html>");
    std::thread::sleep(Duration::from_millis(CACHE * 1000 / 2));
    assert_eq!(world.with(&by_second), Some(200));
    world.keys.serve(&jwt::set(&[&second]));
    becomes(&world, "the same again", &by_second, 200);

    // Nobody goes to loopback, by name or by redirect, whatever a rule or a server says.
    for issuer in [LOOP, MOVED] {
        let token = world.curve.token(&claims(issuer));
        for _ in 0..3 {
            let answer = world.with(&token);
            assert!(matches!(answer, Some(401 | 403 | 503)), "{issuer}: {answer:?}");
        }
    }
    assert_eq!(world.local.connections(), 0, "keys were fetched from loopback");
    drop(world.origin.take());
    for local in [
        "http://127.0.0.1/keys",
        "http://localhost/keys",
        "http://169.254.169.254/latest",
        "http://[::1]/keys",
    ] {
        let text = config(&jwt::set(&[&world.curve]), local).replace("name: tokens", "name: local");
        world.mesh.configure("local.yaml", &text);
        eventually(&format!("{local} is refused"), || !world.mesh.errors().is_empty());
        world.mesh.unconfigure("local.yaml");
        eventually("and forgotten", || world.mesh.errors().is_empty());
    }
    world.keys_proxy.kill();
    assert_eq!(world.with(&by_second), Some(200), "the last good keys, without their server");
    assert_eq!(world.with(&by_first), Some(401));
    the_living(&mut world);
}

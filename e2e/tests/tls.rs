//! What is offered for encryption, by foreign eyes: `openssl` and `testssl.sh` find TLS 1.3 only, and nothing weak.

#![expect(clippy::panic, reason = "to panic is how a test fails")]

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use e2e::captured::Mesh;
use e2e::forge::Shown;
use e2e::http::Connection;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, tls};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use tokio_rustls::rustls::{HandshakeKind, version};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n";

/// A name of ALPN that each port takes, which `openssl` has to offer.
const SIDECAR: &str = "http/1.1";
const CONTROL_PLANE: &str = "h2";

/// How often a scan is begun anew.
const TRIES: usize = 10;

const CONFIG: &str = "apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";

struct World {
    _origin: Origin,
    _cart: Program,
    sidecar: SocketAddr,
    cart: Shown,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start(CONFIG);
        let origin = Origin::start(HELLO);
        let sidecar = free_address();
        let mut cart = mesh.explicit("cart", &["--inbound", &format!("8080={sidecar}>{}", origin.address())]);
        cart.listens(sidecar);
        let shown = Shown::of(&mesh.state_of("cart"));
        Self { mesh, _origin: origin, _cart: cart, sidecar, cart: shown }
    }

    /// Each port with what it takes by ALPN.
    fn ports(&self) -> [(SocketAddr, &'static str); 2] {
        [(self.sidecar, SIDECAR), (self.mesh.listen_address(), CONTROL_PLANE)]
    }
}

/// What `openssl s_client` says of a port, and whether its handshake was completed.
fn s_client(at: SocketAddr, options: &[&str]) -> (bool, String) {
    let mut command = Command::new("timeout");
    command.args(["60", "openssl", "s_client", "-connect", &at.to_string()]).args(options);
    let output = command.stdin(Stdio::null()).output().expect("openssl");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let shook = text.contains("New, TLSv1") && !text.contains("no peer certificate available");
    (shook, text)
}

#[test]
fn openssl_finds_tls_1_3_and_nothing_older_or_weaker() {
    let world = World::start();
    for (at, alpn) in world.ports() {
        let (shook, text) = s_client(at, &["-alpn", alpn]);
        assert!(shook && text.contains("New, TLSv1.3"), "{text}");
        assert!(text.contains(&format!("ALPN protocol: {alpn}")), "{text}");
        assert!(!text.contains("Cipher is (NONE)"), "{text}");
        for old in ["-tls1", "-tls1_1", "-tls1_2"] {
            // Ciphers of all levels: it is the server who is to say no.
            let (shook, text) = s_client(at, &[old, "-alpn", alpn, "-cipher", "ALL:@SECLEVEL=0"]);
            assert!(!shook, "{old}: {text}");
            let told = ["protocol version", "handshake failure", "no protocols available"];
            assert!(told.iter().any(|words| text.contains(words)), "{old}: {text}");
        }
        // Source: RFC 8446 §B.4: the ones with a short tag, or without encryption, are not offered.
        for suite in ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"] {
            let (shook, text) = s_client(at, &["-tls1_3", "-alpn", alpn, "-ciphersuites", suite]);
            assert!(!shook && text.contains("handshake failure"), "{suite}: {text}");
        }
        for group in ["P-521", "X448", "ffdhe2048"] {
            let (shook, text) = s_client(at, &["-tls1_3", "-alpn", alpn, "-groups", group]);
            assert!(!shook, "{group}: {text}");
        }
        for good in ["X25519", "P-256", "P-384"] {
            let (shook, text) = s_client(at, &["-tls1_3", "-alpn", alpn, "-groups", good]);
            assert!(shook, "{good}: {text}");
        }
        // Where it is new enough to have it; Debian 12's is not.
        let (shook, text) = s_client(at, &["-tls1_3", "-alpn", alpn, "-groups", "X25519MLKEM768"]);
        let knows = !text.contains("SSL_CONF_cmd");
        assert!(shook || !knows, "{text}");
    }
    // What the other protocols of the mesh offer is refused by its name.
    let (shook, text) = s_client(world.sidecar, &["-tls1_3", "-alpn", "nothing-we-know"]);
    assert!(!shook || text.contains("no application protocol"), "{text}");
}

#[test]
fn the_hybrid_key_exchange_is_preferred_and_ordinary_ones_are_taken() {
    let world = World::start();
    let with = |groups: &[&'static dyn tokio_rustls::rustls::crypto::SupportedKxGroup]| {
        let provider = CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() };
        tls::config(Some(&world.cart), tls::MESH, &[&version::TLS13], provider)
    };
    let hybrid = kx_group::X25519MLKEM768;
    for groups in [&[hybrid][..], &[hybrid, kx_group::X25519, kx_group::SECP256R1]] {
        let mut client = tls::connect_with(world.sidecar, with(groups)).expect("a handshake");
        let agreed = client.conn.negotiated_key_exchange_group().expect("agreed");
        assert_eq!(agreed.name(), hybrid.name(), "{groups:?}");
        let mut connection = Connection::over(&mut client);
        connection.send(GET).expect("sent");
        assert_eq!(connection.answer(false).expect("an answer").status, 200);
    }
    for old in [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1] {
        let client = tls::connect_with(world.sidecar, with(&[old])).expect("a handshake");
        assert_eq!(client.conn.negotiated_key_exchange_group().expect("agreed").name(), old.name());
    }
    // Between our own: the client asks for it first, so that no second try is needed.
    let client = tls::connect(world.sidecar, Some(&world.cart), tls::MESH).expect("a handshake");
    assert_eq!(client.conn.negotiated_key_exchange_group().expect("agreed").name(), hybrid.name());
    assert_eq!(client.conn.handshake_kind(), Some(HandshakeKind::Full));
}

/// What `testssl.sh` finds at a port, by its JSON.
///
/// It begins with `openssl s_client`, and gives up where that fails. With TLS 1.3 and a client certificate asked for, that
/// is a matter of what comes first, the end of the client's input or the server's refusal; so it has several tries.
fn testssl(world: &World, at: SocketAddr) -> Vec<serde_json::Value> {
    let given_up = |finding: &serde_json::Value| finding["id"] == "optimal_proto";
    let mut scans = (0..TRIES).map(|number| scan(world, at, number));
    scans.find(|findings| !findings.iter().any(given_up)).expect("a scan that came to its end")
}

fn scan(world: &World, at: SocketAddr, number: usize) -> Vec<serde_json::Value> {
    let file = world.mesh.scratch().join(format!("testssl-{}-{number}.json", at.port()));
    let mut command = Command::new("timeout");
    command.args([
        "500",
        "testssl",
        "--quiet",
        "--warnings=batch",
        "--color",
        "0",
        "--openssl-timeout",
        "10",
    ]);
    command
        .args(["--protocols", "--std", "--fs", "--vulnerable", "--jsonfile"])
        .arg(&file)
        .arg(at.to_string());
    let output = command.stdin(Stdio::null()).output().expect("testssl.sh");
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)));
    e2e::json(&text).as_array().cloned().unwrap_or_default()
}

#[test]
fn testssl_finds_nothing_weak() {
    let world = World::start();
    let world = &world;
    let found: Vec<_> = std::thread::scope(|scope| {
        let asked = world.ports().map(|(at, _)| scope.spawn(move || (at, testssl(world, at))));
        asked.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for (at, findings) in found {
        let of = |id: &str| {
            let one = findings.iter().find(|finding| finding["id"] == id);
            one.unwrap_or_else(|| panic!("{at}: nothing of {id} in {findings:#?}"))["finding"].clone()
        };
        for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"] {
            assert!(
                of(old).as_str().is_some_and(|text| text.starts_with("not offered")),
                "{at}: {old} {}",
                of(old)
            );
        }
        assert!(
            of("TLS1_3").as_str().is_some_and(|text| text.starts_with("offered")),
            "{at}: {}",
            of("TLS1_3")
        );
        let bad = |finding: &&serde_json::Value| {
            let is_about_itself = finding["id"] == "engine_problem" || finding["id"] == "scanTime";
            !is_about_itself && !["OK", "INFO", "DEBUG"].iter().any(|fine| finding["severity"] == *fine)
        };
        let bad: Vec<_> = findings.iter().filter(bad).collect();
        assert!(bad.is_empty(), "{at}: {bad:#?}");
        // Not one of a few lines: it has looked.
        assert!(findings.len() > 30, "{at}: {findings:#?}");
    }
    eventually("the control plane answers still", || world.mesh.api("/api/v1/proxies").is_some());
}

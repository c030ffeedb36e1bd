//! Certificates that are wrong in one way each, at everything that asks for one: refused, with the reason in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use e2e::captured::{Mesh, service};
use e2e::forge::{self, DAY, Forge, Shown, authority_params, between, leaf};
use e2e::http::{self, Answer};
use e2e::issuance::{self, P256, Wanted};
use e2e::origin::Origin;
use e2e::program::Program;
use e2e::{eventually, free_address, tls};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";
const FAKED: &str = "spiffe://mesh.local/ns/shop/sa/faked";

/// A certificate that is wrong, and words of the reason: one of them is told.
struct Case {
    name: &'static str,
    shown: Option<Shown>,
    words: &'static [&'static str],
}

fn case(name: &'static str, shown: Shown, words: &'static [&'static str]) -> Case {
    Case { name, shown: Some(shown), words }
}

fn but(id: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf(&[id]);
    change(&mut params);
    params
}

/// What is wrong with the name.
fn names(forge: &Forge, id: &str) -> Vec<Case> {
    let named = |uri: &str| forge.sign(&leaf(&[uri]));
    let dns = but(id, |params| {
        params.subject_alt_names = vec![SanType::DnsName("cart.shop".try_into().expect("a name"))];
    });
    let (zero, upper) = (format!("{id}\0.evil.example"), id.replace("mesh.local", "MESH.local"));
    vec![
        case(
            "two URIs",
            forge.sign(&leaf(&[id, "spiffe://mesh.local/ns/shop/sa/web"])),
            &["exactly one URI"],
        ),
        case("the same URI twice", forge.sign(&leaf(&[id, id])), &["exactly one URI"]),
        case("no URI", forge.sign(&dns), &["exactly one URI"]),
        case("no path", named("spiffe://mesh.local"), &["SPIFFE ID"]),
        case("an empty path", named("spiffe://mesh.local/"), &["SPIFFE ID"]),
        case("another trust domain", named("spiffe://evil.example/ns/shop/sa/cart"), &["not trusted here"]),
        case("a trust domain in capitals", named(&upper), &["SPIFFE ID", "trust domain"]),
        case("an URI of the web", named("https://mesh.local/ns/shop/sa/cart"), &["SPIFFE ID"]),
        case("a NUL", named(&zero), &["SPIFFE ID"]),
        case("a way up", named("spiffe://mesh.local/ns/shop/sa/web/../cart"), &["SPIFFE ID"]),
        case("an empty segment", named("spiffe://mesh.local/ns//sa/cart"), &["SPIFFE ID"]),
        case("an escape", named("spiffe://mesh.local/ns/shop/sa/%63art"), &["SPIFFE ID"]),
        case("a query", named(&format!("{id}?x")), &["SPIFFE ID"]),
        case("a fragment", named(&format!("{id}#x")), &["SPIFFE ID"]),
        case("a port", named("spiffe://mesh.local:1/ns/shop/sa/cart"), &["SPIFFE ID"]),
        case("a user", named("spiffe://x@mesh.local/ns/shop/sa/cart"), &["SPIFFE ID"]),
        case("a space at the end", named(&format!("{id} ")), &["SPIFFE ID"]),
    ]
}

/// What is wrong with what it may be used for; `own` is the usage of the side that shows it.
fn usages(forge: &Forge, id: &str, other: &ExtendedKeyUsagePurpose) -> Vec<Case> {
    let used = |usages: Vec<KeyUsagePurpose>| forge.sign(&but(id, |params| params.key_usages = usages));
    let authority = but(id, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let unknown = but(id, |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    let others = but(id, |params| params.extended_key_usages = vec![other.clone()]);
    vec![
        case("an authority's", forge.sign(&authority), &["certificate authority", "CaUsedAsEndEntity"]),
        case("for no signatures", used(vec![KeyUsagePurpose::KeyEncipherment]), &["key usage"]),
        case("for nothing that it says", used(Vec::new()), &["key usage"]),
        case(
            "for certificates",
            used(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]),
            &["key usage"],
        ),
        case(
            "for revocation lists",
            used(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
            &["key usage"],
        ),
        case("for the other side", forge.sign(&others), &["extended key usage"]),
        case("something critical that nobody knows", forge.sign(&unknown), &["ritical"]),
    ]
}

/// What is wrong with who signed it, and when.
fn signers(forge: &Forge, id: &str, good: &Shown) -> Vec<Case> {
    let now = SystemTime::now();
    let minute = Duration::from_mins(1);
    let timed = |begin, end| forge.sign(&but(id, |params| between(params, begin, end)));
    let (foreign, ours) = (Forge::new("evil.example"), Forge::new("mesh.local"));
    let past = |params: &mut CertificateParams| between(params, now - 3 * DAY, now - 2 * DAY);
    let below = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = authority_params(&["spiffe://mesh.local"], "below");
        change(&mut params);
        forge.below(&params).sign_with_chain(&leaf(&[id]))
    };
    let workload = forge.below(&but("spiffe://mesh.local/ns/shop/sa/web", |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "a workload");
    }));
    let stranger = ours.sign(&leaf(&[id]));
    let unknown = &["none of the roots of its trust domain", "UnknownIssuer"];
    vec![
        case("expired", timed(now - 2 * DAY, now - minute), &["xpired"]),
        case("not valid yet", timed(now + 5 * minute, now + DAY), &["alid yet", "NotValidYet"]),
        case(
            "a foreign root",
            foreign.sign(&leaf(&["spiffe://evil.example/ns/shop/sa/cart"])),
            &["not trusted here"],
        ),
        case("a foreign root and our name", foreign.sign(&leaf(&[id])), unknown),
        case("a foreign root with our trust domain", stranger.clone(), unknown),
        case("a foreign root, shown too", ours.sign_with_chain(&leaf(&[id])), unknown),
        case("signed by itself", Shown::self_signed(&leaf(&[id])), unknown),
        case("signed by a workload", workload.sign_with_chain(&leaf(&[id])), &["EndEntityUsedAsCa"]),
        case("signed by one whose time has passed", below(&past), &["xpired"]),
        case("behind an authority that is not shown", below(&|_| ()).without_chain(), unknown),
        case("another's, without the key", good.clone().with_key_of(&stranger), &["ignature"]),
    ]
}

/// What a proxy that met all of them has counted.
const REASONS: &[&str] = &[
    "expired",
    "no_certificate",
    "not_an_svid",
    "not_yet_valid",
    "revoked",
    "unknown_authority",
    "unknown_trust_domain",
];

/// All cases for who is shown as `id`: with client certificates, `other` is what servers are for.
fn cases(forge: &Forge, id: &str, good: &Shown, other: &ExtendedKeyUsagePurpose) -> Vec<Case> {
    let mut all = names(forge, id);
    all.extend(usages(forge, id, other));
    all.extend(signers(forge, id, good));
    all
}

/// One mesh for all.
struct World {
    origin: Origin,
    cart: Program,
    admin: SocketAddr,
    /// The proxy's ports in front of the cart: each case has one of its own, since each tells one reason a second.
    ports: Vec<SocketAddr>,
    web: Program,
    faked: tls::Server,
    faked_at: SocketAddr,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

const CASES: usize = 36;

fn config(faked: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop }}\n---\n{}{}\
         apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{ name: faked, namespace: shop }}\n\
         spec:\n  address: {}\n  ports: {{ http: {} }}\n  labels: {{ app: faked }}\n  serviceAccount: faked\n",
        service("cart"),
        service("faked"),
        faked.ip(),
        faked.port()
    )
}

impl World {
    fn start() -> Self {
        let faked = tls::Server::start(ANSWER);
        let mesh =
            Mesh::start_with(&config(faked.address()), &["--log", "info,meshwork_control_plane=debug"]);
        let origin = Origin::start(ANSWER);
        let (admin, faked_at) = (free_address(), free_address());
        let ports: Vec<_> = (0..CASES).map(|_| free_address()).collect();
        let inbound =
            ports.iter().zip(8080..).map(|(bind, port)| format!("{port}={bind}>{}", origin.address()));
        let inbound: Vec<_> = inbound.collect();
        let mut options: Vec<_> = inbound.iter().flat_map(|one| ["--inbound", one.as_str()]).collect();
        let admin_at = admin.to_string();
        options.extend(["--admin", admin_at.as_str(), "--workers", "1"]);
        let cart = mesh.explicit("cart", &options);
        let outbound = format!("faked.shop:80={faked_at}");
        let web = mesh.explicit("web", &["--outbound", &outbound, "--access-log", "-", "--workers", "1"]);
        Self { origin, cart, admin, ports, web, faked, faked_at, mesh }
    }

    /// What the cart's proxy counts.
    fn failed(&self) -> u64 {
        let text = http::get(self.admin, "/metrics").map(|answer| answer.text()).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("meshwork_handshakes_failed_total "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

fn passes(answer: &Result<Answer, String>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.status == 200)
}

/// How long what is told may take to stand in a log; longer than a busy machine needs, since a case that is told
/// otherwise waits for so long.
const TELLING: Duration = Duration::from_secs(15);

/// Waits until a program's log has one of these words behind this length; or gives what it has instead.
fn told(program: &Program, length: usize, words: &[&str]) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let output = program.output();
        let log = output.get(length..).unwrap_or_default();
        if has(log, words) {
            return Ok(());
        }
        if begun.elapsed() > TELLING {
            return Err(format!("not told as {words:?}: {log}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Gathers what went wrong, so that one case does not hide another.
#[derive(Default)]
struct Wrong(BTreeMap<String, String>);

impl Wrong {
    fn note(&mut self, place: &str, name: &str, what: impl std::fmt::Display) {
        self.0.insert(format!("{place}: {name}"), what.to_string());
    }
}

impl World {
    /// To a sidecar's port; the cases say why in its log.
    fn at_the_sidecar(&self, cases: &[Case], good: &Shown, wrong: &mut Wrong) {
        eventually("the cart serves", || passes(&tls::ask(self.ports[0], Some(good), GET)));
        drop(self.origin.take());
        for (case, at) in cases.iter().zip(&self.ports) {
            let (before, length) = (self.failed(), self.cart.output().len());
            if let Ok(answer) = tls::ask(*at, case.shown.as_ref(), GET) {
                wrong.note("sidecar", case.name, format!("let in: {answer:?}"));
                continue;
            }
            eventually(&format!("{} is counted", case.name), || self.failed() > before);
            // It is counted a moment before it is told.
            if let Err(log) = told(&self.cart, length, case.words) {
                wrong.note("sidecar", case.name, log);
            }
        }
        let reached = self.origin.take();
        let reached: Vec<_> = reached.iter().map(|request| String::from_utf8_lossy(request)).collect();
        assert!(reached.is_empty(), "{reached:?}");
        for at in &self.ports {
            let answer = tls::ask(*at, Some(good), GET);
            assert!(passes(&answer), "{answer:?}");
        }
    }

    /// To the control plane, which signs for who is let in.
    fn at_the_control_plane(&mut self, cases: &[Case], good: &Shown, wrong: &mut Wrong) {
        let (csr, _) = issuance::request(self.mesh.scratch(), P256, &[]);
        let at = self.mesh.listen_address();
        let wanted = Wanted { csr: &csr, ..Wanted::default() };
        issuance::ask(at, Some(good), &wanted).expect("the cart's own renewal");
        for case in cases {
            let length = self.mesh.control_plane().output().len();
            match issuance::ask(at, case.shown.as_ref(), &wanted) {
                Ok(_) => wrong.note("control plane", case.name, "has a certificate"),
                Err(refusal) if refusal.code.is_some() => {
                    if !has(&refusal.words, case.words) {
                        wrong.note("control plane", case.name, format!("{refusal:?}"));
                    }
                }
                Err(_) => {
                    if let Err(log) = told(self.mesh.control_plane(), length, case.words) {
                        wrong.note("control plane", case.name, log);
                    }
                }
            }
        }
        issuance::ask(at, Some(good), &wanted).expect("the cart's own renewal, afterwards");
    }

    /// As the server that a sidecar calls.
    fn as_the_server(&self, cases: &[Case], good: &Shown, wrong: &mut Wrong) {
        let get = || http::exchange(self.faked_at, GET).map_err(|error| error.to_string());
        self.faked.show(good);
        eventually("who has the right certificate answers", || passes(&get()));
        for case in cases {
            let Some(shown) = &case.shown else { continue };
            self.faked.show(shown);
            let length = self.web.output().len();
            let answer = get();
            if answer.as_ref().is_ok_and(|answer| answer.status != 503 || answer.body == b"hello") {
                wrong.note("server", case.name, format!("{answer:?}"));
                continue;
            }
            if let Err(log) = told(&self.web, length, case.words) {
                wrong.note("server", case.name, format!("{log} {answer:?}"));
            }
        }
        self.faked.show(good);
        assert!(passes(&get()), "{:?}", get());
    }
}

impl World {
    /// Revoked by its number: refused as a client by the sidecar and the control plane, and as a server.
    fn at_its_end(&mut self, forge: &Forge, wrong: &mut Wrong) {
        let numbered = |id: &str, serial: u8| {
            forge.sign(&but(id, |params| forge::number(params, &[0x5e, 0xed, serial])))
        };
        let (client, server) = (numbered(CART, 1), numbered(FAKED, 2));
        assert!(passes(&tls::ask(self.ports[0], Some(&client), GET)));
        for serial in ["5eed01", "5eed02"] {
            let finished = self.mesh.cli(&["ca", "revoke", "--serial", serial, "--reason", "a test"]);
            assert!(finished.status.success(), "{finished:#?}");
        }
        eventually("the revoked one is refused", || tls::ask(self.ports[0], Some(&client), GET).is_err());
        let revoked = |id, shown: Shown| vec![case(id, shown, &["revoked"])];
        let (own, good) = (forge.sign(&leaf(&[FAKED])), forge.sign(&leaf(&[CART])));
        // Past the second in which it was told.
        std::thread::sleep(Duration::from_millis(1100));
        self.at_the_sidecar(&revoked("revoked", client.clone()), &good, wrong);
        self.as_the_server(&revoked("revoked", server), &own, wrong);
        self.at_the_control_plane(&revoked("revoked", client), &good, wrong);
    }
}

#[test]
fn no_wrong_certificate_passes_anywhere_and_each_is_told() {
    let mut world = World::start();
    let state = world.mesh.state_of("cart");
    eventually("the cart has enrolled", || state.join("identity.pem").exists());
    let forge = Forge::of(&world.mesh.control_plane_state().join("ca"));
    let good = Shown::of(&state);
    let mut of_clients = cases(&forge, CART, &good, &ExtendedKeyUsagePurpose::ServerAuth);
    of_clients.push(Case {
        name: "none",
        shown: None,
        words: &["no certificate", "client certificate", "NoCertificates"],
    });
    assert!(of_clients.len() <= CASES, "{}", of_clients.len());
    let own = forge.sign(&leaf(&[FAKED]));
    let mut of_servers = cases(&forge, FAKED, &own, &ExtendedKeyUsagePurpose::ClientAuth);
    // Good, and somebody else's.
    of_servers.push(case("another workload's", good.clone(), &["expected"]));

    // The forger's certificates are as good as the authority's where nothing is wrong with them.
    eventually("the forge is good", || {
        passes(&tls::ask(world.ports[0], Some(&forge.sign(&leaf(&[CART]))), GET))
    });
    let mut wrong = Wrong::default();
    world.at_the_sidecar(&of_clients, &good, &mut wrong);
    world.as_the_server(&of_servers, &own, &mut wrong);
    world.at_the_control_plane(&of_clients, &good, &mut wrong);
    world.at_its_end(&forge, &mut wrong);
    let counted = http::get(world.admin, "/metrics").expect("metrics").text();
    for why in REASONS {
        let line = format!("meshwork_handshakes_refused_total{{why=\"{why}\"}} ");
        assert!(counted.lines().any(|told| told.starts_with(&line)), "{why} is not counted: {counted}");
    }
    for program in [&mut world.cart, &mut world.web, world.mesh.control_plane()] {
        assert!(program.alive(), "it ended: {}", program.output());
        assert!(!program.output().contains("panicked"), "{}", program.output());
    }
    assert!(wrong.0.is_empty(), "{:#?}", wrong.0);
}

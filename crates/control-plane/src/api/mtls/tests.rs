use super::*;
use std::sync::Arc;

use meshwork_model::mesh::Labels;
use meshwork_model::spiffe::SpiffeId;

const CONFIG: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: open, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  mtls: { mode: PERMISSIVE }
  portLevelMtls: { 9090: { mode: DISABLE }, 9091: { mode: STRICT } }
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: { name: legacy, namespace: shop }
spec: { address: 10.0.0.7, labels: { app: legacy } }
";

fn workload(name: &str, address: [u8; 4], ports: &[u16]) -> (Key, Arc<Workload>) {
    let key = Key::new("shop", name);
    let inbound = |port: &u16| Inbound {
        port: *port,
        bind: (address, 41_000).into(),
        application: ([127, 0, 0, 1], *port).into(),
        protocol: None,
    };
    let workload = Workload {
        key: key.clone(),
        identity: SpiffeId::workload("mesh.local", "shop", name).expect("valid"),
        labels: Labels::from([("app".to_owned(), name.to_owned())]),
        inbound: ports.iter().map(inbound).collect(),
        outbound: Vec::new(),
        capture: None,
        gateway: None,
        unready: None,
        locality: meshwork_model::proxy::Locality::default(),
    };
    (key, Arc::new(workload))
}

fn mesh() -> Mesh {
    let loaded = crate::ingest::read_texts([("a.yaml".to_owned(), CONFIG.to_owned())].into());
    let errors: Vec<_> = loaded
        .problems
        .iter()
        .filter(|problem| problem.severity == meshwork_model::problem::Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let workloads = [
        workload("cart", [10, 0, 0, 1], &[8080, 8081, 9090, 9091]),
        workload("web", [10, 0, 0, 2], &[8080]),
        workload("bank", [127, 0, 0, 1], &[7070]),
    ];
    Mesh::new("mesh.local", Arc::new(loaded.config), workloads.into(), BTreeMap::new())
}

fn traffic(clock: Clock, port: u16, mtls: u64, callers: &[&str]) -> PortTraffic {
    let caller = |text: &&str| PlaintextCaller {
        source: text.parse().map_or(CallerSource::Others, CallerSource::Address),
        counts: PortCounts { connections: 1, requests: 2 },
        open: 0,
        first_seen: clock.instant,
        last_seen: clock.instant,
    };
    PortTraffic {
        key: PortKey { namespace: "shop".into(), workload: "cart".into(), port },
        mtls: PortCounts { connections: mtls, requests: 2 * mtls },
        plaintext: PortCounts { connections: callers.len() as u64, requests: 2 * callers.len() as u64 },
        mtls_seen: (mtls > 0).then_some(clock.instant),
        callers: callers.iter().map(caller).collect(),
    }
}

fn answers(dialects: &[(&str, Dialect)], ports: impl Fn(Clock) -> Vec<PortTraffic>) -> Vec<PortAnswer> {
    let (mesh, clock) = (mesh(), Clock::now());
    let dialects = dialects.iter().map(|(name, dialect)| (Key::new("shop", *name), *dialect)).collect();
    Told { mesh: &mesh, dialects, ports: ports(clock), clock }.answers(|namespace| namespace == "shop")
}

fn answer(answers: &[PortAnswer], port: u16) -> &PortAnswer {
    answers.iter().find(|answer| answer.workload == "cart" && answer.port == port).expect("told")
}

#[test]
fn each_port_has_its_verdict_with_who_said_its_mode() {
    let told =
        answers(&[], |clock| vec![traffic(clock, 8080, 2, &[]), traffic(clock, 9090, 0, &["10.0.0.9"])]);
    let check = |port: u16, mode: &str, verdict: Verdict, words: &str| {
        let answer = answer(&told, port);
        assert_eq!((answer.mode, answer.verdict), (mode, verdict), "{port}");
        assert!(answer.words.starts_with(words), "{port}: {}", answer.words);
        assert_eq!(answer.said_by, "PeerAuthentication shop/open");
    };
    check(8080, "PERMISSIVE", Verdict::Safe, "strict is safe");
    check(8081, "PERMISSIVE", Verdict::Unknown, "no traffic seen");
    check(9090, "DISABLE", Verdict::CutOff, "1 caller calls in plaintext");
    check(9091, "STRICT", Verdict::Strict, "strict already");
    let web = told.iter().find(|answer| answer.workload == "web").expect("told");
    assert_eq!((web.mode, &*web.said_by), ("STRICT", "the mesh's default"));
}

#[test]
fn callers_are_named_by_their_addresses() {
    let callers = ["10.0.0.7", "10.0.0.2", "127.0.0.1", "other"];
    let told = answers(&[("cart", Dialect::Meshwork)], |clock| vec![traffic(clock, 8080, 4, &callers)]);
    let answer = answer(&told, 8080);
    let names: Vec<_> =
        answer.callers.iter().map(|caller| (&*caller.source, caller.names.join(" "))).collect();
    assert_eq!(
        names,
        [
            ("10.0.0.7", "shop/legacy (WorkloadEntry)".to_owned()),
            ("10.0.0.2", "shop/web".to_owned()),
            ("127.0.0.1", String::new()),
            ("other", String::new()),
        ]
    );
    assert_eq!((answer.verdict, &*answer.words), (Verdict::CutOff, "4 callers would be cut off"));
    assert_eq!(answer.mtls_share, Some(0.5));
    assert!(answer.callers[0].last_seen.ends_with('Z'), "{}", answer.callers[0].last_seen);
}

#[test]
fn callers_of_ports_that_were_not_told_apart_count_for_each() {
    let told = answers(&[], |clock| vec![traffic(clock, 8080, 2, &[]), traffic(clock, 0, 0, &["10.9.9.9"])]);
    assert_eq!(answer(&told, 8080).verdict, Verdict::CutOff);
}

#[test]
fn who_does_not_count_cannot_be_told_of() {
    let told = answers(&[("cart", Dialect::Envoy)], |_| Vec::new());
    let answer = answer(&told, 8080);
    assert_eq!((answer.verdict, answer.mtls_share), (Verdict::Unknown, None));
    assert!(answer.words.contains("envoy"), "{}", answer.words);
}

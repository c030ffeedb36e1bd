//! Whatever happens in whatever order: what proxies have in the end is what the mesh of the end says, made anew.

use super::*;
use crate::addresses::{self, Addresses};
use crate::ingest::Library;
use crate::translate::Mesh;
use meshwork_model::address::VirtualAddress;
use meshwork_xds::encode;

const STEPS: usize = 120;
const WORKLOADS: usize = 6;

/// Small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // Source: Marsaglia, "Xorshift RNGs".
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 33) % n as u64).expect("small")
    }

    fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }
}

struct Scene {
    world: World,
    random: Random,
    library: Library,
    streams: BTreeMap<usize, Stream>,
    revision: u64,
    /// What happened, for who looks why it went wrong.
    told: Vec<String>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let enrolments = (0..WORKLOADS).map(|n| enrolment(n, n % 3)).collect();
        Self {
            world: World::new("mesh.local", Config::default(), enrolments),
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            library: Library::default(),
            streams: BTreeMap::new(),
            revision: 0,
            told: Vec::new(),
        }
    }

    fn step(&mut self) {
        let n = self.random.below(WORKLOADS);
        let what = self.random.below(16);
        self.told.push(format!("{what} of {n}"));
        match what {
            0..=2 => self.connect(n),
            3 => self.disconnect(n),
            4 => self.health(n),
            5 => {
                let label = self.random.below(4);
                self.world.enrolled(enrolment(n, label));
            }
            6..=8 => self.change_service(n),
            9 | 10 => self.change_slice(n),
            11 | 12 => self.change_rule(n),
            13 => self.give_addresses(),
            14 => self.world.publish_endpoints(),
            _ => drop(self.world.publish_some()),
        }
    }

    fn connect(&mut self, n: usize) {
        let (called, target) = (self.random.below(4), self.random.below(3));
        let agent = self.random.one(&["meshwork", "meshwork", "envoy", "gRPC C-core"]);
        let number = self.told.len() as u64;
        let mut stream = stream(number, &account(n), &format!("w{n}"), agent);
        let metadata = &mut stream.node.metadata;
        metadata["SDS_DIR"] = json!("/run/sds");
        metadata["INBOUND"][0]["port"] = json!(8080 + target);
        metadata["INBOUND"][0]["bind"] = json!(format!("127.0.0.1:{}", 41000 + n));
        metadata["OUTBOUND"][0]["service"] = json!(format!("s{called}.shop"));
        if *agent == "meshwork" && self.random.below(3) == 0 {
            metadata["CAPTURE"] = json!({"outbound": ["127.0.0.1:15001"], "names": "127.0.0.1:15053"});
        }
        if let Err(denied) = self.world.connect(&stream) {
            panic!("{denied}");
        }
        if *agent == "gRPC C-core" {
            self.world.wanted(&stream, Kind::Listener, &[format!("s{called}.shop:80")]);
        }
        self.streams.insert(n, stream);
    }

    fn disconnect(&mut self, n: usize) {
        if let Some(stream) = self.streams.remove(&n) {
            self.world.disconnect(&stream);
            self.world.expire(Instant::now() + STREAM_GRACE);
        }
    }

    fn health(&mut self, n: usize) {
        if let Some(stream) = self.streams.get(&n) {
            let health = match self.random.below(2) {
                0 => Health::Ready,
                _ => Health::Unready("no".into()),
            };
            self.world.health(stream, health);
        }
    }

    fn change_service(&mut self, n: usize) {
        let app = self.random.below(3);
        let protocol = *self.random.one(&["http", "http", "grpc", "tcp"]);
        let target = *self.random.one(&["8080", "8081", "main"]);
        self.change(&format!("s{n}"), || {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{n}, namespace: shop }}\nspec: {{ selector: \
                 {{ app: a{app} }}, ports: [{{ name: {protocol}, port: 80, targetPort: {target} }}] }}\n"
            )
        });
    }

    fn change_slice(&mut self, n: usize) {
        let (service, workload, ready) =
            (self.random.below(4), self.random.below(WORKLOADS), self.random.below(3) > 0);
        let annotations = *self.random.one(&["", "annotations: { meshwork.dev/service-account: other }, "]);
        let port = *self.random.one(&["http", "grpc", "tcp"]);
        self.change(&format!("slice{n}"), || {
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: slice{n}, namespace: shop, \
                 {annotations}labels: {{ kubernetes.io/service-name: s{service} }} }}\naddressType: IPv4\nendpoints:\n\
                 - {{ addresses: [10.0.0.{n}], conditions: {{ ready: {ready} }} }}\n\
                 - {{ addresses: [10.0.1.{n}], targetRef: {{ kind: Pod, name: w{workload} }} }}\n\
                 ports: [{{ name: {port}, port: 8080 }}]\n"
            )
        });
    }

    fn change_rule(&mut self, n: usize) {
        let (other, weight) = (self.random.below(4), self.random.below(4));
        let text = match self.random.below(3) {
            0 => format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: p{n}, namespace: shop \
                 }}\nspec: {{ selector: {{ matchLabels: {{ app: a{other} }} }}, mtls: {{ mode: DISABLE }} }}\n"
            ),
            1 => format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: d{n}, namespace: shop \
                 }}\nspec: {{ host: s{other}, trafficPolicy: {{ loadBalancer: {{ simple: RANDOM }} }} }}\n"
            ),
            _ => format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{n}, namespace: shop \
                 }}\nspec:\n  parentRefs: [{{ group: \"\", kind: Service, name: s{other}, port: 80 }}]\n  rules: [{{ \
                 backendRefs: [{{ name: s0, port: 80, weight: {weight} }}, {{ name: s1, port: 80 }}] }}]\n"
            ),
        };
        self.change(&format!("rule{n}"), || text);
    }

    /// Puts a text in, or takes it out; what would be refused is not applied.
    fn change(&mut self, name: &str, text: impl FnOnce() -> String) {
        let text = (self.random.below(4) > 0).then(|| text().into());
        let library = self.library.with([(name.to_owned(), text)]);
        let loaded = library.loaded();
        if loaded.is_accepted() {
            let is_foretold = self.random.below(4) == 0;
            if is_foretold {
                self.world.publish();
            }
            let (before, concerned) = (self.snapshots(), self.world.concerned(&loaded.config));
            self.library = library;
            self.revision += 1;
            self.world.apply(loaded.config, Vec::new(), self.revision);
            if is_foretold {
                self.world.publish();
                let after = self.snapshots();
                // Of what differs, some dialects cannot say everything.
                for key in before.keys().filter(|key| before[*key] != after[*key]) {
                    assert!(concerned.contains(key), "{key} is concerned, too: {:?}", self.told);
                }
            }
        }
    }

    fn give_addresses(&mut self) {
        let mesh = self.world.mesh();
        let given: Addresses = addresses::of_config(&mesh.config)
            .into_iter()
            .zip(1..)
            .map(|(name, n)| (name, VirtualAddress::of_number(n).expect("few")))
            .collect();
        self.world.address(given);
    }

    fn snapshots(&self) -> BTreeMap<Key, Versions> {
        self.world
            .proxies(|key, proxy| (key.clone(), versions(&proxy.snapshots.borrow())))
            .into_iter()
            .collect()
    }

    /// What every proxy has is what a mesh that was never changed gives it.
    fn check(&self) {
        let now = self.world.mesh();
        assert_eq!(implied::services(&now.config, &now.workloads, &now.implied), *now.implied);
        let (workloads, implied) = (now.workloads.clone(), (*now.implied).clone());
        let mut anew = Mesh::new("mesh.local", Arc::clone(&now.config), workloads, implied);
        anew.addresses = Arc::clone(&now.addresses);
        let all = self.world.proxies(|key, proxy| {
            let resources = translate::snapshot(&anew, &now.workloads[key], proxy.dialect, &proxy.wanted);
            let encoded =
                resources.iter().map(|resource| Arc::new(encode(resource, proxy.dialect, &proxy.sds)));
            (key.clone(), versions(&proxy.snapshots.borrow()), versions(&Snapshot::new(encoded)))
        });
        for (key, has, expected) in all {
            assert_eq!(has, expected, "{key} after {:?}", self.told);
        }
        assert!(
            self.world.statuses(|_, _, status| status.revision <= self.revision).into_iter().all(|sane| sane)
        );
        assert_eq!(self.world.lock().given, self.revision);
    }
}

type Versions = BTreeMap<(Kind, Arc<str>), Arc<str>>;

fn versions(snapshot: &Snapshot) -> Versions {
    let of =
        |kind| snapshot.of_kind(kind).map(move |e| ((kind, Arc::clone(&e.name)), Arc::clone(&e.version)));
    Kind::ALL.into_iter().flat_map(of).collect()
}

fn account(n: usize) -> String {
    format!("account{n}")
}

fn enrolment(n: usize, label: usize) -> Enrolment {
    let mut labels = Labels::from([("app".to_owned(), format!("a{label}"))]);
    if label != 1 {
        labels.insert(SERVICE_LABEL.to_owned(), format!("s{label}"));
    }
    Enrolment { workload: Key::new("shop", format!("w{n}")), service_account: account(n), labels }
}

#[tokio::test(start_paused = true)]
async fn whatever_changes_in_whatever_order_proxies_have_what_the_mesh_says() {
    for seed in 0..60 {
        let mut scene = Scene::new(seed);
        for step in 0..STEPS {
            scene.step();
            if step % 10 == 9 {
                scene.told.push(format!("checked, seed {seed}"));
                scene.world.publish();
                scene.check();
            }
        }
        let is_busy = scene.revision > 20 && !scene.snapshots().is_empty();
        assert!(is_busy, "seed {seed} does little: revision {}", scene.revision);
    }
}

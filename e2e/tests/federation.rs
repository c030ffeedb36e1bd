//! Two meshes with two trust domains, each with a control plane: by bundle endpoints they believe each other's identities,
//! and follow each other's roots.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::captured::Mesh;
use e2e::forge::{Forge, Shown, leaf};
use e2e::http::Answer;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, tls};

/// One of the two.
struct Side {
    mesh: Mesh,
    domain: &'static str,
    endpoint: SocketAddr,
}

impl Side {
    fn start(domain: &'static str, config: &str) -> Self {
        let endpoint = free_address();
        let at = endpoint.to_string();
        let arguments = [
            "--trust-domain",
            domain,
            "--federation-listen",
            &at,
            "--federation-refresh",
            "10s",
            "--svid-lifetime",
            "20s",
        ];
        Self { mesh: Mesh::start_with(config, &arguments), domain, endpoint }
    }

    fn bundle(&self) -> String {
        std::fs::read_to_string(self.mesh.control_plane_state().join("bundle.pem")).expect("a bundle")
    }

    /// Believes the other: by its roots as they are now, and by what its endpoint says from then on.
    fn believe(&self, other: &Self) {
        let bundle = other.bundle();
        let indented = bundle.lines().fold(String::new(), |all, line| all + "        " + line + "\n");
        let config = format!(
            "apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {{ name: default, namespace: meshwork-system }}
spec:
  federatedTrustDomains:
    - trustDomain: {domain}
      bundle: |
{indented}      bundleEndpoint:
        url: https://{at}/
        profile: https_spiffe
        spiffeId: spiffe://{domain}/ns/meshwork-system/sa/control-plane
",
            domain = other.domain,
            at = other.endpoint,
        );
        self.mesh.configure("federation.yaml", &config);
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n").into_bytes()
}

fn status(answer: &Result<Answer, String>) -> Option<u16> {
    answer.as_ref().ok().map(|answer| answer.status)
}

const CART: &str = "apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: cart, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules:
    - from: [{ source: { principals: [\"a.example/ns/shop/sa/web\"] } }]
      to: [{ operation: { paths: [\"/for-a\"] } }]
    - from: [{ source: { principals: [\"b.example/ns/shop/sa/web\"] } }]
      to: [{ operation: { paths: [\"/for-b\"] } }]
";

fn workload(mesh: &Mesh, name: &str, options: &[&str]) -> (Program, Shown) {
    let program = mesh.explicit(name, options);
    let state = mesh.state_of(name);
    eventually(&format!("{name} has enrolled"), || state.join("identity.pem").exists());
    (program, Shown::of(&state))
}

#[test]
fn two_trust_domains_believe_each_other_and_nobody_else() {
    let (ours, theirs) = (Side::start("a.example", ""), Side::start("b.example", CART));
    let origin = Origin::start(HELLO);
    let at = free_address();
    let inbound = format!("8080={at}>{}", origin.address());
    let (_cart, _) = workload(&theirs.mesh, "cart", &["--inbound", &inbound]);
    let outbound = ["--outbound", "cart.shop:80=127.0.0.1:0"];
    let (_near, near) = workload(&theirs.mesh, "web", &outbound);
    let (_far, far) = workload(&ours.mesh, "web", &outbound);
    let ask = |shown: &Shown, path: &str| tls::ask(at, Some(shown), &get(path));
    eventually("who is near is let in", || status(&ask(&near, "/for-b")) == Some(200));
    assert!(ask(&far, "/for-a").is_err(), "a stranger is let in");

    theirs.believe(&ours);
    ours.believe(&theirs);
    eventually("who is of the other trust domain is let in", || {
        for side in [&ours, &theirs] {
            let errors = side.mesh.errors();
            assert!(errors.is_empty(), "{errors:#?}");
        }
        status(&ask(&Shown::of(&ours.mesh.state_of("web")), "/for-a")) == Some(200)
    });
    // Each name counts with its trust domain: the same path of another one is somebody else.
    let far = Shown::of(&ours.mesh.state_of("web"));
    assert_eq!(status(&ask(&far, "/for-b")), Some(403));
    let near = Shown::of(&theirs.mesh.state_of("web"));
    assert_eq!(status(&ask(&near, "/for-a")), Some(403));
    // The roots of the one never vouch for names of the other.
    let forge = Forge::of(&ours.mesh.control_plane_state().join("ca"));
    let posing = forge.sign(&leaf(&["spiffe://b.example/ns/shop/sa/web"]));
    assert!(ask(&posing, "/for-b").is_err(), "our root vouches for their names");
    let third = Forge::new("c.example").sign(&leaf(&["spiffe://c.example/ns/shop/sa/web"]));
    assert!(ask(&third, "/for-a").is_err(), "a third trust domain is believed");

    // Our root is replaced; they hear of it by the endpoint, and believe our new certificates.
    let finished = ours.mesh.cli(&["ca", "rotate"]);
    assert!(finished.status.success(), "{finished:#?}");
    eventually("a certificate under the new root is let in", || {
        std::thread::sleep(Duration::from_millis(200));
        status(&ask(&Shown::of(&ours.mesh.state_of("web")), "/for-a")) == Some(200)
    });

    // And no longer than they say so.
    theirs.mesh.unconfigure("federation.yaml");
    eventually("a trust domain that is believed no more is a stranger", || {
        ask(&Shown::of(&ours.mesh.state_of("web")), "/for-a").is_err()
    });
    assert_eq!(status(&ask(&Shown::of(&theirs.mesh.state_of("web")), "/for-b")), Some(200));
}

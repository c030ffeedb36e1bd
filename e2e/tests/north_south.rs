//! Traffic from outside: `meshwork gateway`, by Gateway API, in front of a workload of the mesh.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use e2e::captured::{Mesh, NAMESPACE};
use e2e::echo::Echo;
use e2e::program::Program;
use e2e::{eventually, free_address, http};

const CONFIG: &str = "apiVersion: v1
kind: Service
metadata: { name: catalog, namespace: shop }
spec: { selector: { app: catalog }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: meshwork
  listeners:
    - { name: http, port: 80, protocol: HTTP }
    - { name: https, port: 443, protocol: HTTPS, hostname: shop.example.com, tls: { certificateRefs: [{ name: shop }] } }
    - { name: bytes, port: 9000, protocol: TCP }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: catalog, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  hostnames: [shop.example.com]
  rules: [{ backendRefs: [{ name: catalog, port: 80 }] }]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: { name: catalog, namespace: shop }
spec:
  parentRefs: [{ name: edge, sectionName: bytes }]
  rules: [{ backendRefs: [{ name: catalog, port: 80 }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: catalog, namespace: shop }
spec:
  selector: { matchLabels: { app: catalog } }
  rules: [{ from: [{ source: { principals: [mesh.local/ns/shop/sa/edge] } }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: edge, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  action: DENY
  # Without ports, all bytes would be denied, too: nobody knows what path they are for.
  rules: [{ to: [{ operation: { paths: [/admin], ports: [\"80\", \"443\"] } }] }]
";

/// Makes a certificate for the shop that is its own authority.
fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).expect("a certificate");
    std::fs::create_dir_all(folder).expect("a folder");
    for (name, text) in [("tls.key", made.signing_key.serialize_pem()), ("tls.crt", made.cert.pem())] {
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, folder.join(name)).expect("renamed");
    }
}

fn status(address: SocketAddr, host: &str, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    http::exchange(address, request.as_bytes()).map_or(0, |answer| answer.status)
}

/// The status of a request by TLS, to a server that this certificate proves.
fn by_tls(address: SocketAddr, certificate: &Path) -> String {
    let to = format!("shop.example.com:443:{address}");
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    command.args(["--connect-to", &to, "--cacert"]).arg(certificate).arg("https://shop.example.com/");
    String::from_utf8(command.output().expect("curl runs").stdout).expect("UTF-8")
}

struct Edge {
    gateway: Program,
    http: SocketAddr,
    https: SocketAddr,
    bytes: SocketAddr,
}

impl Edge {
    fn start(mesh: &Mesh, certificates: &Path) -> Self {
        let (http, https, bytes) = (free_address(), free_address(), free_address());
        let mut command = mesh.meshwork();
        command.args(["gateway", "--gateway", "edge", "--certificates"]).arg(certificates);
        for (port, address) in [(80, http), (443, https), (9000, bytes)] {
            command.args(["--listen", &format!("{port}={address}")]);
        }
        command.args(mesh.enrolment("edge", &["app=edge"]));
        let gateway = Program::start("gateway", mesh.scratch(), &mut command);
        Self { gateway, http, https, bytes }
    }
}

#[test]
fn a_gateway_carries_requests_tls_and_bytes_into_the_mesh() {
    let mut mesh = Mesh::start(CONFIG);
    let certificates = mesh.scratch().join("home/certificates");
    let shop = certificates.join("shop/shop");
    certificate(&shop);
    mesh.file("certificates/readme", "");
    let run = mesh.workload("catalog").options(&["--label", "app=catalog"]).port(8080);
    let _catalog = Echo::start(&mesh, NAMESPACE, "catalog", &run, &[8080]);
    let mut edge = Edge::start(&mesh, &certificates);
    edge.gateway.listens(edge.http);

    eventually("the gateway reaches the catalog", || status(edge.http, "shop.example.com", "/") == 200);
    // The port that a client came to is no part of the host.
    assert_eq!(status(edge.http, &format!("shop.example.com:{}", edge.http.port()), "/"), 200);
    assert_eq!(status(edge.http, "other.example.com", "/"), 404);
    assert_eq!(status(edge.http, "shop.example.com", "/admin"), 403);
    edge.gateway.listens(edge.bytes);
    eventually("bytes reach the catalog", || status(edge.bytes, "anything", "/") == 200);

    edge.gateway.listens(edge.https);
    assert_eq!(by_tls(edge.https, &shop.join("tls.crt")), "200");
    certificate(&shop);
    eventually("a new certificate is shown", || by_tls(edge.https, &shop.join("tls.crt")) == "200");

    mesh.control_plane().kill();
    assert_eq!(status(edge.http, "shop.example.com", "/"), 200);
}

#[test]
fn plaintext_reaches_a_permissive_workload_and_no_other() {
    let services = "apiVersion: v1
kind: Service
metadata: { name: catalog, namespace: shop }
spec: { selector: { app: catalog }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: MODE } }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: catalog, namespace: shop }
spec:
  rules:
    - from: [{ source: { principals: [\"*\"] } }]
    - to: [{ operation: { paths: [/public] } }]
";
    let mesh = Mesh::start(&services.replace("MODE", "PERMISSIVE"));
    let (inbound, application, outbound) = (free_address(), free_address(), free_address());
    let _catalog = Echo::beside(&mesh, "catalog", application.port());
    let sidecar = |name: &str, labels: &[&str], port: [&str; 2]| {
        let mut command = mesh.meshwork();
        command.arg("sidecar").args(port).args(mesh.enrolment(name, labels));
        Program::start(name, mesh.scratch(), &mut command)
    };
    let _catalog_proxy =
        sidecar("catalog", &["app=catalog"], ["--inbound", &format!("8080={inbound}>{application}")]);
    let _client_proxy =
        sidecar("client", &["app=client"], ["--outbound", &format!("catalog.shop:80={outbound}")]);
    eventually("mTLS reaches the catalog", || status(outbound, "catalog", "/") == 200);
    assert_eq!(status(inbound, "catalog", "/public"), 200);
    assert_eq!(status(inbound, "catalog", "/"), 403, "who comes in plaintext has no identity");

    mesh.configure("mesh.yaml", &services.replace("MODE", "STRICT"));
    eventually("plaintext is refused", || status(inbound, "catalog", "/public") == 0);
    assert_eq!(status(outbound, "catalog", "/"), 200);
}

//! What is outside the mesh: hosts that config names, as far as what is asked for agrees with where it goes, and what
//! becomes of all others.

use e2e::captured::Mesh;
use e2e::inside::Inside;
use e2e::origin::Origin;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\noutside\n";

/// A host of this name that is two servers here: one for HTTP, one that is to be called by TLS.
fn entry(http: &Origin, tls: &Origin) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: provider, namespace: shop }}
spec:
  hosts: [api.shop.example]
  ports:
    - {{ name: http, number: 80, protocol: HTTP }}
    - {{ name: https, number: 443, protocol: HTTPS }}
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints:
    - {{ address: 127.0.0.1, ports: {{ http: {}, https: {} }} }}
",
        http.address().port(),
        tls.address().port()
    )
}

const CLOSED: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: { name: default, namespace: meshwork-system }
spec:
  outboundTrafficPolicy: { mode: REGISTRY_ONLY }
";

#[test]
fn a_named_host_is_reached_as_itself_alone() {
    let (http, tls) = (Origin::start(ANSWER), Origin::start(b"no TLS"));
    let mesh = Mesh::start(&entry(&http, &tls));
    let mut client = Inside::start(&mesh, "client");
    assert_eq!(client.eventually(&["curl", "-sSf", "http://api.shop.example/"]), "outside\n");
    let request = http.take().pop().expect("a request");
    assert!(String::from_utf8_lossy(&request).to_lowercase().contains("host: api.shop.example"));

    let status = ["-o", "/dev/null", "-w", "%{http_code}", "http://api.shop.example/"];
    let other = client.run(&[&["curl", "-sS", "-H", "Host: other.example"], &status[..]].concat());
    assert_eq!(other.stdout, "404", "{other:?}");
    assert!(http.take().is_empty());

    let there = "api.shop.example:443";
    let other = ["curl", "-k", "-sS", "--connect-to", &format!("other.example:443:{there}")];
    let other = client.run(&[&other[..], &["https://other.example/"]].concat());
    assert!(other.code != 0 && tls.bytes() == 0, "{other:?}");
    // Who speaks no TLS does not answer a greeting.
    let right = client.run(&["curl", "-k", "-sS", "-m", "5", "https://api.shop.example/"]);
    assert!(right.code != 0 && tls.bytes() > 0, "what no TLS server is got a TLS greeting: {right:?}");
}

#[test]
fn what_config_does_not_name_is_open_until_it_is_closed() {
    let (http, tls) = (Origin::start(ANSWER), Origin::start(b"no TLS"));
    let mesh = Mesh::start(&entry(&http, &tls));
    let log = mesh.file("client/access.log", "");
    let run = mesh.workload("client").options(&["--access-log", &log]);
    let mut client = Inside::of(&mesh, "client", &run);
    // A documentation address (RFC 5737): whether anybody answers there is the host's affair.
    let mut try_it = || client.run(&["curl", "-sS", "-m", "2", "http://192.0.2.1/"]);
    let last =
        || std::fs::read_to_string(&log).unwrap_or_default().lines().last().unwrap_or_default().to_owned();
    e2e::eventually("it is tried as it was asked for", || {
        try_it();
        last().contains("\"PassthroughCluster\"") && last().contains("192.0.2.1:80")
    });
    mesh.configure("closed.yaml", CLOSED);
    e2e::eventually("it is closed", || {
        let said = try_it();
        said.code != 0 && last().contains("\"BlackHoleCluster\"")
    });
    assert_eq!(client.eventually(&["curl", "-sSf", "http://api.shop.example/"]), "outside\n");
}

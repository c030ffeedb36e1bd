//! The files of foreign data planes: whole, private, and replaced when the identity changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use meshwork_identity::{CertificateAuthority, Key, SpiffeId, Svid};

use super::*;
use crate::control_plane_id;

const DAY: Duration = Duration::from_hours(24);
const LONG: Duration = Duration::from_secs(30);

struct Mesh {
    dir: tempfile::TempDir,
    authority: CertificateAuthority,
    identity: Arc<IdentitySource>,
}

impl Mesh {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority =
            CertificateAuthority::open_or_create(&dir.path().join("ca"), "mesh.local").expect("made");
        let identity = IdentitySource::new(svid(&authority), authority.bundle()).expect("good");
        Self { dir, authority, identity }
    }
}

fn svid(authority: &CertificateAuthority) -> Svid {
    let id = SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/web").expect("an ID");
    authority.issue(&id, DAY, &[]).expect("issued")
}

fn node() -> Node {
    let address = |text: &str| text.parse().expect("an address");
    Node {
        name: "web-1".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        inbound: vec![Inbound {
            port: 8080,
            bind: address("127.0.0.1:41000"),
            application: address("127.0.0.1:9000"),
            protocol: None,
        }],
        outbound: vec![Outbound {
            service: meshwork_model::mesh::Key::new("shop", "catalog"),
            port: 80,
            bind: address("127.0.0.1:42000"),
        }],
        capture: None,
        gateway: None,
        is_probed: false,
    }
}

fn envoy() -> EnvoyBootstrap {
    EnvoyBootstrap {
        node: node(),
        control_plane: "127.0.0.1:15012".parse().expect("an address"),
        server: control_plane_id("mesh.local").expect("an ID"),
        admin: "127.0.0.1:0".parse().expect("an address"),
    }
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("there");
    serde_saphyr::from_str(&text).expect("YAML")
}

fn only_for_the_owner(dir: &Path) {
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{}", path.display());
    }
}

#[test]
fn envoys_bootstrap_names_the_node_the_control_plane_and_the_secrets() {
    let mesh = Mesh::new();
    let dir = mesh.dir.path().join("a \"quoted\" name");
    let path = envoy().write(&dir, &mesh.identity).expect("written");
    let bootstrap = yaml(&path);
    let check = |pointer: &str, expected: Value| {
        assert_eq!(bootstrap.pointer(pointer), Some(&expected), "{pointer}");
    };
    check("/node/id", json!("sidecar~web-1.shop"));
    check("/node/metadata/INBOUND/0/bind", json!("127.0.0.1:41000"));
    check("/node/metadata/OUTBOUND/0/service", json!("catalog.shop"));
    let real = dir.canonicalize().expect("there");
    check("/node/metadata/SDS_DIR", json!(real.display().to_string()));
    check("/dynamic_resources/ads_config/api_type", json!("DELTA_GRPC"));
    let tls = "/static_resources/clusters/0/transport_socket/typed_config/common_tls_context";
    check(
        &format!(
            "{tls}/combined_validation_context/default_validation_context/match_typed_subject_alt_names/0"
        ),
        json!({"san_type": "URI", "matcher": {"exact": "spiffe://mesh.local/ns/meshwork-system/sa/control-plane"}}),
    );
    check(
        &format!("{tls}/tls_certificate_sds_secret_configs/0/sds_config/path_config_source/path"),
        json!(real.join("default.yaml").display().to_string()),
    );
    only_for_the_owner(&dir);
}

#[test]
fn envoys_secrets_hold_the_svid_and_the_roots() {
    let mesh = Mesh::new();
    let dir = mesh.dir.path().join("envoy");
    envoy().write(&dir, &mesh.identity).expect("written");
    let secret = yaml(&dir.join("default.yaml"));
    let text = |field: &str| {
        let found = secret.pointer(&format!("/resources/0/tls_certificate/{field}/inline_string"));
        found.and_then(Value::as_str).expect("a text").to_owned()
    };
    assert_eq!(text("certificate_chain"), mesh.identity.svid().chain_pem());
    assert_eq!(text("private_key"), *mesh.identity.svid().key_pem());
    let roots = yaml(&dir.join("ROOTCA.yaml"));
    let found =
        roots.pointer("/resources/0/validation_context/trusted_ca/inline_string").and_then(Value::as_str);
    assert_eq!(found, Some(mesh.identity.bundle().pem().as_str()));
}

#[test]
fn grpcs_bootstrap_names_files_that_belong_together() {
    let mesh = Mesh::new();
    let dir = mesh.dir.path().join("grpc");
    let bootstrap =
        GrpcBootstrap { node: node(), control_plane: "127.0.0.1:15012".parse().expect("an address") };
    for round in 0..3 {
        mesh.identity.replace_svid(svid(&mesh.authority)).expect("replaced");
        let path = bootstrap.write(&dir, &mesh.identity).expect("written");
        let text = fs::read_to_string(path).expect("there");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let files = &json["certificate_providers"]["default"]["config"];
        assert_eq!(files, &json["xds_servers"][0]["channel_creds"][0]["config"]);
        let read = |field: &str| fs::read_to_string(files[field].as_str().expect("a path")).expect("there");
        let key = Key::from_pem(&read("private_key_file")).expect("a key");
        let found = Svid::from_pem(&read("certificate_file"), key).expect("a pair");
        assert_eq!(found.serial(), mesh.identity.svid().serial(), "round {round}");
        assert_eq!(read("ca_certificate_file"), mesh.identity.bundle().pem());
        // bootstrap.json, three names, .current and one set.
        assert_eq!(fs::read_dir(&dir).expect("listed").count(), 6, "round {round}");
    }
    only_for_the_owner(&dir);
}

#[test]
fn federated_trust_domains_are_in_the_files_and_without_them_nothing_is_new() {
    let mesh = Mesh::new();
    let other =
        CertificateAuthority::open_or_create(&mesh.dir.path().join("other"), "other.org").expect("made");
    let (envoy_dir, grpc_dir) = (mesh.dir.path().join("envoy"), mesh.dir.path().join("grpc"));
    let grpc = GrpcBootstrap { node: node(), control_plane: envoy().control_plane };
    let files = |path: &Path| -> Value {
        let json: Value = serde_json::from_str(&fs::read_to_string(path).expect("there")).expect("JSON");
        json["certificate_providers"]["default"]["config"].clone()
    };
    let alone = files(&grpc.write(&grpc_dir, &mesh.identity).expect("written"));
    assert_eq!(alone.get("spiffe_trust_bundle_map_file"), None);
    let trust = mesh.identity.trust().as_ref().clone().with_federated([other.bundle()]);
    mesh.identity.replace_trust(trust).expect("ours");
    let both = files(&grpc.write(&grpc_dir, &mesh.identity).expect("written"));
    assert_eq!(both["ca_certificate_file"], alone["ca_certificate_file"]);
    let own = fs::read_to_string(both["ca_certificate_file"].as_str().expect("a path")).expect("there");
    assert_eq!(own, mesh.authority.bundle().pem(), "who does not know the map trusts ours alone");
    let map = both["spiffe_trust_bundle_map_file"].as_str().expect("a path");
    let map: Value = serde_json::from_str(&fs::read_to_string(map).expect("there")).expect("JSON");
    for domain in ["mesh.local", "other.org"] {
        let keys = map["trust_domains"][domain]["keys"].as_array().expect("keys");
        assert!(keys.iter().all(|key| key["use"] == json!("x509-svid")), "{domain}");
        assert_eq!(keys.len(), 1, "{domain}");
    }
    envoy().write(&envoy_dir, &mesh.identity).expect("written");
    let secret = yaml(&envoy_dir.join("ROOTCA.yaml"));
    let validator = secret.pointer("/resources/0/validation_context/custom_validator_config").expect("there");
    assert_eq!(validator["name"], json!("envoy.tls.cert_validator.spiffe"));
    let domains = validator["typed_config"]["trust_domains"].as_array().expect("a list");
    let names: Vec<_> = domains.iter().map(|domain| domain["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["mesh.local", "other.org"]);
    assert_eq!(domains[1]["trust_bundle"]["inline_string"], json!(other.bundle().pem()));
}

#[tokio::test]
async fn files_follow_the_identity() {
    let mesh = Mesh::new();
    let (envoy_dir, grpc_dir) = (mesh.dir.path().join("envoy"), mesh.dir.path().join("grpc"));
    let (envoy, grpc) = (envoy(), GrpcBootstrap { node: node(), control_plane: envoy().control_plane });
    envoy.write(&envoy_dir, &mesh.identity).expect("written");
    grpc.write(&grpc_dir, &mesh.identity).expect("written");
    mesh.identity.replace_svid(svid(&mesh.authority)).expect("replaced");
    let chain = mesh.identity.svid().chain_pem();
    let written = async {
        let has = |path: &Path, text: &str| fs::read_to_string(path).is_ok_and(|found| found.contains(text));
        let secret = quoted_chain(&chain);
        while !has(&envoy_dir.join("default.yaml"), &secret) || !has(&grpc_dir.join("cert-chain.pem"), &chain)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = envoy.keep_fresh(&envoy_dir, &mesh.identity) => unreachable!("it never ends"),
        () = grpc.keep_fresh(&grpc_dir, &mesh.identity) => unreachable!("it never ends"),
        outcome = tokio::time::timeout(LONG, written) => outcome.expect("in time"),
    }
}

fn quoted_chain(chain: &str) -> String {
    Value::from(chain).to_string()
}

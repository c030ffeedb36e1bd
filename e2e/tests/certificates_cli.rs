//! Certificates from the command line: lifetimes that cannot work, what a proxy has and how renewing goes, and revocations
//! of what nobody has.

use std::net::SocketAddr;
use std::process::Command;

use e2e::captured::{Mesh, service};
use e2e::program::output;
use e2e::{eventually, free_address};
use serde_json::Value;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
/// The shortest life that a control plane takes.
const SHORTEST: &str = "5s";

/// What a proxy tells of its certificates.
fn certificates(mesh: &Mesh, admin: SocketAddr, form: &str) -> String {
    let mut command = mesh.meshwork();
    output(command.args(["inspect", "certs", "-o", form, "--admin", &admin.to_string()]))
}

#[test]
fn a_life_that_is_too_short_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    let mut command = Command::new(e2e::binary());
    command.args(["control-plane", "--svid-lifetime", "1s", "--state"]).arg(&state);
    let refused = command.output().expect("started");
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("--svid-lifetime") && words.contains("expected 5s at least"), "{words}");
    assert!(!state.exists());
}

#[test]
fn a_proxy_tells_what_it_has_and_how_renewing_goes() {
    let admin = free_address();
    let mut mesh = Mesh::start_with(&service("web"), &["--svid-lifetime", SHORTEST]);
    let _web = mesh.explicit("web", &["--admin", &admin.to_string()]);
    eventually("its admin interface is there", || e2e::http::get(admin, "/ready").is_ok());
    let told = || -> Value { e2e::json(&certificates(&mesh, admin, "json")) };

    let first = told();
    assert_eq!(first["identity"]["id"], WEB, "{first:#}");
    let own = &first["certificates"][0];
    assert_eq!(own["used_by"], "identity", "{first:#}");
    assert_eq!(own["cert_chain"][0]["subject_alt_names"][0]["uri"], WEB, "{first:#}");
    let (signer, root) = (&own["cert_chain"][1], &own["ca_cert"][0]);
    assert_eq!((&own["cert_chain"][0]["issuer"], &signer["issuer"]), (&signer["subject"], &root["subject"]));
    // The shortest life is long enough.
    let serial = first["identity"]["serial_number"].clone();
    eventually("it has another certificate", || told()["identity"]["serial_number"] != serial);
    let renewal = told()["identity"]["renewal"].clone();
    assert!(renewal["due"].is_string() && renewal["last"].is_string(), "{renewal:#}");

    mesh.control_plane().kill();
    let told = || -> Value { e2e::json(&certificates(&mesh, admin, "json")) };
    eventually("a failure is told", || told()["identity"]["renewal"]["failure"]["why"].is_string());
    eventually("and its end", || certificates(&mesh, admin, "text").contains("EXPIRED"));
    let text = certificates(&mesh, admin, "text");
    assert!(text.starts_with(&format!("identity  {WEB}\n")), "{text}");
    assert!(text.contains("\nfailed    last at ") && !text.contains("PRIVATE"), "{text}");
}

#[test]
fn a_revocation_of_nobody_is_made_and_told() {
    let mesh = Mesh::start(&service("web"));
    let _web = mesh.explicit("web", &[]);
    eventually("it is there", || mesh.proxy("web").is_some());
    let wrong = "spiffe://mesh.local/ns/shop/sa/wbe";
    let finished = mesh.cli(&["ca", "revoke", "--identity", "shop/wbe"]);
    assert!(finished.status.success(), "{finished:#?}");
    assert_eq!(finished.stdout.trim(), format!("{wrong} is revoked"));
    for words in ["nobody is enrolled as", &format!("did you mean {WEB}?"), "meshwork ca unrevoke"] {
        assert!(finished.stderr.contains(words), "{words}: {finished:#?}");
    }
    assert!(mesh.cli_json(&["ca", "revocations"]).to_string().contains(wrong));

    let told = mesh.cli_json(&["ca", "revoke", "--serial", "abcdef0123456789"]);
    assert_eq!((&told["known"], &told["holders"]), (&false.into(), &Value::Array(Vec::new())), "{told:#}");
    let told = mesh.cli_json(&["ca", "revoke", "--identity", "shop/web"]);
    assert_eq!((&told["known"], &told["holders"][0]), (&true.into(), &"shop/web".into()), "{told:#}");

    let finished = mesh.cli(&["ca", "unrevoke", "--identity", "shop/webb"]);
    assert_eq!(finished.status.code(), Some(1), "{finished:#?}");
    let words = &finished.stderr;
    assert!(words.contains("is not revoked") && words.contains("did you mean"), "{finished:#?}");
}

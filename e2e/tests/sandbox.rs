//! What a proxy's process can still do, seen from outside; and that its keys are nowhere but where they belong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use e2e::captured::Mesh;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, http, user};

const CONFIG: &str = "apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";

/// A file of `/proc` with a name and a value a line.
fn fields(process: u32, file: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/{file}")).expect("a process");
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Both limits of the size of a core dump.
fn core_limits(process: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/limits")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("the limit");
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

/// Panics unless nobody else of its user can look into a process.
fn is_private(mesh: &Mesh, process: u32) {
    for file in ["environ", "maps", "mem"] {
        let mut command = Command::new("head");
        user::ordinary(&mut command, mesh.scratch()).args(["-c", "1"]).arg(format!("/proc/{process}/{file}"));
        let output = command.output().expect("head");
        assert!(!output.status.success(), "{file} of {process} is read by others of its user");
    }
}

#[test]
fn a_proxy_is_closed_in_and_its_memory_its_own() {
    let mut mesh = Mesh::start(CONFIG);
    let origin = Origin::start(HELLO);
    let (at, outbound, admin) = (free_address(), free_address(), free_address());
    let admin_at = admin.to_string();
    let inbound = format!("8080={at}>{}", origin.address());
    let cart = mesh.explicit("cart", &["--inbound", &inbound, "--admin", &admin_at]);
    let web = mesh.explicit("web", &["--outbound", &format!("cart.shop:80={outbound}")]);
    eventually("it serves", || http::get(outbound, "/").is_ok_and(|answer| answer.status == 200));
    for program in [&cart, &web] {
        let status = fields(program.id(), "status");
        assert_eq!(status["NoNewPrivs"], "1", "{status:#?}");
        // 2: by a filter. A kernel without it is told in the log.
        assert!(status["Seccomp"] == "2" || program.output().contains("seccomp"), "{status:#?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status[set].trim_start_matches('0'), "", "{set}: {status:#?}");
        }
        assert!(program.output().contains("closed in"), "{}", program.output());
    }
    // Of threads that were started later as well.
    for task in std::fs::read_dir(format!("/proc/{}/task", cart.id())).expect("threads").flatten() {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        assert!(text.contains("NoNewPrivs:\t1") || text.is_empty(), "{text}");
    }
    let control_plane = mesh.control_plane().id();
    for process in [cart.id(), web.id(), control_plane] {
        assert_eq!(core_limits(process), ["0", "0"], "{process}");
        is_private(&mesh, process);
    }
    let info = http::get(admin, "/server_info").expect("the admin port").text();
    assert!(info.contains("\"sandbox\""), "{info}");
    no_key_is_told(&mut mesh, &[&cart, &web], admin);
}

/// Neither logs nor pages have a private key, or a part of one.
fn no_key_is_told(mesh: &mut Mesh, programs: &[&Program], admin: std::net::SocketAddr) {
    let mut secrets = Vec::new();
    for name in ["cart", "web"] {
        let text = std::fs::read_to_string(mesh.state_of(name).join("identity.pem")).expect("an identity");
        let key = text.split("PRIVATE KEY-----").nth(1).expect("a key");
        // The middle of it, as it would stand in any text.
        secrets.push(key.lines().nth(2).expect("a line").to_owned());
    }
    let mut texts: Vec<(String, String)> =
        programs.iter().map(|program| (program.id().to_string(), program.output())).collect();
    texts.push(("the control plane".to_owned(), mesh.control_plane().output()));
    for page in ["/config_dump", "/certs", "/server_info", "/stats", "/metrics", "/clusters", "/listeners"] {
        texts.push((page.to_owned(), http::get(admin, page).map(|answer| answer.text()).unwrap_or_default()));
    }
    let audit: PathBuf = mesh.control_plane_state().join("audit.jsonl");
    texts.push(("the audit log".to_owned(), std::fs::read_to_string(audit).unwrap_or_default()));
    for (what, text) in texts {
        assert!(!text.contains("PRIVATE KEY"), "{what} has a key");
        for secret in &secrets {
            assert!(!text.contains(secret), "{what} has a part of a key");
        }
    }
}

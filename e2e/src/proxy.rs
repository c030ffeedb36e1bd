//! Our proxy between a test's client and one origin, with nothing in its config but that.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::program::Program;

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    program: Program,
    dir: TempDir,
}

impl Proxy {
    /// Starts a proxy that forwards everything to an origin.
    pub fn before(origin: SocketAddr) -> Self {
        Self::start(origin, &[])
    }

    /// The same, by so many workers, whatever cores there are.
    pub fn of_workers(workers: u32, origin: SocketAddr) -> Self {
        Self::start(origin, &["--workers", &workers.to_string()])
    }

    fn start(origin: SocketAddr, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let address = crate::free_address();
        let text = std::fs::read_to_string(crate::root().join("e2e/testdata/engine.yaml")).expect("the file");
        let text = text
            .replace("$LISTEN", &address.port().to_string())
            .replace("$ADMIN", &crate::free_address().port().to_string())
            .replace("$ORIGIN", &origin.port().to_string());
        let file = dir.path().join("engine.yaml");
        std::fs::write(&file, text).expect("the file");
        let file = file.to_string_lossy();
        let arguments = [&["proxy", "-c", &*file][..], options].concat();
        let mut program = Program::meshwork("proxy", dir.path(), arguments);
        program.listens(address);
        Self { address, program, dir }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.program.alive()
    }

    /// A folder for the test's own files, which goes with the proxy.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }
}

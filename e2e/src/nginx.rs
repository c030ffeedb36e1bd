//! nginx as an origin.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::program::Program;

/// A running nginx with one worker, which logs every request.
pub struct Nginx {
    address: SocketAddr,
    _program: Program,
    dir: TempDir,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The status that it gave.
    pub status: u16,
    /// What `Host` says.
    pub host: String,
    /// The request line, escaped as in JSON.
    pub line: String,
}

impl Nginx {
    /// Starts nginx with this body of its `server` block; `$files` stands for the folder of [`Self::file`].
    pub fn start(server: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::create_dir(path("files")).expect("a folder");
        let address = crate::free_address();
        let mut http = String::new();
        for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(http, "{name}_temp_path {};", path(name));
        }
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {pid}; error_log {errors} info;\n\
             events {{ worker_connections 512; }}\n\
             http {{ {http} gzip off; default_type application/octet-stream; keepalive_requests 100000;\n\
             log_format judge escape=json '$status $http_host $request'; access_log {log} judge;\n\
             server {{ listen {address}; {server} }} }}\n",
            pid = path("pid"),
            errors = path("errors.log"),
            log = path("access.log"),
            server = server.replace("$files", &path("files")),
        );
        std::fs::write(path("nginx.conf"), config).expect("the config");
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-e", &path("start.log"), "-c", &path("nginx.conf"), "-p", &path("")]);
        let mut program = Program::start("nginx", dir.path(), &mut command);
        program.listens(address);
        Self { address, _program: program, dir }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a file of its folder lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }

    /// The requests that it has answered so far.
    pub fn log(&self) -> Vec<Logged> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let line = |line: &str| {
            let [status, host, line] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { return None };
            Some(Logged { status: status.parse().ok()?, host: host.to_owned(), line: line.to_owned() })
        };
        text.lines().filter_map(line).collect()
    }
}

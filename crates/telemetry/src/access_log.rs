//! Access logs: one JSON line per request, with the field names of Istio's JSON log, or what a config's own format says.
//!
//! Workers format lines into buffers of their own, [`Lane`]s; one writer thread swaps each buffer for an empty
//! one a few dozen times a second and writes it out. A worker never waits: not for the disk, not for the writer
//! (it has two buffers, of which the writer holds one at most, for the time of a swap), and it wakes the writer
//! only when that had nothing to do. What has no room is dropped and counted in `meshwork_access_log_dropped_total`. In
//! the steady state nothing is allocated. Lines of one worker are nearly, not strictly, in the order of their end.
//!
//! A log file is appended to (`O_APPEND`), and opened anew within a second after it was moved or deleted.

mod line;
mod sink;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use meshwork_model::reason::Reason;

use crate::registry::{Own, Registry};
use line::LineWriter;

/// How much a worker may have formatted that is not yet written, per buffer; it has two. At 600 bytes a line and
/// [`FLUSH_INTERVAL`] that is room for some 170,000 lines a second and worker.
const BUFFER_BYTES: usize = 1 << 20;
/// How long the writer lets lines gather: long enough to batch, short enough for a person who watches.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);
/// How long the writer sleeps at most when nothing happens; it is woken before, so this is only a net.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Sink {
    /// Nowhere.
    #[default]
    Off,
    /// Appended to a file.
    File(PathBuf),
    /// To standard output.
    Stdout,
    /// To standard error.
    Stderr,
}

/// An open access log. Dropping the last handle (lanes included) writes out what is left and ends the writer.
#[derive(Clone, Debug)]
pub struct AccessLog {
    writer: Option<Arc<Writer>>,
}

/// One worker's way into an access log.
#[derive(Debug)]
pub struct Lane {
    open: Option<OpenLane>,
}

#[derive(Debug)]
struct OpenLane {
    writer: Arc<Writer>,
    buffers: Arc<Buffers>,
}

/// What a line tells of a request. Empty texts and `None` become `null`.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// `start_time`: when the request's head came, as RFC 3339 in UTC with milliseconds.
    pub start: SystemTime,
    /// `duration`: to the last byte of the response; milliseconds, with fractions.
    pub duration: Duration,
    /// `direction`: `inbound` or `outbound`.
    pub direction: &'a str,
    /// `protocol`: `HTTP/1.1`, `HTTP/2` or `TCP`.
    pub protocol: &'a str,
    /// `method`
    pub method: &'a [u8],
    /// `authority`
    pub authority: &'a [u8],
    /// `path`, query included.
    pub path: &'a [u8],
    /// `response_code`: HTTP status, 0 where none was sent.
    pub status: u16,
    /// `grpc_status`
    pub grpc_status: Option<u8>,
    /// `response_flags`, `reason_code` and `reason`: why the mesh answered in the service's place.
    pub reason: Option<Reason>,
    /// `bytes_received`: of the request's body, or from the caller.
    pub bytes_in: u64,
    /// `bytes_sent`: of the response's body, or to the caller.
    pub bytes_out: u64,
    /// `request_id`
    pub request_id: &'a [u8],
    /// `downstream_remote_address`
    pub downstream: Option<SocketAddr>,
    /// `downstream_local_address`: where the caller meant to connect to, where it was redirected; else left out.
    pub meant_for: Option<SocketAddr>,
    /// `downstream_peer`: the SPIFFE ID that the caller proved.
    pub downstream_peer: &'a str,
    /// `route_name`
    pub route: &'a str,
    /// `upstream_cluster`
    pub cluster: &'a str,
    /// `upstream_host`: the endpoint's address.
    pub upstream: Option<SocketAddr>,
    /// `upstream_peer`: the SPIFFE ID that the endpoint proved.
    pub upstream_peer: &'a str,
    /// `upstream_transport_failure_reason`: why TLS with the endpoint failed, in words; left out where it did not.
    pub upstream_failure: &'a str,
    /// `policy_dry_run`: what policies that are only tried would say; left out where none is.
    pub dry_run: &'a str,
    /// `policy_audit`: the rule of an AUDIT policy that takes the request; left out where none does.
    pub audit: &'a str,
    /// `config_version`: the config that the request was served under.
    pub config_version: &'a str,
}

/// The writer thread, and what it shares with the lanes.
#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    lanes: Mutex<Vec<Arc<Buffers>>>,
    /// Set by the writer before it sleeps for long; a worker that clears it wakes the writer.
    idle: AtomicBool,
    stop: AtomicBool,
    own: Arc<Own>,
}

type Buffers = [Mutex<LineWriter>; 2];

// === impl AccessLog ===

impl AccessLog {
    /// A log that goes nowhere.
    pub fn off() -> Self {
        Self { writer: None }
    }

    /// Opens the sink and starts the writer thread. Dropped lines are counted in `registry`.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread cannot be started.
    pub fn open(sink: &Sink, registry: &Registry) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match sink {
            Sink::Off => return Ok(Self::off()),
            Sink::File(path) => Box::new(sink::LogFile::open(path.clone())?),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::Stderr => Box::new(io::stderr()),
        };
        Self::to(out, registry)
    }

    fn to(out: Box<dyn Write + Send>, registry: &Registry) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            lanes: Mutex::default(),
            idle: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            own: registry.own.clone(),
        });
        let theirs = shared.clone();
        let run = move || theirs.run(out);
        let thread = thread::Builder::new().name("access-log".into()).spawn(run)?;
        let writer = Writer { shared, thread: Mutex::new(Some(thread)) };
        Ok(Self { writer: Some(Arc::new(writer)) })
    }

    /// Makes a worker's lane. Lanes may be shared, but then writers may meet, and the second one's line is dropped.
    pub fn lane(&self) -> Lane {
        let open = self.writer.as_ref().map(|writer| {
            let buffers = Arc::<Buffers>::default();
            writer.shared.lanes().push(buffers.clone());
            OpenLane { writer: writer.clone(), buffers }
        });
        Lane { open }
    }
}

impl Lane {
    /// A lane of a log that goes nowhere.
    pub fn off() -> Self {
        Self { open: None }
    }

    /// Whether lines go anywhere; ask before making an [`Entry`].
    pub fn enabled(&self) -> bool {
        self.open.is_some()
    }

    /// Writes a line. Never waits: where both buffers are full, the line is dropped and counted.
    pub fn write(&self, entry: &Entry<'_>) {
        self.add(|lines| lines.push(entry));
    }

    /// Appends what `write` does, of any form. Never waits, as [`Self::write`].
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.add(|lines| write(lines.bytes()));
    }

    fn add(&self, write: impl FnOnce(&mut LineWriter)) {
        let Some(OpenLane { writer, buffers }) = &self.open else { return };
        let mut write = Some(write);
        if buffers.iter().any(|buffer| try_write(buffer, &mut write)) {
            writer.wake_if_idle();
        } else {
            writer.shared.own.log_lines_dropped.fetch_add(1, Relaxed);
        }
    }
}

fn try_write(buffer: &Mutex<LineWriter>, write: &mut Option<impl FnOnce(&mut LineWriter)>) -> bool {
    let mut lines = match buffer.try_lock() {
        Ok(lines) => lines,
        Err(TryLockError::Poisoned(lines)) => lines.into_inner(),
        Err(TryLockError::WouldBlock) => return false,
    };
    let room = lines.len() < BUFFER_BYTES;
    if room && let Some(write) = write.take() {
        write(&mut lines);
    }
    room
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            direction: "",
            protocol: "",
            method: b"",
            authority: b"",
            path: b"",
            status: 0,
            grpc_status: None,
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
            request_id: b"",
            downstream: None,
            meant_for: None,
            downstream_peer: "",
            route: "",
            cluster: "",
            upstream: None,
            upstream_peer: "",
            upstream_failure: "",
            dry_run: "",
            audit: "",
            config_version: "",
        }
    }
}

// === impl Writer ===

impl Writer {
    fn wake_if_idle(&self) {
        if self.shared.idle.load(SeqCst) && self.shared.idle.swap(false, SeqCst) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.thread().unpark();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.unpark();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It only fails where the writer panicked, and then there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The writer's life: gather, write, and sleep for long only when there was nothing.
    fn run(&self, mut out: Box<dyn Write + Send>) {
        let mut spare = Vec::new();
        loop {
            let stopping = self.stop.load(SeqCst);
            let wrote = self.write_out(&mut spare, &mut *out);
            if stopping {
                return;
            }
            if wrote {
                thread::park_timeout(FLUSH_INTERVAL);
            } else {
                self.sleep();
            }
        }
    }

    /// Sleeps until a worker has written. A line that came before `idle` was set is seen by the second look.
    fn sleep(&self) {
        self.idle.store(true, SeqCst);
        let pending = self.lanes().iter().any(|lane| lane.iter().any(|b| !lock(b).is_empty()));
        if !pending {
            thread::park_timeout(IDLE_INTERVAL);
        }
        self.idle.store(false, SeqCst);
    }

    /// Writes what the lanes hold; whether there was anything. Forgets the lanes whose workers are gone.
    fn write_out(&self, spare: &mut Vec<u8>, out: &mut dyn Write) -> bool {
        let lanes = {
            let mut lanes = self.lanes();
            lanes.retain(|lane| Arc::strong_count(lane) > 1 || lane.iter().any(|b| !lock(b).is_empty()));
            lanes.clone()
        };
        let mut wrote = false;
        for buffer in lanes.iter().flat_map(|lane| lane.iter()) {
            lock(buffer).swap(spare);
            if spare.is_empty() {
                continue;
            }
            wrote = true;
            if out.write_all(spare).and_then(|()| out.flush()).is_err() {
                self.own.log_write_errors.fetch_add(1, Relaxed);
            }
            spare.clear();
        }
        wrote
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Buffers>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(buffer: &Mutex<LineWriter>) -> std::sync::MutexGuard<'_, LineWriter> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

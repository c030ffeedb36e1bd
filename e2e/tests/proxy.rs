//! `meshwork proxy` as a process: how it ends, what it does without descriptors, and whose identity it follows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use e2e::http::Connection;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;

const GET: &[u8] = b"GET /exact HTTP/1.1\r\nhost: h\r\n\r\n";
/// Requests that are in flight when the process is asked to end.
const IN_FLIGHT: usize = 100;
/// Bytes of each of their answers: more than what leaves in one write.
const BODY: usize = 300_000;

/// A config with one route to `origin`; gives its file, the listener's and the admin interface's address.
fn config(dir: &Path, origin: SocketAddr) -> (PathBuf, SocketAddr, SocketAddr) {
    let (front, admin) = (e2e::free_address(), e2e::free_address());
    let text = std::fs::read_to_string(e2e::root().join("e2e/testdata/one-hop.yaml")).expect("the file");
    let text = text
        .replace("$LISTEN", &front.port().to_string())
        .replace("$ADMIN", &admin.port().to_string())
        .replace("$ORIGIN", &origin.port().to_string());
    let file = dir.join("proxy.yaml");
    std::fs::write(&file, text).expect("written");
    (file, front, admin)
}

fn status(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut connection = Connection::open(address).ok()?;
    connection.send(request).ok()?;
    Some(connection.answer(false).ok()?.status)
}

fn ready(admin: SocketAddr) -> Option<u16> {
    status(admin, b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\n")
}

fn signal(program: &Program, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &program.id().to_string()]).status();
    assert!(sent.expect("kill").success());
}

/// An origin that holds every answer back until it is let go.
struct Gated {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Gated {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (count, opened) = (Arc::clone(&asked), Arc::clone(&gate));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, opened) = (Arc::clone(&count), Arc::clone(&opened));
                std::thread::spawn(move || answer_late(stream, &count, &opened));
            }
        });
        Self { address, asked, gate }
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.gate.1.notify_all();
    }
}

fn answer_late(mut stream: TcpStream, asked: &AtomicUsize, gate: &(Mutex<bool>, Condvar)) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => bytes.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    asked.fetch_add(1, Ordering::Relaxed);
    let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
    drop(gate.1.wait_while(open, |open| !*open));
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.extend((0..BODY).map(|at| b'a' + u8::try_from(at % 23).unwrap_or(0)));
    // A client that is gone tells its test by itself.
    let _ = stream.write_all(&answer);
}

#[test]
fn asked_to_end_it_finishes_what_is_in_flight_and_exits_0() {
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Gated::start();
    let (file, front, admin) = config(dir.path(), origin.address);
    let file = file.to_string_lossy().into_owned();
    let mut proxy = Program::meshwork("proxy", dir.path(), ["proxy", "-c", &file, "--drain-time", "60s"]);
    proxy.listens(front);
    assert_eq!(ready(admin), Some(200));
    let mut clients: Vec<_> = (0..IN_FLIGHT).map(|_| Connection::open(front).expect("connects")).collect();
    for client in &mut clients {
        client.send(GET).expect("sent");
    }
    e2e::eventually("all are in flight", || origin.asked.load(Ordering::Relaxed) == IN_FLIGHT);
    signal(&proxy, "TERM");
    e2e::eventually("it says that it drains", || ready(admin) == Some(503));
    e2e::eventually("it accepts nothing more", || TcpStream::connect(front).is_err());
    assert!(proxy.alive());
    origin.open();
    for client in &mut clients {
        let answer = client.answer(false).expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, BODY));
        assert!(answer.body.iter().enumerate().all(|(at, b)| usize::from(*b - b'a') == at % 23));
        assert_eq!(answer.field("connection"), Some("close"));
    }
    drop(clients);
    e2e::eventually("it ends", || !proxy.alive());
    assert_eq!(proxy.ended().and_then(|ended| ended.code()), Some(0), "{}", proxy.output());
}

#[test]
fn asked_twice_it_ends_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Gated::start();
    let (file, front, admin) = config(dir.path(), origin.address);
    let file = file.to_string_lossy().into_owned();
    let mut proxy = Program::meshwork("proxy", dir.path(), ["proxy", "-c", &file, "--drain-time", "10m"]);
    proxy.listens(front);
    let mut client = Connection::open(front).expect("connects");
    client.send(GET).expect("sent");
    e2e::eventually("it is in flight", || origin.asked.load(Ordering::Relaxed) == 1);
    signal(&proxy, "TERM");
    e2e::eventually("it says that it drains", || ready(admin) == Some(503));
    signal(&proxy, "INT");
    e2e::eventually("it ends", || !proxy.alive());
    assert_eq!(proxy.ended().and_then(|ended| ended.code()), Some(1), "{}", proxy.output());
}

/// Descriptors that a process has open.
fn descriptors(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.id())).expect("a process").count()
}

#[test]
fn without_descriptors_what_is_open_goes_on_and_the_rest_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Origin::start(HELLO);
    let (file, front, admin) = config(dir.path(), origin.address());
    let file = file.to_string_lossy().into_owned();
    let arguments = ["proxy", "-c", &file, "--workers", "1"];
    let mut unlimited = Program::meshwork("unlimited", dir.path(), arguments);
    unlimited.listens(front);
    let needed = descriptors(&unlimited);
    unlimited.kill();
    // Room for a few connections.
    let limited = format!("ulimit -n {}; exec \"$0\" \"$@\"", needed + 20);
    let mut command = Command::new("sh");
    command.args(["-c", &limited]).arg(e2e::binary()).args(arguments);
    let mut proxy = Program::start("proxy", dir.path(), &mut command);
    proxy.listens(front);
    let mut kept = Connection::open(front).expect("connects");
    let serve = |kept: &mut Connection| {
        kept.send(GET).expect("sent");
        kept.answer(false).expect("an answer").status
    };
    e2e::eventually("the first is served", || {
        kept.send(GET).expect("sent");
        kept.answer(false).is_ok_and(|answer| answer.status == 200)
    });
    // Some are let in and want a connection to the origin, each.
    let mut crowd: Vec<_> = (0..60).map(|_| Connection::open(front).expect("queued")).collect();
    for client in &mut crowd {
        // Those who were not let in are told by the close.
        let _ = client.send(GET);
    }
    e2e::eventually("it says so", || proxy.output().contains("MW0501"));
    for _ in 0..20 {
        assert_eq!(serve(&mut kept), 200);
        assert_eq!(ready(admin), Some(200));
    }
    let before = processor_time(&proxy);
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time(&proxy) - before;
    assert!(used < 50, "it spins: {used} of 100 ticks");
    drop(crowd);
    e2e::eventually("newcomers are served again", || status(front, GET) == Some(200));
    assert_eq!(serve(&mut kept), 200);
    assert!(proxy.output().lines().count() < 30, "{}", proxy.output());
}

/// Hundredths of a second of processor time that a process has used. Source: proc(5), `stat`.
fn processor_time(program: &Program) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id())).expect("a process");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn an_identity_from_files_needs_all_three() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, ..) = config(dir.path(), e2e::free_address());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(e2e::binary());
        let output = command.args(["proxy", "-c"]).arg(&file).args(arguments).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, errors) = run(&["--certificate", "a.pem", "--private-key", "a.key"]);
    assert!(code == Some(2) && errors.contains("--trust-bundle"), "{code:?} {errors}");
    let all = ["--certificate", "no.pem", "--private-key", "no.key", "--trust-bundle", "no.pem"];
    let (code, errors) = run(&all);
    assert!(code == Some(1) && errors.contains("cannot read no.pem"), "{code:?} {errors}");
}

//! What a process can still do within the sandbox, and what it cannot, tried in children of this one: a sandbox is for
//! good.
//!
//! Each child has one thread when it begins, so this is no harness. What the kernel lacks is said, and not tested.

#![expect(clippy::print_stdout, reason = "a test program of its own tells its outcome")]

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use meshwork_capture::sandbox::{self, Needs, Standing, Walls};

/// Says to a child which case it is.
const CASE: &str = "MESHWORK_SANDBOX_CASE";
/// The folders of a case: its own, and one outside.
const FOLDERS: [&str; 2] = ["MESHWORK_SANDBOX_OWN", "MESHWORK_SANDBOX_OTHER"];

/// A case, and what it does within.
type Case = (&'static str, fn(&Scene));
const CASES: &[Case] = &[
    ("files_are_written_in_its_own_folders_alone", files),
    ("programs_are_not_started", programs),
    ("programs_are_started_where_that_is_needed", needed_programs),
    ("system_calls_that_no_proxy_makes_fail", system_calls),
    ("second_numbers_of_calls_lead_nowhere", second_numbers),
    ("programs_of_the_same_user_are_not_asked", unix_sockets),
    ("all_that_a_proxy_does_goes_on", proxy),
    ("a_log_is_appended_to_and_made_anew", logs),
    ("who_is_outside_is_not_signalled", signals),
    ("what_is_needed_is_left_open", gaps),
    ("threads_that_are_there_already_are_an_error", threads),
];

fn main() -> ExitCode {
    if let Some(case) = std::env::var_os(CASE) {
        let (_, run) = CASES.iter().find(|(name, _)| *name == case).expect("a case");
        run(&Scene::of_child());
        return ExitCode::SUCCESS;
    }
    // As a harness would: a filter may be given, and options are none of ours.
    let is_name = |text: &String| !text.starts_with('-') && text.parse::<u32>().is_err();
    let filters: Vec<String> = std::env::args().skip(1).filter(is_name).collect();
    let mut failed = 0;
    for (name, _) in CASES {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let outcome = child(name);
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if let Err(said) = outcome {
            println!("{said}");
            failed += 1;
        }
    }
    println!("test result: {} passed; {failed} failed", CASES.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn child(name: &str) -> Result<(), String> {
    let (own, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    fs::write(other.path().join("there"), "text").expect("written");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .env(CASE, name)
        .env(FOLDERS[0], own.path())
        .env(FOLDERS[1], other.path())
        .output()
        .expect("started");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        text.lines().filter(|line| line.starts_with("without")).for_each(|line| println!("  {line}"));
        Ok(())
    } else {
        Err(text)
    }
}

/// The folders of a case.
struct Scene {
    own: PathBuf,
    other: PathBuf,
}

impl Scene {
    fn of_child() -> Self {
        let folder = |name| PathBuf::from(std::env::var_os(name).expect("a folder"));
        Self { own: folder(FOLDERS[0]), other: folder(FOLDERS[1]) }
    }

    fn needs(&self) -> Needs {
        Needs { folders: vec![self.own.clone()], ..Needs::default() }
    }

    /// What the agent needs besides.
    fn with_unix_sockets(&self) -> Needs {
        Needs { unix_sockets: true, ..self.needs() }
    }

    /// Within, with what a proxy needs.
    fn enter(&self) -> Walls {
        sandbox::enter(&self.needs()).expect("within")
    }
}

/// Whether a wall stands, whole or not; says where it does not.
fn stands(walls: &Walls, name: &str) -> bool {
    let wall = walls.0.iter().find(|wall| wall.name == name).expect("a wall");
    match &wall.standing {
        Standing::Missing(why) => {
            println!("without {name}: {why}");
            false
        }
        Standing::Up(_) | Standing::Gap(_) => true,
    }
}

/// Asserts that something is not permitted.
#[track_caller]
fn denied<T: std::fmt::Debug>(what: impl Into<io::Result<T>>) {
    let what = what.into();
    let kind = what.as_ref().err().map(io::Error::kind);
    assert_eq!(kind, Some(ErrorKind::PermissionDenied), "{what:?}");
}

fn files(scene: &Scene) {
    let walls = sandbox::enter(&scene.with_unix_sockets()).expect("within");
    let own = |name: &str| scene.own.join(name);
    fs::write(own("a"), "text").expect("written");
    fs::rename(own("a"), own("b")).expect("renamed");
    fs::create_dir(own("inner")).expect("made");
    fs::rename(own("b"), own("inner/c")).expect("moved");
    fs::write(own("inner/c"), "").expect("emptied");
    fs::remove_file(own("inner/c")).expect("removed");
    drop(UnixListener::bind(own("socket")).expect("bound"));
    fs::remove_file(own("socket")).expect("removed");
    fs::write("/dev/null", "text").expect("written");
    let there = scene.other.join("there");
    assert_eq!(fs::read_to_string(&there).expect("read"), "text");
    assert!(fs::read_dir(&scene.other).expect("read").count() == 1);
    if !stands(&walls, "landlock") {
        return;
    }
    let other = |name: &str| scene.other.join(name);
    denied(fs::write(other("new"), "text"));
    denied(fs::OpenOptions::new().append(true).open(&there));
    denied(fs::File::create(&there));
    denied(fs::remove_file(&there));
    denied(fs::rename(&there, other("moved")));
    denied(fs::create_dir(other("folder")));
    denied(std::os::unix::fs::symlink("/etc/passwd", other("link")));
    denied(UnixListener::bind(other("socket")));
    fs::write(own("bait"), "text").expect("written");
    assert!(fs::rename(own("bait"), other("bait")).is_err(), "moved out");
    assert!(fs::hard_link(&there, own("link")).is_err(), "linked in");
    // A link leads no further than its end may be written.
    std::os::unix::fs::symlink(&there, own("link")).expect("made");
    denied(fs::write(own("link"), "text"));
    assert_eq!(fs::read_to_string(&there).expect("read"), "text");
}

fn run(program: &str) -> io::Result<std::process::ExitStatus> {
    Command::new(program).status()
}

fn programs(scene: &Scene) {
    assert!(run("/bin/true").expect("started").success());
    let script = scene.own.join("script");
    fs::copy("/bin/true", &script).expect("copied");
    let walls = scene.enter();
    // Either is enough.
    if stands(&walls, "seccomp") | stands(&walls, "landlock") {
        denied(run("/bin/true"));
        denied(run("/proc/self/exe"));
        denied(run(script.to_str().expect("text")));
        std::thread::spawn(|| denied(run("/bin/true"))).join().expect("denied to other threads, too");
    }
}

fn needed_programs(scene: &Scene) {
    let needs = Needs { programs: Some("probes"), ..scene.needs() };
    let walls = sandbox::enter(&needs).expect("within");
    assert!(run("/bin/true").expect("started").success());
    assert!(walls.to_string().contains("probes"), "{walls}");
    if stands(&walls, "landlock") {
        // What is started is within as well.
        let there = scene.other.join("there");
        let outcome = Command::new("/bin/rm").arg("-f").arg(&there).output().expect("started");
        assert!(!outcome.status.success() && there.exists());
    }
}

fn system_calls(scene: &Scene) {
    let walls = scene.enter();
    if !stands(&walls, "seccomp") {
        return;
    }
    let errno = |outcome: Result<(), rustix::io::Errno>| outcome.map_err(io::Error::from);
    // Each would succeed for root, or say something else.
    denied(errno(rustix::system::sethostname(rustix::system::uname().nodename().to_bytes())));
    denied(errno(rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty())));
    denied(errno(rustix::mount::mount(
        "none",
        "/nowhere",
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )));
    denied(errno(rustix::process::chroot("/")));
    let parent = rustix::process::getppid().expect("a parent");
    let parent = rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).expect("opened");
    denied(
        rustix::process::pidfd_getfd(&parent, 0, rustix::process::PidfdGetfdFlags::empty())
            .map_err(io::Error::from),
    );
    denied(errno(rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&fs::File::open("/proc/self/ns/net").expect("opened")),
        None,
    )));
    let status = fs::read_to_string("/proc/self/status").expect("read");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}

/// On x86-64 each call has a second number, under which a kernel may know it.
fn second_numbers(scene: &Scene) {
    let walls = scene.enter();
    if cfg!(target_arch = "x86_64") && stands(&walls, "seccomp") {
        for call in [libc::SYS_getpid, libc::SYS_clone, libc::SYS_clone3, libc::SYS_socket, 514, 545] {
            denied(second(call));
        }
    }
}

#[expect(unsafe_code, reason = "no library makes such calls")]
fn second(call: libc::c_long) -> io::Result<()> {
    let nothing: libc::c_long = -1;
    // SAFETY: Of flags that contradict each other, and of no address, every kernel makes nothing but an error.
    match unsafe { libc::syscall(0x4000_0000 | call, nothing, nothing, nothing, nothing) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn unix_sockets(scene: &Scene) {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

    use rustix::net::{AddressFamily, SocketType, ipproto, netlink};
    let path = scene.other.join("manager");
    let _manager = UnixListener::bind(&path).expect("bound");
    let name = format!("meshwork-sandbox-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).expect("a name");
    let _nameless = UnixListener::bind_addr(&name).expect("bound");
    drop(UnixStream::connect(&path).expect("connected"));
    let walls = scene.enter();
    UnixStream::pair().expect("leads to nobody");
    if stands(&walls, "seccomp") {
        denied(UnixStream::connect(&path));
        denied(UnixStream::connect_addr(&name));
        denied(UnixDatagram::unbound());
        let open = |family, kind, protocol| {
            let flags = rustix::net::SocketFlags::empty();
            rustix::net::socket_with(family, kind, flags, protocol).map_err(io::Error::from)
        };
        denied(open(AddressFamily::VSOCK, SocketType::STREAM, None));
        denied(open(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP)));
        denied(open(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)));
        open(AddressFamily::INET, SocketType::DGRAM, None).expect("for DNS");
        open(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).expect("for TCP");
        open(AddressFamily::NETLINK, SocketType::RAW, None).expect("for libc");
    }
}

fn proxy(scene: &Scene) {
    scene.enter();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(b"hello").expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("ended");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    });
    let (mut stream, _) = listener.accept().expect("accepted");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    stream.write_all(text.as_bytes()).expect("sent");
    drop(stream);
    assert_eq!(client.join().expect("answered"), "hello");
    // A runtime of several threads, with names and files.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
    runtime.block_on(async {
        let file = scene.own.join("file");
        tokio::fs::write(&file, "text").await.expect("written");
        assert_eq!(tokio::fs::read_to_string(&file).await.expect("read"), "text");
        let found = tokio::net::lookup_host(("localhost", 80)).await.expect("looked up");
        assert!(found.count() > 0);
    });
}

fn logs(scene: &Scene) {
    let log = scene.other.join("access.log");
    let needs = Needs { appended: vec![log.clone()], ..scene.needs() };
    let walls = sandbox::enter(&needs).expect("within");
    let append = |path: &Path| fs::OpenOptions::new().append(true).create(true).open(path);
    append(&log).expect("opened").write_all(b"one\n").expect("written");
    assert_eq!(fs::read_to_string(&log).expect("read"), "one\n");
    if stands(&walls, "landlock") {
        denied(fs::remove_file(&log));
        denied(fs::create_dir(scene.other.join("folder")));
    }
}

fn signals(scene: &Scene) {
    let walls = scene.enter();
    // Since Landlock 6.
    let told = walls.to_string();
    let knows =
        ["V6", "V7", "V8", "V9", "V10"].iter().any(|version| told.contains(&format!("(Landlock {version})")));
    if stands(&walls, "landlock") && knows {
        let parent = rustix::process::getppid().expect("a parent");
        denied(rustix::process::test_kill_process(parent).map_err(io::Error::from));
        rustix::process::test_kill_process(rustix::process::getpid()).expect("oneself");
    }
}

fn gaps(scene: &Scene) {
    let needs = Needs { other_processes: Some("attestation"), ..scene.needs() };
    let walls = sandbox::enter(&needs).expect("within");
    assert!(walls.to_string().contains("files as they are, for attestation"), "{walls}");
    let parent = rustix::process::getppid().expect("a parent");
    fs::read_link(format!("/proc/{}/exe", parent.as_raw_nonzero())).expect("its executable");
    if stands(&walls, "seccomp") {
        denied(run("/bin/true"));
    }
}

fn threads(scene: &Scene) {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || ended.recv());
    let error = sandbox::enter(&scene.needs()).expect_err("a thread is there").to_string();
    assert!(error.contains("2 threads"), "{error}");
    drop(end);
    let _ = other.join();
    let missing = Needs { folders: vec!["/nowhere".into()], ..Needs::default() };
    let error = sandbox::enter(&missing).expect_err("no folder").to_string();
    assert!(error.contains("/nowhere"), "{error}");
}

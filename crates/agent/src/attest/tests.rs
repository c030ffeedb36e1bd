//! Real processes over real sockets, and the table of selectors.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UnixListener;

use super::*;

const WEB: &str = "/usr/bin/web";
const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Nothing here takes longer on any machine that works.
const LONG: Duration = Duration::from_secs(20);

fn wanted(
    uid: Option<u32>,
    gid: Option<u32>,
    executable: Option<&str>,
    sha256: Option<&str>,
) -> UnixSelectors {
    UnixSelectors { uid, gid, executable: executable.map(Into::into), sha256: sha256.map(Into::into) }
}

#[test]
fn a_registration_matches_where_all_that_it_asks_for_holds() {
    let process = selectors(1000, 100, Some(WEB), Some(HASH));
    let check = |wanted: UnixSelectors, expected: bool| {
        assert_eq!(process.satisfy(&wanted), expected, "{wanted:?}");
    };
    check(wanted(None, None, None, None), false);
    check(wanted(Some(1000), None, None, None), true);
    check(wanted(Some(1000), Some(100), Some(WEB), Some(HASH)), true);
    check(wanted(Some(0), Some(100), Some(WEB), Some(HASH)), false);
    check(wanted(Some(1000), Some(0), Some(WEB), Some(HASH)), false);
    check(wanted(Some(1000), Some(100), Some("/usr/bin/Web"), Some(HASH)), false);
    check(wanted(Some(1000), Some(100), Some("/usr/bin/web (deleted)"), Some(HASH)), false);
    check(wanted(Some(1000), Some(100), Some(WEB), Some(&HASH.to_uppercase())), false);
    check(wanted(None, None, None, Some(HASH)), true);
}

#[test]
fn what_is_not_known_satisfies_nothing() {
    let process = selectors(1000, 100, None, None);
    assert!(process.satisfy(&wanted(Some(1000), None, None, None)));
    assert!(!process.satisfy(&wanted(Some(1000), None, Some(WEB), None)));
    assert!(!process.satisfy(&wanted(Some(1000), None, None, Some(HASH))));
}

#[test]
fn selectors_are_shown_as_a_registration_has_them() {
    let process = selectors(1000, 100, Some(WEB), Some(HASH));
    let expected = format!("{{uid: 1000, gid: 100, executable: \"/usr/bin/web\", sha256: {HASH}}}");
    assert_eq!(process.to_string(), expected);
}

/// A socket, and a program that has connected to it and waits. It is Python, or nothing is tested.
struct Connected {
    _dir: tempfile::TempDir,
    child: Child,
    stream: UnixStream,
}

/// Connects, tells its own process number, and does what it is told by a line.
const SCRIPT: &str = r"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
os.set_inheritable(s.fileno(), True)
for line in sys.stdin:
    if line.startswith('exec'):
        os.execv('/bin/sleep', ['sleep', '60'])
    if line.startswith('fork'):
        if os.fork() == 0:
            os.close(0)
            import time
            time.sleep(60)
        os._exit(0)
";

fn python() -> Option<std::path::PathBuf> {
    ["/usr/bin/python3", "/usr/local/bin/python3"]
        .iter()
        .map(std::path::PathBuf::from)
        .find(|path| path.exists())
}

impl Connected {
    async fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bound");
        let mut command = Command::new(python()?);
        command.arg("-c").arg(SCRIPT).arg(&path).stdin(Stdio::piped()).process_group(0);
        let child = command.spawn().expect("started");
        let accepted = tokio::time::timeout(LONG, listener.accept()).await.expect("in time");
        Some(Self { _dir: dir, child, stream: accepted.expect("connected").0 })
    }

    fn tell(&mut self, order: &str) {
        use std::io::Write as _;
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{order}").expect("told");
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waited).await.expect("in time");
}

#[tokio::test]
async fn a_process_is_known_by_user_group_path_and_hash() {
    let Some(connected) = Connected::new().await else { return };
    let peer = UnixPeer::of(&connected.stream).expect("known");
    assert_eq!(peer.pid, connected.child.id());
    let attestor = UnixAttestor::default();
    let found = attestor.attest(&peer).expect("attested");
    let real = std::fs::canonicalize(python().expect("there")).expect("there");
    assert_eq!(found.uid, rustix::process::getuid().as_raw());
    assert_eq!(found.gid, rustix::process::getgid().as_raw());
    assert_eq!(found.executable.as_deref(), real.to_str());
    let output = Command::new("sha256sum").arg(&real).output().expect("run").stdout;
    let expected = String::from_utf8(output).expect("text");
    assert_eq!(found.sha256.as_deref(), expected.split(' ').next());
    assert_eq!(attestor.attest(&peer).expect("again"), found);
    assert_eq!(attestor.remembered(), 1);
}

#[tokio::test]
async fn a_process_that_has_ended_is_nobody_though_its_socket_lives_on() {
    let Some(mut connected) = Connected::new().await else { return };
    let peer = UnixPeer::of(&connected.stream).expect("known");
    let attestor = UnixAttestor::default();
    let before = attestor.attest(&peer).expect("attested");
    // Its child keeps the socket; its number may now be given to anybody.
    connected.tell("fork");
    connected.child.wait().expect("ended");
    assert!(!peer.is_alive());
    assert!(matches!(attestor.attest(&peer), Err(AttestError::Gone(_))));
    assert!(matches!(attestor.look_again(&peer, &before), Err(AttestError::Gone(_))));
    assert!(matches!(UnixPeer::of(&connected.stream), Err(AttestError::Gone(_))), "also when it comes late");
}

#[tokio::test]
async fn another_process_behind_the_same_number_is_not_taken_for_it() {
    let (Some(mut gone), Some(other)) = (Connected::new().await, Connected::new().await) else { return };
    let mut peer = UnixPeer::of(&gone.stream).expect("known");
    let attestor = UnixAttestor::default();
    gone.tell("fork");
    gone.child.wait().expect("ended");
    // As if the kernel had given its number to the other one.
    peer.pid = other.child.id();
    assert!(matches!(attestor.attest(&peer), Err(AttestError::Gone(_))));
}

#[tokio::test]
async fn a_process_that_becomes_another_program_is_nobody_any_more() {
    let Some(mut connected) = Connected::new().await else { return };
    let peer = UnixPeer::of(&connected.stream).expect("known");
    let attestor = UnixAttestor::default();
    let before = attestor.attest(&peer).expect("attested");
    attestor.look_again(&peer, &before).expect("still the same");
    connected.tell("exec");
    until(|| attestor.look_again(&peer, &before).is_err()).await;
    assert!(matches!(attestor.look_again(&peer, &before), Err(AttestError::Replaced(_))));
    let after = attestor.attest(&peer).expect("another program");
    assert_ne!(after.sha256, before.sha256);
}

#[tokio::test]
async fn a_file_that_was_replaced_under_its_path_has_no_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("sleeper");
    std::fs::copy("/bin/sleep", &program).expect("copied");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    let mut child = Command::new(&program).arg("60").spawn().expect("started");
    let link = link_of(child.id());
    until(|| std::fs::read_link(&link).is_ok_and(|path| path.ends_with("sleeper"))).await;
    let facts = std::fs::metadata(&link).expect("there");
    let path = |facts| executable::path_of_link(&link, facts);
    assert_eq!(path(&facts).expect("the same").as_ref(), program.to_str().expect("text"));
    std::fs::remove_file(&program).expect("removed");
    std::fs::copy("/bin/cat", &program).expect("another one");
    let refusal = path(&facts).expect_err("another file");
    assert!(refusal.contains("finds another file or none"), "{refusal}");
    child.kill().expect("ended");
    child.wait().expect("ended");
}

#[test]
fn a_content_that_could_change_unseen_is_not_remembered() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("program");
    std::fs::write(&path, "one").expect("written");
    let attestor = UnixAttestor::default();
    let hash = || {
        let file = std::fs::File::open(&path).expect("there");
        let facts = file.metadata().expect("there");
        attestor.hash(&file, &facts).expect("hashed")
    };
    let one = hash();
    std::fs::write(&path, "two").expect("written");
    assert_ne!(hash(), one);
    assert_eq!(attestor.remembered(), 0);
}

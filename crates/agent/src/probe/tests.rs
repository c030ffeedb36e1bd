use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::advance;

use super::*;

/// What the program does when it is asked.
#[derive(Clone, Debug)]
enum Does {
    /// Says this to whoever connects, after reading a request.
    Say(Vec<u8>),
    /// Accepts and says nothing.
    Silent,
    Refuse,
    /// Never accepts.
    Hang,
    /// A command ends so.
    End(Result<(), String>),
}

/// A program with a script: what it does each time; the last for ever.
#[derive(Clone, Default)]
struct Script {
    acts: Arc<Mutex<VecDeque<Does>>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Script {
    fn new(acts: &[Does]) -> Self {
        Self { acts: Arc::new(Mutex::new(acts.iter().cloned().collect())), asked: Arc::default() }
    }

    fn next(&self, what: String) -> Does {
        self.asked.lock().unwrap().push((what, Instant::now()));
        let mut acts = self.acts.lock().unwrap();
        if acts.len() > 1 { acts.pop_front().unwrap() } else { acts[0].clone() }
    }

    /// When it was asked, in milliseconds from the first time on.
    fn times(&self) -> Vec<u128> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(_, at)| (*at - asked[0].1).as_millis()).collect()
    }
}

impl Program for Script {
    type Stream = DuplexStream;

    async fn connect(&self, port: u16) -> io::Result<DuplexStream> {
        let act = self.next(port.to_string());
        let (ours, mut theirs) = duplex(64 * 1024);
        match act {
            Does::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
            Does::Hang => std::future::pending().await,
            Does::Silent => drop(tokio::spawn(async move {
                let mut all = Vec::new();
                let _ = theirs.read_to_end(&mut all).await;
            })),
            Does::Say(said) => drop(tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && theirs.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let _ = theirs.write_all(&said).await;
            })),
            Does::End(_) => panic!("a connection is asked for, not a command"),
        }
        Ok(ours)
    }

    async fn run(&self, command: Vec<String>, _: Duration) -> Result<(), String> {
        match self.next(command.join(" ")) {
            Does::End(how) => how,
            _ => std::future::pending().await,
        }
    }
}

fn say(text: &str) -> Does {
    Does::Say(text.into())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

fn probe(text: &str) -> Probe {
    text.parse().unwrap()
}

#[test]
fn thresholds_are_counted_in_a_row() {
    // + and - are answers; what is expected after each of them is the second line.
    let check = |kind: Kind, settings: &str, answers: &str, expected: &str| {
        let mut health = Health::new(kind, &probe(&format!("tcp:80{settings}")));
        let states: String =
            answers.chars().map(|a| if health.observe(a == '+') { '+' } else { '-' }).collect();
        assert_eq!(states, expected, "{kind} {settings} {answers}");
    };
    check(Kind::Readiness, "", "-+--+---+", "-++++++-+");
    check(Kind::Readiness, ",successes=2,failures=1", "+-++-+", "---+--");
    check(Kind::Liveness, "", "--+---", "+++++-");
    check(Kind::Liveness, ",failures=1", "-", "-");
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_in_words_what_there_was() {
    let check = async |spec: &str, does: Does, expected: Result<&str, &str>| {
        let said = ask(&probe(spec), &Script::new(&[does])).await;
        assert_eq!(said.as_deref().map_err(String::as_str), expected, "{spec}");
    };
    let http = "http:8080/healthz";
    check(http, say(OK), Ok("http:8080/healthz: it says 200 OK")).await;
    check(http, say("HTTP/1.0 302 Found\r\nlocation: /\r\n\r\n"), Ok("http:8080/healthz: it says 302 Found"))
        .await;
    check(http, say(BUSY), Err("http:8080/healthz: it says 503 Service Unavailable")).await;
    check(http, say("HTTP/1.1 404 Not Found\r\n\r\n"), Err("http:8080/healthz: it says 404 Not Found")).await;
    check(http, Does::Silent, Err("http:8080/healthz: no answer within 1s")).await;
    check(http, Does::Hang, Err("http:8080/healthz: no answer within 1s")).await;
    check(http, Does::Refuse, Err("port 8080 cannot be reached: connection refused")).await;
    check("tcp:8080", Does::Silent, Ok("port 8080 takes connections")).await;
    check("tcp:8080", Does::Refuse, Err("port 8080 cannot be reached: connection refused")).await;
    check("tcp:8080,timeout=50ms", Does::Hang, Err("tcp:8080: no answer within 50ms")).await;
    check("exec:true", Does::End(Ok(())), Ok("exec:true: code 0")).await;
    check("exec:false", Does::End(Err("code 1".into())), Err("exec:false: code 1")).await;
    check("exec:sleep 9", Does::Hang, Err("exec:sleep 9: no answer within 1s")).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_a_program_answers_costs_little() {
    let check = async |said: Vec<u8>, well: bool| {
        let what = String::from_utf8_lossy(&said[..said.len().min(60)]).into_owned();
        let answer = ask(&probe("http:8080/"), &Script::new(&[Does::Say(said)])).await;
        assert_eq!(answer.is_ok(), well, "{what}: {answer:?}");
    };
    check(Vec::new(), false).await;
    check(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), false).await;
    check(vec![0; 100_000], false).await;
    check([b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(10_000)].concat(), false).await;
    check([b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'b'; 100_000]].concat(), false).await;
    // A body without end is not waited for; one that breaks off changes nothing.
    check([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'b'; 50_000]].concat(), true).await;
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort".to_vec(), true).await;
    check(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_vec(), true).await;
}

#[tokio::test(start_paused = true)]
async fn readiness_comes_soon_goes_after_failures_in_a_row_and_comes_back() {
    let acts = [
        Does::Refuse,
        Does::Refuse,
        say(OK),
        say(BUSY),
        say(OK),
        say(BUSY),
        say(BUSY),
        Does::Refuse,
        say(OK),
    ];
    let program = Script::new(&acts);
    let (mut told, asking) = watch(Kind::Readiness, probe("http:8080/,every=5s,delay=1s"), program.clone());
    let mut running = JoinSet::new();
    running.spawn(asking);
    let mut seen = vec![told.borrow_and_update().clone()];
    for _ in 0..4 {
        told.changed().await.unwrap();
        seen.push(told.borrow_and_update().clone());
    }
    let status = |well: bool, reason: &str| Status { well, reason: reason.into() };
    assert_eq!(
        seen,
        [
            status(false, "http:8080/ has not been asked yet"),
            status(false, "port 8080 cannot be reached: connection refused"),
            status(true, "http:8080/: it says 200 OK"),
            status(false, "port 8080 cannot be reached: connection refused"),
            status(true, "http:8080/: it says 200 OK"),
        ]
    );
    assert_eq!(
        program.times(),
        [0, 100, 200, 5200, 10_200, 15_200, 20_200, 25_200, 30_200],
        "ten times a second until it is ready, then every 5 s"
    );
}

#[tokio::test(start_paused = true)]
async fn liveness_holds_until_it_fails_and_is_never_asked_in_a_hurry() {
    let program = Script::new(&[Does::Hang]);
    let (mut told, asking) = watch(Kind::Liveness, probe("tcp:8080,every=2s,failures=2"), program.clone());
    assert!(told.borrow().well);
    let mut running = JoinSet::new();
    running.spawn(asking);
    told.changed().await.unwrap();
    assert_eq!(*told.borrow(), Status { well: false, reason: "tcp:8080: no answer within 1s".into() });
    assert_eq!(program.times(), [0, 2000]);
    // It is started anew, and has as many failures again.
    for expected in [true, false] {
        told.changed().await.unwrap();
        assert_eq!(told.borrow().well, expected);
    }
    assert_eq!(program.times(), [0, 2000, 5000, 7000]);
    running.shutdown().await;
    assert!(told.changed().await.is_err(), "it ends with its future");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_takes_longer_than_its_pause_is_not_asked_twice_at_once() {
    let program = Script::new(&[Does::Hang]);
    let (_told, asking) = watch(Kind::Liveness, probe("tcp:8080,every=1s,timeout=3s"), program.clone());
    let mut running = JoinSet::new();
    running.spawn(asking);
    for _ in 0..10 {
        tokio::task::yield_now().await;
        advance(Duration::from_secs(1)).await;
    }
    tokio::task::yield_now().await;
    assert_eq!(program.times(), [0, 3000, 6000, 10_000], "after the third it counts as started anew");
}

#[tokio::test(start_paused = true)]
async fn commands_are_run_by_the_shell() {
    let program = Script::new(&[Does::End(Ok(()))]);
    ask(&probe("exec:redis-cli ping | grep PONG"), &program).await.unwrap();
    assert_eq!(program.asked.lock().unwrap()[0].0, "/bin/sh -c redis-cli ping | grep PONG");
}

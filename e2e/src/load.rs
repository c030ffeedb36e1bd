//! Requests at a steady rate, of which each that fails is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Answer, Connection};

/// How many clients there are; each sends its share.
const CLIENTS: u32 = 8;
/// Each of so many requests closes its connection.
const CLOSES: u64 = 10;
/// How many failures are told in words.
const TOLD: usize = 20;

/// A running load; it ends when dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
    begun: Instant,
}

/// What a load was answered.
#[derive(Debug)]
pub struct Outcome {
    /// How many requests were sent.
    pub sent: u64,
    /// How many of them had another answer than 200, or none.
    pub failed: u64,
    /// The first failures, with when each was, in seconds from the start.
    pub failures: Vec<String>,
    /// How many were sent each second.
    pub rate: f64,
}

impl Load {
    /// GETs `/` from an address, so often a second in all.
    pub fn start(at: SocketAddr, per_second: u32) -> Self {
        let (stop, sent, failed) = (Arc::default(), Arc::default(), Arc::default());
        let begun = Instant::now();
        let pause = Duration::from_secs(1) * CLIENTS / per_second;
        let client = |number: u32| {
            let client = Client {
                at,
                stop: Arc::clone(&stop),
                sent: Arc::clone(&sent),
                failed: Arc::clone(&failed),
                begun,
                next: begun + pause * number / CLIENTS,
                pause,
            };
            std::thread::spawn(move || client.run())
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, sent, failed, clients, begun }
    }

    /// How many requests have failed so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How many requests have been sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn finish(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.drain(..).flat_map(|client| client.join().expect("no panic"));
        let failures = failures.take(TOLD).collect();
        let (sent, failed) = (self.sent(), self.failed());
        #[expect(clippy::cast_precision_loss, reason = "a test's counts are small")]
        let rate = sent as f64 / self.begun.elapsed().as_secs_f64();
        Outcome { sent, failed, failures, rate }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Panics where any request failed, or hardly any was sent: a busy machine may send fewer than it was told to.
    pub fn is_whole(&self, per_second: u32) {
        assert!(self.failed == 0, "{self:#?}");
        assert!(self.rate > f64::from(per_second) / 10.0, "there was hardly any load: {self:#?}");
    }
}

struct Client {
    at: SocketAddr,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    begun: Instant,
    next: Instant,
    pause: Duration,
}

impl Client {
    fn run(mut self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut connection = None;
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(self.next.saturating_duration_since(Instant::now()));
            // Who has fallen behind does not catch up with a flood.
            self.next = (self.next + self.pause).max(Instant::now());
            number += 1;
            let outcome = self.ask(&mut connection, number % CLOSES == 0);
            self.sent.fetch_add(1, Ordering::Relaxed);
            let failure = match outcome {
                Ok(answer) if answer.status == 200 => continue,
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => error.to_string(),
            };
            connection = None;
            self.failed.fetch_add(1, Ordering::Relaxed);
            if failures.len() < TOLD {
                failures.push(format!("{:.1} s: {failure}", self.begun.elapsed().as_secs_f64()));
            }
        }
        failures
    }

    fn ask(&self, kept: &mut Option<Connection>, closes: bool) -> std::io::Result<Answer> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(self.at)?,
        };
        let close = if closes { "connection: close\r\n" } else { "" };
        connection.send(format!("GET / HTTP/1.1\r\nhost: load\r\n{close}\r\n").as_bytes())?;
        let answer = connection.answer(false)?;
        let ends =
            closes || answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !ends {
            *kept = Some(connection);
        }
        Ok(answer)
    }
}

//! Drills of a control plane's store: changes one after the other while something dies, and what must be there then.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{eventually, http};

/// Where changes are applied.
pub const APPLY: &str = "/apis/meshwork.dev/v1alpha1/apply";
/// Where the history is told.
pub const REVISIONS: &str = "/apis/meshwork.dev/v1alpha1/revisions";

/// How many services are changed in turn.
const SERVICES: u64 = 7;
/// How much of the history is looked at.
const LOOK_BACK: u64 = 100;

/// A control plane's API, and the folder of state in which its token is.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where it answers.
    pub address: SocketAddr,
    /// The control plane's `--state`.
    pub state: PathBuf,
}

impl Api {
    /// GETs JSON; `None` while it does not answer.
    pub fn get(&self, path: &str) -> Option<Value> {
        let answer = http::get(self.address, path).ok()?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
    }

    /// POSTs JSON, as who has the token; `None` where no answer came.
    pub fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let token = std::fs::read_to_string(self.state.join("api.token")).ok()?;
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            token.trim(),
            body.len()
        );
        let answer = http::exchange(self.address, request.as_bytes()).ok()?;
        Some((answer.status, serde_json::from_slice(&answer.body).unwrap_or_default()))
    }

    /// The newest revision of the config.
    pub fn latest(&self) -> Option<u64> {
        self.get(&format!("{REVISIONS}?limit=1"))?["items"][0]["revision"].as_u64()
    }
}

/// Numbers that nobody expects; the seed is told.
pub struct Chance(u64);

impl Chance {
    /// Of `MESHWORK_SEED`, or of the clock.
    pub fn new() -> Self {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos();
        let seed = std::env::var("MESHWORK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(u64::from(nanos) | 1);
        eprintln!("again with the same moments: MESHWORK_SEED={seed}");
        Self(seed)
    }

    /// A number below a limit. Source: Marsaglia, "Xorshift RNGs".
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

/// A change that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The revision that it made.
    pub revision: u64,
    /// Its number, which is its note, too.
    pub number: u64,
}

/// Applies one change after the other, from this number on, until it is told to stop; gives the last number.
///
/// An answer that says no, other than that there is trouble (5xx) or that somebody was faster (409), is a failure.
pub fn apply_until(api: &Api, first: u64, stop: &AtomicBool, acknowledged: &Mutex<Vec<Acknowledged>>) -> u64 {
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let body = json!({
            "sources": [{ "name": "s.yaml", "text": service(number) }], "note": number.to_string(),
        });
        match api.post(APPLY, &body) {
            Some((200, answer)) => {
                let revision = answer["revision"].as_u64().expect("a revision");
                acknowledged.lock().expect("no panic").push(Acknowledged { revision, number });
            }
            Some((409 | 500.., _)) | None => std::thread::sleep(Duration::from_millis(5)),
            Some((status, answer)) => panic!("{status} {answer}"),
        }
    }
    number
}

fn service(number: u64) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: s-{}, namespace: shop }}\n\
         spec: {{ selector: {{ app: x }}, ports: [{{ name: http, port: 80, targetPort: {} }}] }}\n",
        number % SERVICES,
        port(number)
    )
}

fn port(number: u64) -> u64 {
    1024 + number % 60_000
}

/// Panics where anything that was acknowledged is not in the history as it was, or the history is out of order.
pub fn all_is_there(api: &Api, acknowledged: &[Acknowledged]) {
    let mut items = Vec::new();
    eventually("the history is told", || {
        let told = api.get(&format!("{REVISIONS}?limit={LOOK_BACK}")).unwrap_or_default();
        items = told["items"].as_array().cloned().unwrap_or_default();
        !items.is_empty() || acknowledged.is_empty()
    });
    let mut revisions: Vec<_> = items.iter().filter_map(|i| i["revision"].as_u64()).collect();
    assert_eq!(revisions.len(), items.len());
    revisions.reverse();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    let Some(oldest) = revisions.first() else { return };
    for one in acknowledged.iter().filter(|one| one.revision >= *oldest) {
        let item = items.iter().find(|i| i["revision"] == one.revision);
        let item = item.unwrap_or_else(|| panic!("{one:?} is lost: {revisions:?}"));
        assert_eq!(item["note"], one.number.to_string(), "{item:#}");
    }
}

/// Panics where the service that was changed last is not as the last change made it; that one may never have been
/// acknowledged.
pub fn last_is_there(api: &Api) {
    let told = api.get(&format!("{REVISIONS}?limit=1")).expect("an answer");
    let last: u64 = told["items"][0]["note"].as_str().and_then(|n| n.parse().ok()).expect("a number");
    let path = format!("/api/v1/namespaces/shop/services/s-{}", last % SERVICES);
    let service = api.get(&path).expect("the service");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port(last), "{service:#}");
}

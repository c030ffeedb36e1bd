//! Copies of requests for other clusters, whose answers nobody reads.
//!
//! What of the body passes is kept, by reference, until the request is whole; then the copies go, each in a task of its
//! own. A request that is too long, or comes while too many copies are on their way, has none: the request itself never
//! waits for them. Source: Envoy `RequestMirrorPolicy`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meshwork_model::head::RequestHead;
use meshwork_model::proxy::{Mirror, MirrorTo};
use tokio::task::spawn_local;
use tracing::debug;

use super::body::Frame;
use super::call::{self, Call};
use super::clients;
use crate::limits::{MIRROR_BYTES, MIRROR_WAIT, MIRRORS};
use crate::worker::Worker;

/// Copies that will go when their request is whole.
pub(super) struct Copies {
    heads: Vec<(Arc<str>, RequestHead)>,
    body: Vec<Bytes>,
    bytes: usize,
    timeout: Duration,
}

thread_local! {
    /// Copies on their way.
    static FLYING: Cell<usize> = const { Cell::new(0) };
}

/// A copy on its way; counted until it is dropped.
struct Flying;

impl Copies {
    /// Of a request as it is forwarded; `None` where no mirror gets it.
    pub(super) fn of(
        mirrors: &[Mirror],
        head: &RequestHead,
        timeout: Option<Duration>,
        random: u64,
    ) -> Option<Box<Self>> {
        if head.method() == b"CONNECT" {
            return None;
        }
        let taken = mirrors.iter().filter(|mirror| mirror.fraction.hits(random));
        let heads: Vec<_> = taken.filter_map(|mirror| copy(mirror, head)).collect();
        let timeout = timeout.unwrap_or(MIRROR_WAIT).min(MIRROR_WAIT);
        (!heads.is_empty()).then(|| Box::new(Self { heads, body: Vec::new(), bytes: 0, timeout }))
    }

    /// Notes a piece of the body; false where there are no copies of one that long.
    pub(super) fn note(&mut self, frame: &Frame) -> bool {
        if let Frame::Data(data) = frame {
            self.bytes += data.len();
            self.body.push(data.clone());
        }
        self.bytes <= MIRROR_BYTES
    }

    /// The request is whole: the copies go.
    pub(super) fn go(self, worker: &Rc<Worker>) {
        let mut body = BytesMut::with_capacity(self.bytes);
        self.body.iter().for_each(|piece| body.extend_from_slice(piece));
        let body = body.freeze();
        for (cluster, head) in self.heads {
            let Some(flying) = Flying::begin() else { return };
            let (worker, body, timeout) = (Rc::clone(worker), body.clone(), self.timeout);
            spawn_local(async move {
                let _flying = flying;
                let ask = Call { cluster: &cluster, head: &head, body, timeout };
                if let Err(error) = call::call(&worker, &ask).await {
                    debug!(cluster = %ask.cluster, error = %error.kind, "a copy of a request failed");
                }
            });
        }
    }
}

fn copy(mirror: &Mirror, head: &RequestHead) -> Option<(Arc<str>, RequestHead)> {
    let cluster: Arc<str> = match &mirror.cluster {
        MirrorTo::Cluster(name) => Arc::clone(name),
        MirrorTo::Header(field) => {
            let said = std::str::from_utf8(head.fields.find(field.as_bytes())?).ok()?;
            if said.is_empty() {
                return None;
            }
            said.into()
        }
    };
    let mut copy = head.clone();
    if !mirror.keeps_host {
        copy.set_authority(&shadow(head.authority()));
    }
    // It comes from this machine, and is one of our own.
    clients::append_own(&mut copy);
    copy.fields.set(b"x-envoy-internal", b"true");
    Some((cluster, copy))
}

/// The host with `-shadow` in front of its port.
fn shadow(host: &[u8]) -> Vec<u8> {
    let colon = host.iter().rposition(|byte| *byte == b':');
    let is_port = |at: &usize| {
        host[at + 1..].iter().all(u8::is_ascii_digit) && !host[..*at].contains(&b':')
            || host[..*at].ends_with(b"]")
    };
    let at = colon.filter(is_port).unwrap_or(host.len());
    [&host[..at], b"-shadow", &host[at..]].concat()
}

impl Flying {
    fn begin() -> Option<Self> {
        let now = FLYING.get();
        (now < MIRRORS).then(|| {
            FLYING.set(now + 1);
            Self
        })
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        FLYING.set(FLYING.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_for_the_hosts_shadow() {
        let check = |host: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&shadow(host.as_bytes())), expected);
        };
        check("a.b", "a.b-shadow");
        check("a.b:80", "a.b-shadow:80");
        check("[::1]:80", "[::1]-shadow:80");
        check("[::1]", "[::1]-shadow");
    }

    #[test]
    fn what_is_too_long_has_no_copy() {
        let mirror = Mirror {
            cluster: MirrorTo::Cluster("m".into()),
            fraction: meshwork_model::fraction::Fraction::ALL,
            keeps_host: false,
        };
        let mut copies = Copies::of(&[mirror], &RequestHead::default(), None, 0).expect("one");
        let half = Frame::Data(Bytes::from(vec![0; MIRROR_BYTES / 2 + 1]));
        assert!(copies.note(&half));
        assert!(!copies.note(&half));
    }
}

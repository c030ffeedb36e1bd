//! The tries of one request: what is kept so that it can be sent again, whom it was sent to, and what the endpoint is
//! told of all that. Only requests that may be tried again have any of it.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use meshwork_model::head::{Fields, RequestHead};
use meshwork_model::proxy::{AvoidedHosts, BALANCING, Criterion, MetadataValue, RetryPolicy};
use meshwork_model::retry::{Reset, Retrial};
use meshwork_model::times::{EXPECTED, GRPC_TIMEOUT, Times, grpc_timeout_text};

use super::body::Frame;
use crate::error::{Kind, ProxyError, Retry};
use crate::limits::{REPLAY_PIECE_BYTES, RETRIES};
use crate::upstream::{Endpoint, Held, Host};

/// Which attempt a request is.
pub(super) const ATTEMPTS: &[u8] = b"x-envoy-attempt-count";
/// Whether it is sent again because of a time-out.
const IS_TIMEOUT_RETRY: &[u8] = b"x-envoy-is-timeout-retry";

/// What the tries of a request have in common.
pub(super) struct Tries<'c> {
    retrial: Option<Retrial<'c>>,
    /// The request's body so far.
    pub(super) kept: Kept,
    /// Whom it was sent to.
    tried: Vec<Rc<Endpoint>>,
    left: u32,
    /// Counts a retry as under way.
    pub(super) held: Option<Held>,
    /// What time each has.
    pub(super) times: Times,
}

/// A request's body, as far as it came.
pub(super) struct Kept {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    bytes: u64,
    most: u64,
    trailers: Option<Fields>,
    /// Pieces that this try has sent already; those after it include the tail.
    sent: usize,
}

impl<'c> Tries<'c> {
    /// Of a request of whose body so much may be kept.
    pub(super) fn of(retrial: Retrial<'c>, times: Times, most: u64) -> Self {
        let kept =
            Kept { pieces: Vec::new(), tail: BytesMut::new(), bytes: 0, most, trailers: None, sent: 0 };
        Self { retrial: Some(retrial), kept, tried: Vec::new(), left: RETRIES, held: None, times }
    }

    /// Conditions, while another try is possible at all.
    pub(super) fn retrial(&mut self) -> Option<&mut Retrial<'c>> {
        self.retrial.as_mut().filter(|_| self.left > 0)
    }

    /// The policy by which endpoints are avoided: not at the first try, and where it avoids any.
    pub(super) fn avoiding(&self) -> Option<&'c RetryPolicy> {
        let policy = self.retrial.as_ref().map(Retrial::policy).filter(|_| !self.tried.is_empty())?;
        (policy.avoid != AvoidedHosts::default()).then_some(policy)
    }

    /// Whether a policy avoids a host at this try.
    pub(super) fn avoids(&self, policy: &RetryPolicy, host: &Host) -> bool {
        let AvoidedHosts { previous, canaries, metadata } = &policy.avoid;
        let known = host.config.metadata.get(BALANCING);
        let says = |(key, value): &Criterion| known.is_some_and(|known| known.get(key) == Some(value));
        *previous && self.tried.iter().any(|tried| tried.config.address == host.config.address)
            || *canaries && says(&("canary".into(), MetadataValue::Bool(true)))
            || !metadata.is_empty() && metadata.iter().all(says)
    }

    /// Notes whom it is sent to.
    pub(super) fn note(&mut self, endpoint: &Rc<Endpoint>) {
        if self.retrial.is_some() {
            self.tried.push(Rc::clone(endpoint));
        }
    }

    /// Begins another try.
    pub(super) fn again(&mut self) {
        self.left -= 1;
        self.kept.sent = 0;
    }

    /// There is no further try: the client has seen something of this one, or too much would have to be kept.
    pub(super) fn give_up(&mut self) {
        self.retrial = None;
        self.kept = Kept { pieces: Vec::new(), tail: BytesMut::new(), trailers: None, ..self.kept };
    }

    /// Keeps a frame of the body for the next try.
    pub(super) fn keep(&mut self, frame: &Frame) {
        if self.retrial.is_none() {
            return;
        }
        match frame {
            Frame::Trailers(trailers) => self.kept.trailers = Some(trailers.clone()),
            Frame::Data(data) if self.kept.bytes + data.len() as u64 > self.kept.most => self.give_up(),
            Frame::Data(data) => self.kept.push(data),
        }
    }
}

impl Kept {
    /// Copied together, so that a small piece does not hold a large buffer.
    fn push(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.tail.extend_from_slice(data);
        if self.tail.len() >= REPLAY_PIECE_BYTES {
            self.pieces.push(self.tail.split().freeze());
        }
        // It has been sent by this try.
        self.sent = self.pieces.len() + usize::from(!self.tail.is_empty());
    }

    /// Whether there is something that this try has not sent.
    pub(super) fn has_more(&self) -> bool {
        self.sent < self.pieces.len() + usize::from(!self.tail.is_empty())
    }

    /// The next piece that this try has not sent.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.sent == self.pieces.len() && !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        let piece = self.pieces.get(self.sent)?.clone();
        self.sent += 1;
        Some(piece)
    }

    /// The trailers.
    pub(super) fn trailers(&self) -> Option<Fields> {
        self.trailers.clone()
    }
}

/// What another try may be decided by; `None` where there is none for sure.
pub(super) fn reset_of(error: &ProxyError) -> Option<Reset> {
    match &error.kind {
        Kind::Connect(_) | Kind::ConnectTimeout => Some(Reset::ConnectFailure),
        // With TLS 1.3 a server's refusal comes when something was sent; so does the end of an endpoint's good standing.
        Kind::Identity(_) if error.retry == Retry::Safe => Some(Reset::ConnectFailure),
        Kind::StreamRefused => Some(Reset::RefusedStream),
        Kind::UpstreamBroken(_) | Kind::StreamReset(_) | Kind::BadResponse(_) => {
            Some(Reset::Other { sent: error.retry != Retry::Safe })
        }
        Kind::Identity(_) | Kind::TryTimeout | Kind::UpstreamDuration { .. } => {
            Some(Reset::Other { sent: true })
        }
        _ => None,
    }
}

/// How long to wait before the next try; `response` is that of the last one, if there was one.
pub(super) fn wait(retrial: &mut Retrial<'_>, response: Option<&Fields>, random: u64) -> Duration {
    let told = response.and_then(|fields| {
        retrial.policy().rate_limited.as_ref()?;
        retrial.told_to_wait(fields, unix_seconds(), random)
    });
    told.unwrap_or_else(|| retrial.wait(random))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Tells the endpoint how long is waited for it.
pub(super) fn tell_expected(head: &mut RequestHead, expected: Duration) {
    let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
    head.fields.set(EXPECTED, itoa::Buffer::new().format(millis).as_bytes());
}

/// Tells a gRPC server how long is waited for it.
pub(super) fn tell_grpc(head: &mut RequestHead, timeout: Duration) {
    let (count, unit) = grpc_timeout_text(timeout);
    let mut text = itoa::Buffer::new().format(count).as_bytes().to_vec();
    text.push(unit);
    head.fields.set(GRPC_TIMEOUT, &text);
}

/// Tells which attempt it is.
pub(super) fn tell_attempts(fields: &mut Fields, attempts: u32) {
    fields.set(ATTEMPTS, itoa::Buffer::new().format(attempts).as_bytes());
}

/// Tells whether the last try was not answered in time.
pub(super) fn tell_timeout_retry(head: &mut RequestHead, is_timeout: bool) {
    head.fields.set(IS_TIMEOUT_RETRY, if is_timeout { b"true" } else { b"false" });
}

#[cfg(test)]
mod tests {
    use meshwork_model::proxy::RetryOn;

    use super::*;

    fn tries(policy: &RetryPolicy, most: u64) -> Tries<'_> {
        let retrial = Retrial::begin(Some(policy), &RequestHead::default()).expect("conditions");
        Tries::of(retrial, Times::default(), most)
    }

    fn rest(kept: &mut Kept) -> Vec<u8> {
        std::iter::from_fn(|| kept.next()).flatten().collect()
    }

    #[test]
    fn a_body_is_kept_and_sent_from_its_beginning_again() {
        let policy = RetryPolicy::on(RetryOn::RESET);
        let mut tries = tries(&policy, 1 << 20);
        let long = vec![7; REPLAY_PIECE_BYTES];
        tries.keep(&Frame::Data(Bytes::from_static(b"ab")));
        tries.keep(&Frame::Data(long.clone().into()));
        assert_eq!(rest(&mut tries.kept), b"", "this try has sent it");
        tries.again();
        tries.keep(&Frame::Data(Bytes::from_static(b"z")));
        for _ in 0..2 {
            tries.again();
            assert_eq!(rest(&mut tries.kept), [b"ab", &long[..], b"z"].concat());
        }
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let policy = RetryPolicy::on(RetryOn::RESET);
        let mut tries = tries(&policy, 3);
        tries.keep(&Frame::Data(Bytes::from_static(b"abc")));
        assert!(tries.retrial().is_some());
        tries.keep(&Frame::Data(Bytes::from_static(b"d")));
        assert!(tries.retrial().is_none());
        tries.again();
        assert_eq!(rest(&mut tries.kept), b"");
    }

    #[test]
    fn tries_are_bounded_whatever_is_asked_for() {
        let policy = RetryPolicy { retries: u32::MAX, ..RetryPolicy::on(RetryOn::RESET) };
        let mut tries = tries(&policy, 0);
        (0..RETRIES).for_each(|_| tries.again());
        assert!(tries.retrial().is_none());
    }
}

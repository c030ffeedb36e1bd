//! How an exchange gets on: whether anything moves, and whose turn it is where nothing does.
//!
//! It is looked at once per window, when a timer fires, and not whenever bytes move: so it costs a busy exchange
//! neither a look at the clock nor a timer. What is too slow is noticed at the end of the first window in which it was
//! so all the time. Limits that config sets are [`Exact`]: they cost a look at the clock where bytes move, and are
//! noticed when they are over. Pure: the caller has the clock and the timer.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Kind;
use crate::limits::{BODY_PROGRESS_BYTES, HALF_CLOSED_QUIET, PROGRESS_WINDOW};

/// How an exchange got on since it was last looked at.
pub(super) struct Pace {
    window_end: Instant,
    window: Duration,
    /// How long nothing has moved, in whole windows.
    quiet: Duration,
    /// How long nothing may.
    idle: Duration,
    /// When the response has to be complete.
    deadline: Option<Instant>,
    received: u64,
    sent: u64,
    /// The client has ended its direction, and since then it has not been seen to take anything.
    may_be_gone: bool,
    /// Within this window the client had to wait for the upstream to take what it sends.
    was_held_up: bool,
    /// Limits that config sets; most exchanges have none.
    exact: Option<Box<Exact>>,
}

/// Limits that config sets.
#[derive(Default)]
pub(super) struct Exact {
    /// When the whole exchange is over.
    pub(super) stream: Option<Instant>,
    /// How long nothing may move.
    pub(super) idle: Option<Quiet>,
    /// How long one try's exchange with the endpoint may take, and when that is over.
    pub(super) upstream: Option<Limit>,
    /// How long one try may take until its response begins.
    pub(super) per_try: Option<Limit>,
    /// How long nothing may come of one try's response.
    pub(super) per_try_idle: Option<Quiet>,
}

/// A limit that begins now and then.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    most: Duration,
    end: Option<Instant>,
}

/// How long something may be quiet.
#[derive(Clone, Copy)]
pub(super) struct Quiet {
    most: Duration,
    since: Option<Instant>,
}

/// A direction in which something moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the upstream.
    There,
    /// From it.
    Back,
}

impl Limit {
    /// One that has not begun.
    pub(super) fn of(most: Duration) -> Self {
        Self { most, end: None }
    }
}

impl Quiet {
    /// One that has not begun.
    pub(super) fn of(most: Duration) -> Self {
        Self { most, since: None }
    }

    /// One that has.
    pub(super) fn since(most: Duration, now: Instant) -> Self {
        Self { most, since: Some(now) }
    }

    fn end(&self) -> Option<Instant> {
        Some(self.since? + self.most)
    }
}

impl Exact {
    fn boxed_again(self: Box<Self>) -> Option<Box<Self>> {
        self.ends().iter().any(Option::is_some).then_some(self)
    }

    /// Itself, where it limits anything.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        let any = self.stream.is_some()
            || self.idle.is_some()
            || self.upstream.is_some()
            || self.per_try.is_some()
            || self.per_try_idle.is_some();
        any.then(|| Box::new(self))
    }

    fn ends(&self) -> [Option<Instant>; 5] {
        [
            self.stream,
            self.idle.and_then(|quiet| quiet.end()),
            self.upstream.and_then(|limit| limit.end),
            self.per_try.and_then(|limit| limit.end),
            self.per_try_idle.and_then(|quiet| quiet.end()),
        ]
    }

    /// # Errors
    /// Which limit is over; `taken` is whether all of the request has come.
    fn look(&self, now: Instant, taken: bool) -> Result<(), Kind> {
        let [stream, idle, upstream, per_try, per_try_idle] =
            self.ends().map(|end| end.is_some_and(|end| now >= end));
        match () {
            () if stream => Err(Kind::StreamDuration { taken }),
            () if idle => Err(Kind::StreamIdle { taken }),
            () if upstream => Err(Kind::UpstreamDuration { taken }),
            () if per_try || per_try_idle => Err(Kind::TryTimeout),
            () => Ok(()),
        }
    }
}

/// What has moved so far, and who is waited for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the request's body.
    pub(super) received: u64,
    /// Bytes that the client has taken since its connection began.
    pub(super) sent: u64,
    /// Whose turn it is.
    pub(super) turn: Turn,
    /// Whether all of the request has come.
    pub(super) taken: bool,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The client has a request body to send, and nothing is answered yet.
    ClientSends,
    /// The client has bytes of the response to take.
    ClientTakes,
    /// Anyone's: both sides may be silent, within the exchange's idle time-out.
    Anyone,
}

impl Pace {
    /// Begins at `now`, when the client had taken `sent` bytes; nothing may be quiet for longer than `idle`.
    pub(super) fn new(now: Instant, idle: Duration, sent: u64) -> Self {
        let window = PROGRESS_WINDOW.min(idle);
        Self {
            window_end: now + window,
            window,
            quiet: Duration::ZERO,
            idle,
            deadline: None,
            received: 0,
            sent,
            may_be_gone: false,
            was_held_up: false,
            exact: None,
        }
    }

    /// Adds limits that config sets.
    pub(super) fn limit(&mut self, exact: Option<Box<Exact>>) {
        self.exact = exact;
    }

    /// Takes them away again, for a pace of another kind: those of one try are over.
    pub(super) fn take_limits(&mut self) -> Option<Box<Exact>> {
        let mut exact = self.exact.take()?;
        (exact.per_try, exact.per_try_idle) = (None, None);
        exact.boxed_again()
    }

    /// When to look next.
    pub(super) fn next_look(&self) -> Instant {
        let usual = self.deadline.map_or(self.window_end, |deadline| deadline.min(self.window_end));
        let exact = self.exact.as_ref().and_then(|exact| exact.ends().into_iter().flatten().min());
        exact.map_or(usual, |exact| exact.min(usual))
    }

    /// Something moved. Costs a look at the clock where config limits how long nothing may.
    pub(super) fn note_moved(&mut self, way: Way) {
        let Some(exact) = &mut self.exact else { return };
        if exact.idle.is_none() && exact.per_try_idle.is_none() {
            return;
        }
        let now = Instant::now();
        exact.idle.iter_mut().for_each(|idle| idle.since = Some(now));
        let begun = exact.per_try_idle.as_mut().filter(|idle| way == Way::Back && idle.since.is_some());
        if let Some(idle) = begun {
            idle.since = Some(now);
        }
    }

    /// The endpoint has a connection for this try: its exchange begins.
    pub(super) fn begin_try(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(upstream) = self.exact.as_mut().and_then(|exact| exact.upstream.as_mut()) {
            upstream.end = Some(now() + upstream.most);
        }
    }

    /// All of the request has come, and there is a connection: the response is waited for.
    pub(super) fn await_response(&mut self, now: impl FnOnce() -> Instant) {
        let Some(exact) = &mut self.exact else { return };
        if exact.per_try.is_some() || exact.per_try_idle.is_some() {
            let now = now();
            exact.per_try.iter_mut().for_each(|limit| limit.end = Some(now + limit.most));
            exact.per_try_idle.iter_mut().for_each(|quiet| quiet.since = Some(now));
        }
    }

    /// The response has begun.
    pub(super) fn begin_response(&mut self) {
        if let Some(exact) = &mut self.exact {
            exact.per_try = None;
        }
    }

    /// A try is over.
    pub(super) fn end_try(&mut self) {
        let Some(exact) = &mut self.exact else { return };
        exact.per_try.iter_mut().for_each(|limit| limit.end = None);
        exact.upstream.iter_mut().for_each(|limit| limit.end = None);
        exact.per_try_idle.iter_mut().for_each(|quiet| quiet.since = None);
    }

    /// Sets when the response has to be complete.
    pub(super) fn must_end(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// The upstream takes no more of the request for now: the client cannot go on.
    pub(super) fn hold_up(&mut self) {
        self.was_held_up = true;
    }

    /// The client has ended its direction. That may mean that it has left, or that it has said all it had to say and
    /// listens; only what it takes tells.
    pub(super) fn half_close(&mut self, now: Instant, sent: u64) {
        self.may_be_gone = true;
        self.sent = sent;
        self.open_window(now);
    }

    /// Looks at what has moved.
    ///
    /// # Errors
    /// Who was too slow.
    pub(super) fn look(&mut self, now: Instant, progress: Progress) -> Result<(), Kind> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Kind::Timeout);
        }
        if let Some(exact) = &self.exact {
            exact.look(now, progress.taken)?;
        }
        if now < self.window_end {
            return Ok(());
        }
        let received = progress.received - self.received;
        let has_taken = progress.sent != self.sent;
        match progress.turn {
            Turn::ClientSends if received < self.least() && !self.was_held_up => {
                return Err(Kind::RequestTimeout);
            }
            Turn::ClientTakes if !has_taken => return Err(Kind::SlowReader),
            _ if self.may_be_gone && !has_taken => return Err(Kind::DownstreamGone),
            _ => {}
        }
        // What it took since it ended its direction, a client that has left would have refused.
        self.may_be_gone &= !has_taken;
        self.quiet = if received > 0 || has_taken { Duration::ZERO } else { self.quiet + self.window };
        if self.quiet >= self.idle {
            return Err(Kind::StreamIdle { taken: progress.taken });
        }
        (self.received, self.sent) = (progress.received, progress.sent);
        self.open_window(now);
        Ok(())
    }

    /// What has to come of a body within this window; within a shorter one than usual, anything.
    fn least(&self) -> u64 {
        if self.window < PROGRESS_WINDOW { 1 } else { BODY_PROGRESS_BYTES }
    }

    fn open_window(&mut self, now: Instant) {
        let most = if self.may_be_gone { HALF_CLOSED_QUIET } else { PROGRESS_WINDOW };
        self.window = most.min(self.idle.saturating_sub(self.quiet));
        self.window_end = now + self.window;
        self.was_held_up = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_mins(5);

    /// Looks at every window's end, until the exchange is too slow; `steps` say what moved in each.
    fn check(steps: &[(u64, u64, Turn)], expected: Result<(), (u64, &str)>) {
        let start = Instant::now();
        // What earlier exchanges of the connection sent says nothing of this one.
        let (mut received, mut sent) = (0, 1 << 20);
        let mut pace = Pace::new(start, IDLE, sent);
        let mut got = Ok(());
        for (more_received, more_sent, turn) in steps {
            received += more_received;
            sent += more_sent;
            let now = pace.next_look();
            if let Err(kind) = pace.look(now, Progress { received, sent, turn: *turn, taken: true }) {
                got = Err((now.duration_since(start).as_secs(), kind.to_string()));
                break;
            }
        }
        assert_eq!(got, expected.map_err(|(after, kind)| (after, kind.to_owned())), "{steps:?}");
    }

    #[test]
    fn whoever_is_too_slow_is_named() {
        use Turn::{Anyone, ClientSends, ClientTakes};
        let request = Kind::RequestTimeout.to_string();
        let reader = Kind::SlowReader.to_string();
        let upstream = Kind::StreamIdle { taken: true }.to_string();
        check(&[(0, 0, ClientSends)], Err((60, &request)));
        check(&[(BODY_PROGRESS_BYTES - 1, 0, ClientSends)], Err((60, &request)));
        check(&[(BODY_PROGRESS_BYTES, 0, ClientSends), (0, 0, ClientSends)], Err((120, &request)));
        check(&[(BODY_PROGRESS_BYTES, 0, ClientSends); 30], Ok(()));
        check(&[(0, 9, ClientTakes), (0, 0, ClientTakes)], Err((120, &reader)));
        check(&[(0, 1, ClientTakes); 30], Ok(()));
        check(&[(0, 0, Anyone); 30], Err((300, &upstream)));
        check(&[(0, 0, Anyone), (0, 1, Anyone), (0, 0, Anyone), (0, 0, Anyone), (0, 0, Anyone)], Ok(()));
        check(&[(1, 0, Anyone); 30], Ok(()));
    }

    #[test]
    fn a_client_that_waits_for_the_upstream_is_not_blamed() {
        let start = Instant::now();
        let mut pace = Pace::new(start, IDLE, 0);
        let stuck = Progress { received: 0, sent: 0, turn: Turn::ClientSends, taken: false };
        pace.hold_up();
        assert!(pace.look(pace.next_look(), stuck).is_ok());
        assert!(matches!(pace.look(pace.next_look(), stuck), Err(Kind::RequestTimeout)));
    }

    #[test]
    fn a_deadline_comes_before_the_window_ends() {
        let start = Instant::now();
        let mut pace = Pace::new(start, IDLE, 0);
        pace.must_end(start + Duration::from_secs(15));
        assert_eq!(pace.next_look(), start + Duration::from_secs(15));
        let moving = Progress { received: 1 << 20, sent: 1 << 20, turn: Turn::Anyone, taken: true };
        assert!(pace.look(start + Duration::from_secs(14), moving).is_ok());
        assert!(matches!(pace.look(pace.next_look(), moving), Err(Kind::Timeout)));
    }

    #[test]
    fn a_client_that_ended_its_direction_is_answered_unless_it_is_gone() {
        let start = Instant::now();
        let waiting = Progress { received: 0, sent: 0, turn: Turn::Anyone, taken: true };
        let mut pace = Pace::new(start, IDLE, 0);
        pace.half_close(start, 0);
        assert_eq!(pace.next_look(), start + HALF_CLOSED_QUIET);
        assert!(matches!(pace.look(pace.next_look(), waiting), Err(Kind::DownstreamGone)));

        let mut pace = Pace::new(start, IDLE, 0);
        pace.half_close(start, 0);
        let taken = Progress { sent: 100, ..waiting };
        assert!(pace.look(pace.next_look(), taken).is_ok());
        assert_eq!(pace.next_look(), start + HALF_CLOSED_QUIET + PROGRESS_WINDOW);
        assert!(pace.look(pace.next_look(), taken).is_ok(), "it listens");
    }

    #[test]
    fn limits_of_config_end_when_they_say() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let second = Duration::from_secs(1);
        let still = Progress { received: 0, sent: 0, turn: Turn::Anyone, taken: true };
        let check = |exact: Exact, end: u64, expected: &Kind| {
            let mut pace = Pace::new(start, IDLE, 0);
            pace.limit(exact.boxed());
            pace.begin_try(|| start);
            pace.await_response(|| start);
            assert_eq!(pace.next_look(), after(end), "{expected}");
            assert!(pace.look(after(end - 1), still).is_ok(), "{expected}");
            let got = pace.look(after(end), still).expect_err("over");
            assert_eq!(got.to_string(), expected.to_string());
        };
        let taken = true;
        let none = Exact::default;
        check(Exact { stream: Some(after(7)), ..none() }, 7, &Kind::StreamDuration { taken });
        check(
            Exact { idle: Some(Quiet::since(5 * second, start)), ..none() },
            5,
            &Kind::StreamIdle { taken },
        );
        check(
            Exact { upstream: Some(Limit::of(4 * second)), ..none() },
            4,
            &Kind::UpstreamDuration { taken },
        );
        check(Exact { per_try: Some(Limit::of(3 * second)), ..none() }, 3, &Kind::TryTimeout);
        check(Exact { per_try_idle: Some(Quiet::of(2 * second)), ..none() }, 2, &Kind::TryTimeout);
    }

    #[test]
    fn the_limits_of_a_try_end_with_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start, IDLE, 0);
        let (most, window) = (Duration::from_secs(3), start + PROGRESS_WINDOW);
        let exact =
            Exact { per_try: Some(Limit::of(most)), per_try_idle: Some(Quiet::of(most)), ..Exact::default() };
        pace.limit(exact.boxed());
        assert_eq!(pace.next_look(), window, "neither has begun");
        pace.await_response(|| start);
        assert_eq!(pace.next_look(), start + most);
        pace.end_try();
        assert_eq!(pace.next_look(), window);
        pace.await_response(|| start + most);
        pace.begin_response();
        assert_eq!(pace.next_look(), start + most * 2, "nothing may be quiet for too long still");
        assert!(pace.take_limits().is_none());
    }
}

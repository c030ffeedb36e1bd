//! How an exchange gets on: whether anything moves, and whose turn it is where nothing does.
//!
//! It is looked at once per window, when a timer fires, and not whenever bytes move: so it costs a busy exchange
//! neither a look at the clock nor a timer. What is too slow is noticed at the end of the first window in which it was
//! so all the time. Pure: the caller has the clock and the timer.

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
        }
    }

    /// When to look next.
    pub(super) fn next_look(&self) -> Instant {
        self.deadline.map_or(self.window_end, |deadline| deadline.min(self.window_end))
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
            return Err(Kind::Timeout);
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
            if let Err(kind) = pace.look(now, Progress { received, sent, turn: *turn }) {
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
        let upstream = Kind::Timeout.to_string();
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
        let stuck = Progress { received: 0, sent: 0, turn: Turn::ClientSends };
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
        let moving = Progress { received: 1 << 20, sent: 1 << 20, turn: Turn::Anyone };
        assert!(pace.look(start + Duration::from_secs(14), moving).is_ok());
        assert!(matches!(pace.look(pace.next_look(), moving), Err(Kind::Timeout)));
    }

    #[test]
    fn a_client_that_ended_its_direction_is_answered_unless_it_is_gone() {
        let start = Instant::now();
        let waiting = Progress { received: 0, sent: 0, turn: Turn::Anyone };
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
}

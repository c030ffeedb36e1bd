//! What is refused on the mTLS port is written down: who asked, for what, and why not. Whoever asks again and again
//! fills no disk: past some lines at once it is counted. Those who prove who they are have lines of their own, so that
//! nobody who proves nothing, and can be anybody, keeps one of theirs from being written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwork_xds::grpc::printable;
use tokio::time::Instant;
use tracing::warn;

use crate::api::Audit;

/// Lines at once, of people who mistype and of a proxy that starts.
const BURST: u32 = 50;
/// A line more after each of these: it takes weeks to push what matters out of the log.
const PAUSE: Duration = Duration::from_secs(10);
/// How much of what somebody asked for is kept.
const MAX_BYTES: usize = 1024;

/// Writes refusals to the audit log.
pub(crate) struct Refusals {
    audit: Arc<Audit>,
    proven: Mutex<Budget>,
    anonymous: Mutex<Budget>,
}

/// Who was refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker<'a> {
    /// Somebody who has proven who they are.
    Proven(&'a str),
    /// Somebody at an address.
    Anonymous(&'a str),
}

/// How many lines may be written.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// When the last one was given back.
    at: Instant,
    /// Refusals that nothing was written of.
    unwritten: u64,
}

impl Budget {
    /// Takes a line, and gives the number of refusals before it that none was left for.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.at).as_secs() / PAUSE.as_secs();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            self.at = now;
        }
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Some(std::mem::take(&mut self.unwritten));
        }
        self.unwritten = self.unwritten.saturating_add(1);
        None
    }
}

impl Refusals {
    pub(crate) fn new(audit: Arc<Audit>) -> Arc<Self> {
        let budget = || Mutex::new(Budget { left: BURST, at: Instant::now(), unwritten: 0 });
        Arc::new(Self { audit, proven: budget(), anonymous: budget() })
    }

    /// Tells of the refusal of somebody who has proven nothing, on a thread for what blocks.
    pub(super) fn tell(self: Arc<Self>, by: &str, action: &'static str, asked: Vec<String>, why: String) {
        let by = by.to_owned();
        drop(tokio::task::spawn_blocking(move || self.write(Asker::Anonymous(&by), action, asked, &why)));
    }

    /// Tells of a refusal. Blocks while it is written.
    pub(super) fn write(&self, asker: Asker<'_>, action: &str, asked: Vec<String>, why: &str) {
        let (by, budget) = match asker {
            Asker::Proven(by) => (by, &self.proven),
            Asker::Anonymous(by) => (by, &self.anonymous),
        };
        let budget = budget.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(unwritten) = budget else { return };
        warn!(by, action, ?asked, why, unwritten, "refused");
        let note = match unwritten {
            0 => String::new(),
            more => format!("{more} refusals before it are not written down: there were too many at once"),
        };
        let asked = asked.into_iter().map(|text| short(&text)).collect();
        self.audit.refused(by, action, &note, asked, &short(why));
    }
}

/// The begin of a text, without what a terminal would act on.
fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    printable(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rationed_and_what_is_left_out_is_counted() {
        let begin = Instant::now();
        let mut budget = Budget { left: BURST, at: begin, unwritten: 0 };
        for _ in 0..BURST {
            assert_eq!(budget.take(begin), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(budget.take(begin + PAUSE / 2), None);
        }
        assert_eq!(budget.take(begin + PAUSE), Some(7));
        assert_eq!(budget.take(begin + PAUSE), None);
        assert_eq!(budget.take(begin + PAUSE * 1000), Some(1));
        assert_eq!(budget.left, BURST - 1);
    }

    #[test]
    fn a_refusal_is_a_line_of_the_audit_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let refusals = Refusals::new(Arc::new(Audit::new(dir.path())));
        let asked = vec!["spiffe://mesh.local/ns/shop/sa/web".to_owned()];
        for _ in 0..BURST + 10 {
            let asker = Asker::Anonymous("nobody from 192.0.2.1:5");
            refusals.write(asker, "sign", asked.clone(), "the token\nis used");
        }
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("written");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), usize::try_from(BURST).expect("small"));
        assert_eq!(lines[0]["by"], "nobody from 192.0.2.1:5");
        assert_eq!(lines[0]["action"], "sign");
        assert_eq!(lines[0]["resources"][0], asked[0].as_str());
        assert_eq!(lines[0]["result"], "refused: the token is used");
        // However many that were, they leave room for those who are known.
        refusals.write(Asker::Proven("spiffe://mesh.local/ns/shop/sa/web"), "sign", asked, "it is revoked");
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("written");
        assert!(text.lines().last().expect("a line").contains("it is revoked"), "{text}");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(short("a\u{1b}[31m\n"), "a [31m ");
        assert!(short(&"é".repeat(4000)).len() <= MAX_BYTES);
    }
}

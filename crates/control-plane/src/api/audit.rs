//! The audit log: a line of JSON for each write that somebody asked for, done or refused.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tracing::error;

/// The log, in the state directory.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    file: Mutex<Option<File>>,
    /// Who was refused lately.
    refused: Mutex<HashMap<String, Asker>>,
}

/// Somebody who was refused.
#[derive(Debug)]
struct Asker {
    /// When the lines that they had would have been written, one each [`REFUSED_EVERY`].
    until: Instant,
    /// How many they did not get since their last one.
    missed: u64,
}

/// What somebody asked for, and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'l> {
    pub(super) at: String,
    pub(super) by: &'l str,
    pub(super) action: &'l str,
    pub(super) note: &'l str,
    /// `created HTTPRoute/shop/cart`; what was meant to be, where it is refused.
    pub(super) resources: Vec<String>,
    pub(super) result: String,
}

/// The size at which the log is put aside, and how many are kept so: years of changes by hand.
const MAX_BYTES: u64 = 64 << 20;
const KEPT: u32 = 4;
/// The most bytes of a text of a line, and the most resources that it names: history has all of a change, and nobody pushes
/// out what they did before with a few long lines.
const MAX_TEXT_BYTES: usize = 1024;
const MAX_RESOURCES: usize = 100;
/// Refusals of one asker that are written at once, and the time in which there is room for one more: people who mistype and
/// pipelines have fewer.
const REFUSED_AT_ONCE: u32 = 100;
const REFUSED_EVERY: Duration = Duration::from_secs(5);
/// Of how many askers that is known, about as many as there are tokens.
const MAX_ASKERS: usize = 1_024;

impl Audit {
    pub(crate) fn new(state: &Path) -> Self {
        Self { path: state.join("audit.jsonl"), file: Mutex::new(None), refused: Mutex::default() }
    }

    /// Writes a line. That it fails keeps nobody from working; it is told in the log.
    pub(super) fn write(&self, line: &Line<'_>) {
        if let Err(error) = self.append(line) {
            error!(%error, by = line.by, action = line.action, result = line.result, "the audit log is not written");
        }
    }

    /// Writes that somebody was refused. Who is refused again and again has some lines; what is left out is counted, and told
    /// with the next.
    pub(super) fn write_refused(&self, line: Line<'_>) {
        let Some(missed) = self.room(line.by, Instant::now()) else { return };
        let more = if missed > 0 { format!(" (and {missed} times before)") } else { String::new() };
        self.write(&Line { result: cut(&line.result).to_owned() + &more, ..line });
    }

    /// Whether there is room for a line of somebody's refusals; how many had none since the last.
    fn room(&self, by: &str, now: Instant) -> Option<u64> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MAX_ASKERS && !refused.contains_key(by) {
            refused.retain(|_, asker| asker.until > now);
            if refused.len() >= MAX_ASKERS {
                refused.clear();
            }
        }
        let asker = refused.entry(by.to_owned()).or_insert(Asker { until: now, missed: 0 });
        let until = asker.until.max(now) + REFUSED_EVERY;
        if until.duration_since(now) > REFUSED_EVERY * REFUSED_AT_ONCE {
            asker.missed += 1;
            return None;
        }
        asker.until = until;
        Some(std::mem::take(&mut asker.missed))
    }

    /// Writes that somebody was refused what they asked for.
    pub(crate) fn refused(&self, by: &str, action: &str, note: &str, resources: Vec<String>, why: &str) {
        self.write(&Line { at: now(), by, action, note, resources, result: format!("refused: {why}") });
    }

    fn append(&self, line: &Line<'_>) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(&line.bounded())?;
        text.push(b'\n');
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*held
            && file.metadata()?.len() >= MAX_BYTES
        {
            *held = None;
            self.put_aside()?;
        }
        let file = match held.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?,
        };
        let file = held.insert(file);
        file.write_all(&text)?;
        file.sync_data()
    }

    /// Takes the log and those before it one place on; the last one goes.
    fn put_aside(&self) -> std::io::Result<()> {
        let place = |number: u32| match number {
            0 => self.path.clone(),
            number => self.path.with_extension(format!("jsonl.{number}")),
        };
        for number in (0..KEPT).rev() {
            match std::fs::rename(place(number), place(number + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Line<'_> {
    /// The same with what is too long cut off.
    fn bounded(&self) -> Self {
        let mut resources: Vec<String> =
            self.resources.iter().take(MAX_RESOURCES).map(|name| cut(name).to_owned()).collect();
        if let Some(more @ 1..) = self.resources.len().checked_sub(MAX_RESOURCES) {
            resources.push(format!("and {more} more"));
        }
        Self {
            at: self.at.clone(),
            by: cut(self.by),
            action: self.action,
            note: cut(self.note),
            resources,
            // A word on what was left out before stands at its end.
            result: self.result[..self.result.floor_char_boundary(2 * MAX_TEXT_BYTES)].to_owned(),
        }
    }
}

/// As much of a text as a line has.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

/// RFC 3339, in UTC.
pub(super) fn now() -> String {
    jiff::Timestamp::try_from(SystemTime::now()).map(|now| now.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(by: &str, resources: Vec<String>) -> Line<'_> {
        Line { at: now(), by, action: "apply", note: "", resources, result: "refused".to_owned() }
    }

    fn lines(dir: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(dir.join("audit.jsonl")).expect("there");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn nobody_pushes_out_what_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let audit = Audit::new(dir.path());
        let long = "é".repeat(MAX_TEXT_BYTES);
        audit.write(&line(&long, vec![long.clone(); MAX_RESOURCES + 7]));
        let written = &lines(dir.path())[0];
        let resources = written["resources"].as_array().expect("a list");
        assert_eq!((resources.len(), &resources[MAX_RESOURCES]), (MAX_RESOURCES + 1, &"and 7 more".into()));
        assert_eq!(written["by"].as_str().map(str::len), Some(MAX_TEXT_BYTES));
        audit.write_refused(line("b", Vec::new()));
        assert_eq!(lines(dir.path()).len(), 2);
    }

    #[test]
    fn who_is_refused_again_and_again_has_some_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, now) = (Audit::new(dir.path()), Instant::now());
        for _ in 0..REFUSED_AT_ONCE {
            assert_eq!(audit.room("a", now), Some(0));
        }
        assert_eq!([(); 7].map(|()| audit.room("a", now)), [None; 7]);
        assert_eq!(audit.room("b", now), Some(0));
        let later = now + REFUSED_EVERY;
        assert_eq!((audit.room("a", later), audit.room("a", later)), (Some(7), None));
        assert_eq!(audit.room("a", later + REFUSED_EVERY), Some(1));
        for number in 0..2 * MAX_ASKERS {
            audit.room(&number.to_string(), now);
        }
        assert!(audit.refused.lock().expect("free").len() <= MAX_ASKERS);
    }

    #[test]
    fn logs_are_put_aside_and_some_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let audit = Audit::new(dir.path());
        for round in 0..KEPT + 2 {
            std::fs::write(&audit.path, round.to_string()).expect("written");
            audit.put_aside().expect("put aside");
        }
        let kept =
            |number: u32| std::fs::read_to_string(audit.path.with_extension(format!("jsonl.{number}"))).ok();
        assert_eq!((kept(1), kept(KEPT), kept(KEPT + 1)), (Some("5".to_owned()), Some("2".to_owned()), None));
    }

    #[test]
    fn lines_follow_each_other_across_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        for result in ["revision 1", "refused"] {
            let line = Line {
                at: now(),
                by: "uid 0",
                action: "apply",
                note: "",
                resources: vec!["created Service/shop/cart".to_owned()],
                result: result.to_owned(),
            };
            Audit::new(dir.path()).write(&line);
        }
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("there");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(
            (lines.len(), &lines[1]["result"], &lines[0]["by"]),
            (2, &"refused".into(), &"uid 0".into())
        );
    }
}

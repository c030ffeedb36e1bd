//! What people write: `http:8080/healthz,every=5s,timeout=1s,failures=3`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Source: Kubernetes `periodSeconds`, 10.
const EVERY: Duration = Duration::from_secs(10);
/// Source: Kubernetes `timeoutSeconds`, 1.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Source: Kubernetes `failureThreshold`, 3.
const FAILURES: u32 = 3;
/// Source: Kubernetes `successThreshold`, 1.
const SUCCESSES: u32 = 1;
/// The shortest pause: more would be load.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// The longest of all times: a probe that is asked more seldom says nothing.
const LONGEST: Duration = Duration::from_hours(1);
/// The most answers in a row that a probe can wait for.
const THRESHOLD_MAX: u32 = 1000;
/// Bytes of a path or a command.
const TEXT_BYTES: usize = 4096;

/// How a program is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub check: Check,
    /// How long after the start of the program it is asked for the first time (`delay`).
    pub delay: Duration,
    /// How often (`every`).
    pub every: Duration,
    /// How long an answer may take (`timeout`).
    pub timeout: Duration,
    /// After how many failures in a row it is not well (`failures`).
    pub failures: u32,
    /// After how many successes in a row it is well again (`successes`).
    pub successes: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// GET is answered with 200 to 399 (`http:PORT/PATH`).
    Http {
        /// The program's port.
        port: u16,
        /// Path and query, from the slash on.
        path: String,
    },
    /// A connection is accepted (`tcp:PORT`).
    Tcp {
        /// The program's port.
        port: u16,
    },
    /// A command of the shell ends with code 0 (`exec:COMMAND`).
    Exec {
        /// What the shell runs.
        command: String,
    },
}

/// Why something is no probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Of no known kind.
    #[error(
        "{0:?} is no probe: write http:PORT/PATH, tcp:PORT or exec:COMMAND, as in http:8080/healthz,every=5s"
    )]
    Kind(String),
    /// No port.
    #[error("{0:?} is no port: write a number from 1 to 65535")]
    Port(String),
    /// No path, or one that cannot stand in a request.
    #[error(
        "{0:?} is no path: it begins with / and has no spaces and no control characters (write %20 for a space)"
    )]
    Path(String),
    /// No command, or one that is too long.
    #[error("a command has 1 to {TEXT_BYTES} bytes: write exec:COMMAND")]
    Command,
    /// Something that cannot be set.
    #[error("{0:?} is nothing that a probe has: write every=, timeout=, delay=, failures= or successes=")]
    Setting(String),
    /// A setting with a value that it cannot have.
    #[error("{setting}={value} cannot be: write {expected}")]
    Value {
        /// Its name.
        setting: String,
        /// What was written.
        value: String,
        /// What can be written.
        expected: String,
    },
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let (kind, rest) = text.split_once(':').ok_or_else(|| ProbeError::Kind(text.to_owned()))?;
        let (what, settings) = match kind {
            "http" | "tcp" => rest.split_once(',').unwrap_or((rest, "")),
            "exec" => split_command(rest),
            _ => return Err(ProbeError::Kind(text.to_owned())),
        };
        let check = match kind {
            "http" => http(what)?,
            "tcp" => Check::Tcp { port: port(what)? },
            _ if what.is_empty() || what.len() > TEXT_BYTES => return Err(ProbeError::Command),
            _ => Check::Exec { command: what.to_owned() },
        };
        let mut probe = Self {
            check,
            delay: Duration::ZERO,
            every: EVERY,
            timeout: TIMEOUT,
            failures: FAILURES,
            successes: SUCCESSES,
        };
        settings.split(',').filter(|setting| !setting.is_empty()).try_for_each(|s| probe.set(s))?;
        Ok(probe)
    }
}

/// A command may have commas: settings are what looks like some at its end.
fn split_command(text: &str) -> (&str, &str) {
    let is_setting = |part: &str| part.split_once('=').is_some_and(|(name, _)| SETTINGS.contains(&name));
    let mut end = text.len();
    while let Some(at) = text[..end].rfind(',').filter(|at| is_setting(&text[at + 1..end])) {
        end = at;
    }
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

const SETTINGS: [&str; 5] = ["every", "timeout", "delay", "failures", "successes"];

fn http(what: &str) -> Result<Check, ProbeError> {
    let (digits, path) = what.split_at(what.find('/').unwrap_or(what.len()));
    let path = if path.is_empty() { "/" } else { path };
    // What could be taken for something else than the target of a request line.
    if path.len() > TEXT_BYTES || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(ProbeError::Path(path.to_owned()));
    }
    Ok(Check::Http { port: port(digits)?, path: path.to_owned() })
}

fn port(digits: &str) -> Result<u16, ProbeError> {
    digits.parse().ok().filter(|port| *port > 0).ok_or_else(|| ProbeError::Port(digits.to_owned()))
}

impl Probe {
    fn set(&mut self, setting: &str) -> Result<(), ProbeError> {
        let (name, value) = setting.split_once('=').ok_or_else(|| ProbeError::Setting(setting.to_owned()))?;
        match name {
            "every" => self.every = duration(name, value, EVERY_MIN)?,
            "timeout" => self.timeout = duration(name, value, Duration::from_millis(1))?,
            "delay" => self.delay = duration(name, value, Duration::ZERO)?,
            "failures" => self.failures = threshold(name, value)?,
            "successes" => self.successes = threshold(name, value)?,
            _ => return Err(ProbeError::Setting(setting.to_owned())),
        }
        Ok(())
    }
}

fn duration(setting: &str, value: &str, least: Duration) -> Result<Duration, ProbeError> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let number = value[..digits].parse::<u64>().ok();
    let unit = match &value[digits..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let found =
        number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit)).map(Duration::from_millis);
    found.filter(|found| (least..=LONGEST).contains(found)).ok_or_else(|| ProbeError::Value {
        setting: setting.to_owned(),
        value: value.to_owned(),
        expected: format!("a time from {least:?} to 60m, such as 500ms, 5s or 1m"),
    })
}

fn threshold(setting: &str, value: &str) -> Result<u32, ProbeError> {
    let found = value.parse().ok().filter(|found| (1..=THRESHOLD_MAX).contains(found));
    found.ok_or_else(|| ProbeError::Value {
        setting: setting.to_owned(),
        value: value.to_owned(),
        expected: format!("a number from 1 to {THRESHOLD_MAX}"),
    })
}

impl Check {
    /// What is run for it, a program and its arguments; `None` where nothing is.
    pub fn command(&self) -> Option<Vec<String>> {
        match self {
            Self::Exec { command } => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()]),
            Self::Http { .. } | Self::Tcp { .. } => None,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { port, path } => write!(f, "http:{port}{path}"),
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Exec { command } => write!(f, "exec:{command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(check: Check) -> Probe {
        Probe {
            check,
            delay: Duration::ZERO,
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failures: 3,
            successes: 1,
        }
    }

    fn http(port: u16, path: &str) -> Check {
        Check::Http { port, path: path.into() }
    }

    #[test]
    fn probes_are_what_is_written() {
        let check = |text: &str, expected: Probe| assert_eq!(text.parse(), Ok(expected), "{text}");
        check("http:8080/healthz", probe(http(8080, "/healthz")));
        check("http:8080", probe(http(8080, "/")));
        check("http:8080/a:b?c=d", probe(http(8080, "/a:b?c=d")));
        check("tcp:6379", probe(Check::Tcp { port: 6379 }));
        let seconds = Duration::from_secs;
        check(
            "http:8080/healthz,every=5s,timeout=500ms,failures=2",
            Probe {
                every: seconds(5),
                timeout: Duration::from_millis(500),
                failures: 2,
                ..probe(http(8080, "/healthz"))
            },
        );
        let exec = |command: &str| probe(Check::Exec { command: command.into() });
        check("exec:redis-cli ping", exec("redis-cli ping"));
        check("exec:test a,b = c:d", exec("test a,b = c:d"));
        check(
            "exec:a,every=x,b,delay=1m,successes=2",
            Probe { delay: seconds(60), successes: 2, ..exec("a,every=x,b") },
        );
    }

    #[test]
    fn what_is_no_probe_is_refused_with_what_to_write() {
        let check = |text: &str, expected: &str| {
            let said = text.parse::<Probe>().unwrap_err().to_string();
            assert!(said.starts_with(expected), "{text}: {said}");
        };
        check("", "\"\" is no probe: write http:PORT/PATH");
        check("8080", "\"8080\" is no probe");
        check("https:8080/", "\"https:8080/\" is no probe");
        check("http:", "\"\" is no port");
        check("http:0/", "\"0\" is no port");
        check("http:localhost:80/", "\"localhost:80\" is no port");
        check("tcp:70000", "\"70000\" is no port: write a number from 1 to 65535");
        check("tcp:80/x", "\"80/x\" is no port");
        check("http:80/a b", "\"/a b\" is no path");
        check("http:80/a\r\nHost:x", "\"/a\\r\\nHost:x\" is no path");
        check("http:80/a#b", "\"/a#b\" is no path");
        check("exec:", "a command has 1 to 4096 bytes");
        check("exec:,every=5s", "a command has 1 to 4096 bytes");
        check("tcp:80,5s", "\"5s\" is nothing that a probe has: write every=");
        check("tcp:80,interval=5s", "\"interval=5s\" is nothing that a probe has");
        check("tcp:80,every=5", "every=5 cannot be: write a time from 100ms to 60m, such as 500ms, 5s or 1m");
        check("tcp:80,every=10ms", "every=10ms cannot be");
        check("tcp:80,timeout=0s", "timeout=0s cannot be");
        check("tcp:80,timeout=61m", "timeout=61m cannot be");
        check("tcp:80,timeout=99999999999999999999s", "timeout=99999999999999999999s cannot be");
        check("tcp:80,timeout=307445734561825861m", "timeout=307445734561825861m cannot be");
        check("tcp:80,every=é", "every=é cannot be");
        check("tcp:80,failures=0", "failures=0 cannot be: write a number from 1 to 1000");
        check("tcp:80,successes=-1", "successes=-1 cannot be");
    }
}

//! What a sidecar and its supervisor tell each other: JSON, one message a line, over a Unix stream.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Longest line that either side takes. A probe's command is the longest thing that is said.
pub const LINE_LIMIT: usize = 64 * 1024;

/// From a sidecar to its supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSidecar {
    /// Listeners, config and certificate are there: the program may start.
    Ready {
        /// The workload's own virtual addresses, of either IP version; none where the control plane has given none.
        addresses: Vec<IpAddr>,
    },
    /// The program is not alive any more, by its liveness probe: it is to be ended.
    Unwell {
        /// What the probe says.
        reason: String,
    },
    /// A command is to be run beside the program, to learn whether it is well.
    Probe(Probe),
}

/// A command that is run where the program runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What the answer will be known by.
    pub id: u64,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How long it may take, in milliseconds; it is killed then.
    pub timeout_ms: u64,
}

/// From a supervisor to its sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSidecar {
    /// A probe's outcome.
    Probed {
        /// The probe's.
        id: u64,
        /// Why it failed; `None` where the command ended with code 0 in time.
        failure: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_as_documented() {
        let check = |message: FromSidecar, expected: &str| {
            assert_eq!(serde_json::to_string(&message).expect("JSON"), expected);
            assert_eq!(serde_json::from_str::<FromSidecar>(expected).expect("JSON"), message);
        };
        check(
            FromSidecar::Ready { addresses: vec!["240.0.0.5".parse().expect("address")] },
            r#"{"ready":{"addresses":["240.0.0.5"]}}"#,
        );
        check(
            FromSidecar::Probe(Probe { id: 1, command: vec!["true".to_owned()], timeout_ms: 1000 }),
            r#"{"probe":{"id":1,"command":["true"],"timeout_ms":1000}}"#,
        );
        let failed = ToSidecar::Probed { id: 1, failure: Some("code 1".to_owned()) };
        assert_eq!(
            serde_json::to_string(&failed).expect("JSON"),
            r#"{"probed":{"id":1,"failure":"code 1"}}"#
        );
    }
}

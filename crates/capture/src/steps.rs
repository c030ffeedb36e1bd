//! What a captured workload takes of the system, step by step: what was tried, what failed, and what to do about it.
//!
//! `meshwork check` and `meshwork run` go through the same steps, by the same code, and say the same words.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::advice::{Advice, Facts};

/// A step, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A user namespace, in which the caller may do what follows.
    UserNamespace,
    /// The caller's ids in it.
    Ids,
    /// A network, a mount and a process namespace.
    Namespaces,
    /// Loopback, addresses and routes.
    Network,
    /// Ports below 1024, and pings, for everyone.
    Settings,
    /// The sockets that the proxy takes over.
    Sockets,
    /// The rules that steer connections to the proxy.
    Rules,
    /// A connection and a query to somewhere else that arrive at the proxy.
    Steering,
    /// Refused packets, told.
    Log,
    /// `resolv.conf` and `nsswitch.conf` of the workload's own.
    Names,
    /// Folders that the program does not see: private keys lie there.
    Hidden,
    /// A `/proc` of the workload's own.
    Proc,
    /// The program's having no privileges.
    Privileges,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 13] = [
        Self::UserNamespace,
        Self::Ids,
        Self::Namespaces,
        Self::Network,
        Self::Settings,
        Self::Sockets,
        Self::Rules,
        Self::Steering,
        Self::Log,
        Self::Names,
        Self::Hidden,
        Self::Proc,
        Self::Privileges,
    ];

    /// What goes without it; `None` where nothing does.
    pub fn without(self) -> Option<&'static str> {
        match self {
            Self::Settings => Some("the program cannot listen on ports below 1024, or ping itself"),
            Self::Log => Some("what is refused is not told in the log"),
            Self::Proc => Some(
                "the program sees the host's processes in /proc, and may look into those of the same user",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserNamespace => "user namespace",
            Self::Ids => "user and group ids in it",
            Self::Namespaces => "network, mount and process namespaces",
            Self::Network => "loopback, addresses, routes",
            Self::Settings => "low ports and pings",
            Self::Sockets => "sockets",
            Self::Rules => "packet filter (nft)",
            Self::Steering => "connections and queries reach the proxy",
            Self::Log => "log of refused packets",
            Self::Names => "resolv.conf and nsswitch.conf",
            Self::Hidden => "hiding folders with private keys",
            Self::Proc => "/proc",
            Self::Privileges => "giving up privileges",
        })
    }
}

/// A step that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Which.
    pub step: Step,
    /// Why it failed; `None` where it did not.
    pub failure: Option<Failure>,
}

/// Why a step failed, as it goes from process to process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In the system's words.
    pub words: String,
    /// The system's number, where it is the system that refused.
    pub code: Option<i32>,
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        Self { words: error.to_string(), code: error.raw_os_error() }
    }
}

impl Tried {
    pub(crate) fn new<T>(step: Step, outcome: &io::Result<T>) -> Self {
        Self { step, failure: outcome.as_ref().err().map(Failure::from) }
    }
}

/// A step that failed, and without which nothing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub step: Step,
    /// Why.
    pub failure: Failure,
    /// What to do.
    pub advice: Advice,
}

impl Missing {
    /// The first of the failed steps without which nothing goes.
    pub(crate) fn first(tried: &[Tried]) -> Option<Self> {
        tried.iter().filter(|tried| tried.step.without().is_none()).find_map(|tried| {
            let failure = tried.failure.clone()?;
            let advice = Advice::on(tried.step, &failure, &Facts::here());
            Some(Self { step: tried.step, failure, advice })
        })
    }

    /// Whether a step failed without which nothing goes.
    pub(crate) fn any(tried: &[Tried]) -> bool {
        tried.iter().any(|tried| tried.failure.is_some() && tried.step.without().is_none())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this system does not allow it: {}: {}", self.step, self.failure.words)?;
        if let Some(setting) = &self.advice.setting {
            write!(f, "\n  setting: {setting}")?;
        }
        write!(
            f,
            "\n  fix: {}\n  instead: {}\n  see all: meshwork check",
            self.advice.fix,
            crate::advice::INSTEAD
        )
    }
}

impl std::error::Error for Missing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_goes_without_is_named_first() {
        let failed = |step| Tried {
            step,
            failure: Some(Failure {
                words: "Operation not permitted (os error 1)".to_owned(),
                code: Some(1),
            }),
        };
        let fine = |step| Tried { step, failure: None };
        let check = |tried: &[Tried], expected: Option<Step>| {
            assert_eq!(Missing::first(tried).map(|missing| missing.step), expected);
        };
        check(&[], None);
        check(&[fine(Step::Network), failed(Step::Proc)], None);
        check(&[failed(Step::Settings), failed(Step::Rules), failed(Step::Names)], Some(Step::Rules));
        let text = Missing::first(&[failed(Step::Rules)]).expect("missing").to_string();
        for part in
            ["packet filter (nft)", "Operation not permitted", "fix: ", "meshwork sidecar", "meshwork check"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}

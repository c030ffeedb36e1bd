//! `meshwork check`: every step that `meshwork run` takes, tried for real in a child that then ends.

use std::io;
use std::time::Duration;

use rustix::process::WaitOptions;

use crate::advice::{Advice, Facts};
use crate::namespace::{self, CHILD_NAMESPACES};
use crate::orders::Way;
use crate::privileges;
use crate::set_up::{self, Plan};
use crate::steps::{Failure, Step, Tried};

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Fine,
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
        /// What to do.
        advice: Advice,
    },
    /// It was not tried: a step before it failed.
    NotTried,
}

/// Tries every step. No thread may have been started.
///
/// # Errors
/// No child can be started.
pub fn check() -> io::Result<Vec<(Step, Verdict)>> {
    let (ours, theirs) = Way::open()?;
    let Some(child) = namespace::fork(0)? else {
        drop(ours);
        std::process::exit(i32::from(attempt(&theirs).is_err()));
    };
    drop(theirs);
    let mut tried: Vec<Tried> = Vec::new();
    while let Some((more, _)) = ours.receive::<Vec<Tried>>()? {
        tried.extend(more);
    }
    rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    let facts = Facts::here();
    Ok(Step::ALL.into_iter().map(|step| (step, verdict(step, &tried, &facts))).collect())
}

fn verdict(step: Step, tried: &[Tried], facts: &Facts) -> Verdict {
    let mut found = tried.iter().filter(|tried| tried.step == step).peekable();
    if found.peek().is_none() {
        return Verdict::NotTried;
    }
    match found.find_map(|tried| tried.failure.clone()) {
        None => Verdict::Fine,
        Some(failure) => Verdict::Failed { advice: Advice::on(step, &failure, facts), failure },
    }
}

/// Goes through the steps, and tells of each.
fn attempt(parent: &Way) -> io::Result<()> {
    namespace::enter(|step, outcome| {
        parent.send(&[Tried::new(step.into(), &outcome)], &[])?;
        outcome
    })?;
    let forked = namespace::fork(CHILD_NAMESPACES);
    parent.send(&[Tried::new(Step::Namespaces, &forked)], &[])?;
    let Some(child) = forked? else {
        // Any folder will do that is there and that nobody stands in.
        let hidden = vec!["/sys".into()];
        let plan = Plan { workers: 2, namespace: "default".to_owned(), hidden };
        let (mut tried, _made) = set_up::set_up(&plan);
        tried.push(Tried::new(Step::Privileges, &privileges::give_up()));
        std::process::exit(i32::from(parent.send(&tried, &[]).is_err()));
    };
    rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    Ok(())
}

/// Whether the control plane is there.
pub fn reachable(address: std::net::SocketAddr) -> bool {
    crate::sockets::is_reachable(address, Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_tried_is_not_said_to_work() {
        let tried = [
            Tried { step: Step::Network, failure: None },
            Tried { step: Step::Rules, failure: Some(Failure { words: "no".to_owned(), code: Some(1) }) },
        ];
        let check = |step, expected: &str| {
            let verdict = format!("{:?}", verdict(step, &tried, &Facts::default()));
            assert!(verdict.starts_with(expected), "{verdict}");
        };
        check(Step::Network, "Fine");
        check(Step::Rules, "Failed");
        check(Step::Steering, "NotTried");
    }
}

//! What people ask of the authority: its roots, who signs, how far a rotation is and who is waited for; and what they ask
//! it to do.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use meshwork_model::problem::{Code, Problem};
use serde::Serialize;

use super::federation::FederatedStatus;
use super::record::{self, Intermediate, Kept};
use super::rotation::{Course, End, Holder, Lack, Presence, Rotation, Step, Why};
use super::{Authority, now, seconds};
use crate::ingest::closest;
use crate::replicas;
use crate::store::KvError;

/// How long before its end it is told of.
const ENDS_SOON: Duration = Duration::from_hours(30 * 24);
/// An own intermediate is renewed at half of its life: in the last quarter that has failed for long.
const LAST_PART: u32 = 4;
/// The most names of `without`: a rotation that goes on without more is none.
const MAX_WITHOUT: usize = 1_000;
/// How often the record is written anew that another wrote in between.
const MAX_TRIES: usize = 8;

/// Stands in the name of what an agent holds, between it and the program's identity.
const DELEGATED: &str = " for spiffe://";

/// All of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    trust_domain: String,
    roots: Vec<RootStatus>,
    intermediates: Vec<IntermediateStatus>,
    rotation: Option<RotationStatus>,
    revoked: RevokedStatus,
    federated: Vec<FederatedStatus>,
    /// Why files of the authority could not be read or written last.
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RootStatus {
    fingerprint: String,
    serial: String,
    /// `active`, `next`, `previous`.
    role: &'static str,
    not_before: String,
    not_after: String,
    /// Whether it came with a plugged-in intermediate.
    plugged: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IntermediateStatus {
    replica: String,
    serial: String,
    /// The root that it is under.
    root: String,
    not_after: String,
    plugged: bool,
    /// Whether it is that of the control plane that was asked.
    is_own: bool,
}

#[derive(Debug, Serialize)]
struct RevokedStatus {
    identities: usize,
    serials: usize,
}

/// How far a rotation is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RotationStatus {
    number: u64,
    step: Step,
    /// Whether it is on its way back.
    aborting: bool,
    running: bool,
    from: String,
    to: Option<String>,
    by: String,
    started_at: String,
    changed_at: String,
    without: Vec<String>,
    without_offline: bool,
    /// How many are concerned by what is to be shown before the next step, and how many of them show it.
    concerned: usize,
    done: usize,
    /// Who is waited for.
    waiting: Vec<Waiting>,
    /// How many more there are whom who asks may not see.
    hidden: usize,
    /// Why the last step could not be done; it is tried again.
    trouble: Option<String>,
}

/// Somebody who is waited for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    name: String,
    /// `notAcknowledged`, `refuses`, `unfollowing`, `otherRoot`, `offline`, `tokens`, `silent`, `behind`.
    reason: &'static str,
    /// The same in a sentence.
    message: String,
    /// Since when it is offline, where that is known.
    since: Option<String>,
    /// When its certificate has ended for sure.
    until: Option<String>,
}

/// How a rotation is to go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// Who is not to be waited for, beside those that were said before.
    pub(crate) without: Vec<String>,
    pub(crate) without_offline: bool,
}

/// Why a rotation is not started or aborted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    /// There is nothing to abort.
    #[error("no rotation runs{0}")]
    None(String),
    /// It asks for too much.
    #[error("{0}")]
    Invalid(String),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] KvError),
}

impl Wish {
    /// The same rotation, with fewer to wait for.
    fn of(&self, rotation: Rotation) -> Result<Rotation, RotateError> {
        let without: BTreeSet<String> = rotation.without.iter().chain(&self.without).cloned().collect();
        if without.len() > MAX_WITHOUT {
            let message = format!("a rotation goes on without {MAX_WITHOUT} at most");
            return Err(RotateError::Invalid(message));
        }
        let without_offline = rotation.without_offline || self.without_offline;
        Ok(Rotation { without, without_offline, ..rotation })
    }

    /// Who is not waited for, for people.
    pub(crate) fn words(&self) -> Vec<String> {
        let offline = self.without_offline.then(|| "without those that are offline".to_owned());
        self.without.iter().map(|name| format!("without {name}")).chain(offline).collect()
    }
}

impl Status {
    /// Leaves out the names of those of whom this is not said.
    pub(crate) fn name_only(&mut self, is_shown: impl Fn(&str) -> bool) {
        let Some(rotation) = &mut self.rotation else { return };
        let all = rotation.waiting.len();
        rotation.waiting.retain(|waiting| is_shown(&waiting.name));
        rotation.hidden = all - rotation.waiting.len();
        rotation.without.retain(|name| is_shown(name));
    }
}

impl Authority {
    /// All of it.
    pub(crate) fn status(&self) -> Status {
        let rotation = self.rotation_status();
        let read_there = if self.kv.is_shared() { replicas::names(&*self.kv).ok() } else { None };
        let state = self.lock();
        let mut intermediates = state.read.intermediates.clone();
        intermediates.retain(|name, _| read_there.as_ref().is_some_and(|there| there.contains(name)));
        let revoked = self.published.borrow().trust.revoked().clone();
        let trouble = state.trouble.clone();
        drop(state);
        intermediates.insert(self.replica.clone(), self.intermediate());
        Status {
            trust_domain: self.published.borrow().trust.own().trust_domain().to_owned(),
            roots: self.signing.roots().into_iter().map(RootStatus::of).collect(),
            intermediates: intermediates
                .into_iter()
                .map(|(replica, one)| IntermediateStatus::of(&self.replica, replica, one))
                .collect(),
            rotation,
            revoked: RevokedStatus {
                identities: revoked.identities().count(),
                serials: revoked.serials().count(),
            },
            federated: self.federated(),
            trouble,
        }
    }

    /// How far the rotation of now is, or the last one.
    fn rotation_status(&self) -> Option<RotationStatus> {
        let rotation = self.lock().read.rotation.clone()?.value;
        let roots = self.roots();
        let proof = rotation.proof(&roots);
        let mut status = RotationStatus::of(&rotation, rotation.step(&roots));
        let Some(proof) = proof.filter(|_| rotation.end.is_none()) else { return Some(status) };
        let names = if self.kv.is_shared() { replicas::names(&*self.kv).ok() } else { None };
        let names: Vec<String> = names.into_iter().flatten().collect();
        let facts = self.facts(self.story(), rotation.number, &names, |_| false);
        let waiting = rotation.waiting(&proof, &facts);
        let counts = |holder: &&Holder| holder.counts(&proof, facts.now);
        status.concerned = facts.holders.iter().filter(counts).count();
        let lack = facts.holders.iter().filter(|holder| holder.lacks(&proof, facts.now).is_some()).count();
        status.done = status.concerned.saturating_sub(lack);
        status.waiting = waiting.iter().map(Waiting::of).collect();
        Some(status)
    }

    /// Starts a rotation, or goes on with the one that runs. Blocks.
    ///
    /// # Errors
    /// The wish names nobody that there is, or too many; or the store fails.
    pub(crate) fn start(&self, wish: &Wish, by: &str) -> Result<(), RotateError> {
        self.check(wish)?;
        self.change(|earlier, roots| {
            let rotation = match earlier {
                Some(Kept { value, .. }) if value.end.is_none() => value.clone(),
                earlier => {
                    let number = earlier.map_or(0, |kept| kept.value.number) + 1;
                    Rotation::begin(number, roots, by.to_owned(), now())
                }
            };
            wish.of(Rotation { course: Course::Forward, ..rotation })
        })
    }

    /// Whoever is to be gone on without is somebody.
    fn check(&self, wish: &Wish) -> Result<(), RotateError> {
        let story = self.story();
        let all: BTreeSet<&str> =
            story.known.iter().chain(&story.elsewhere).map(|known| known.name.as_str()).collect();
        match wish.without.iter().find(|name| !all.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let near = closest(name, &all.into_iter().collect::<Vec<_>>());
                let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                Err(RotateError::Invalid(format!(
                    "nobody is called {name:?}; expected NAMESPACE/NAME of a workload that is enrolled{near}"
                )))
            }
        }
    }

    /// Turns back the rotation that runs. Blocks.
    ///
    /// # Errors
    /// None runs, or the store fails.
    pub(crate) fn abort(&self, wish: &Wish) -> Result<(), RotateError> {
        self.check(wish)?;
        self.change(|earlier, _| match earlier {
            Some(Kept { value, .. }) if value.end.is_none() => {
                wish.of(Rotation { course: Course::Back, ..value.clone() })
            }
            Some(Kept { value, .. }) if value.end == Some(End::Removed) => {
                let words = ": the last one is complete; `meshwork ca rotate` makes another root";
                Err(RotateError::None(words.to_owned()))
            }
            _ => Err(RotateError::None(": there is nothing to turn back".to_owned())),
        })
    }

    fn change(
        &self,
        next: impl Fn(Option<&Kept<Rotation>>, &super::rotation::Roots) -> Result<Rotation, RotateError>,
    ) -> Result<(), RotateError> {
        for _ in 0..MAX_TRIES {
            let earlier = record::Read::all(&*self.kv)?.rotation;
            let rotation = next(earlier.as_ref(), &self.roots())?;
            if record::put_rotation(&*self.kv, earlier.as_ref(), &rotation)? {
                self.take_in()?;
                return Ok(());
            }
        }
        Err(KvError::Unavailable("others write the rotation at the same time".to_owned()).into())
    }

    /// What alarms look at: name, value, and what it is.
    pub(crate) fn gauges(&self) -> [(&'static str, u64, &'static str); 4] {
        let number = |at: i64| u64::try_from(at).unwrap_or_default();
        let roots = self.signing.roots();
        let first = roots.iter().map(|root| seconds(root.not_after)).min().unwrap_or_default();
        let revoked = self.published.borrow().trust.revoked().clone();
        let revoked = revoked.identities().count() + revoked.serials().count();
        [
            ("ca_root_ends_seconds", number(first), "When the first of the roots ends, since 1970."),
            (
                "ca_intermediate_ends_seconds",
                number(seconds(self.signing.issuer().not_after)),
                "When the intermediate ends that this control plane signs with, since 1970.",
            ),
            ("ca_revoked", revoked as u64, "Identities and certificates that are revoked."),
            ("ca_rotation_running", u64::from(self.running().is_some()), "Whether a root is being replaced."),
        ]
    }

    /// What somebody should look after.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let now = SystemTime::now();
        let mut problems = Vec::new();
        for root in self.signing.roots() {
            let what = format!("the {} root {}", root.role.name(), super::short(&root.fingerprint));
            let fix = if root.plugged {
                "Put another root beside it into the file of roots, then run `meshwork ca rotate`"
            } else {
                "Run `meshwork ca rotate`: it puts another in its place, under traffic"
            };
            problems.extend(ending(&what, root.not_after, ENDS_SOON, now, fix));
        }
        let issuer = self.signing.issuer();
        let what = format!("the intermediate {} of the control plane {}", issuer.serial, self.replica);
        problems.extend(if issuer.plugged {
            let fix =
                "Put a new certificate and key in place of the files; they are read again within seconds";
            ending(&what, issuer.not_after, ENDS_SOON, now, fix)
        } else {
            let life = issuer.not_after.duration_since(issuer.not_before).unwrap_or_default();
            let fix = "It should have been renewed; the control plane's log says why it is not";
            ending(&what, issuer.not_after, life / LAST_PART, now, fix)
        });
        let trouble = self.lock().trouble.clone();
        problems.extend(trouble.map(|why| {
            let fix = "Until then it signs with what it has";
            Problem::error("CertificateAuthority", "", why, fix).of(Code::Authority)
        }));
        problems
    }
}

fn ending(what: &str, end: SystemTime, soon: Duration, now: SystemTime, fix: &str) -> Option<Problem> {
    let left = end.duration_since(now).unwrap_or_default();
    if left >= soon {
        return None;
    }
    let verb = if left.is_zero() { "ended" } else { "ends" };
    let message = format!("{what} {verb} at {}", text(seconds(end)));
    let problem = Problem::error("CertificateAuthority", "", message, fix).of(Code::Authority);
    Some(if left.is_zero() { problem } else { problem.warning() })
}

/// RFC 3339, in UTC.
pub(crate) fn text(at: i64) -> String {
    jiff::Timestamp::from_second(at).map(|at| at.to_string()).unwrap_or_default()
}

impl RootStatus {
    fn of(root: meshwork_identity::RootFacts) -> Self {
        Self {
            fingerprint: root.fingerprint,
            serial: root.serial,
            role: root.role.name(),
            not_before: text(seconds(root.not_before)),
            not_after: text(seconds(root.not_after)),
            plugged: root.plugged,
        }
    }
}

impl IntermediateStatus {
    fn of(own: &str, replica: String, one: Intermediate) -> Self {
        Self {
            is_own: replica == own,
            replica,
            serial: one.serial,
            root: one.root,
            not_after: text(one.ends),
            plugged: one.plugged,
        }
    }
}

impl RotationStatus {
    fn of(rotation: &Rotation, step: Step) -> Self {
        Self {
            number: rotation.number,
            step,
            aborting: rotation.course == Course::Back && rotation.end.is_none(),
            running: rotation.end.is_none(),
            from: rotation.from.clone(),
            to: rotation.to.clone(),
            by: rotation.by.clone(),
            started_at: text(rotation.started_at),
            changed_at: text(rotation.changed_at),
            without: rotation.without.iter().cloned().collect(),
            without_offline: rotation.without_offline,
            concerned: 0,
            done: 0,
            waiting: Vec::new(),
            hidden: 0,
            trouble: rotation.trouble.clone(),
        }
    }
}

impl Waiting {
    fn of(lack: &Lack) -> Self {
        let (mut since, mut until) = (None, None);
        let (reason, message) = match &lack.why {
            Why::NotAcknowledged => ("notAcknowledged", "it has not acknowledged the root yet".to_owned()),
            Why::Refuses(words) => ("refuses", format!("it refuses the trust that it was given: {words}")),
            Why::Unfollowing => (
                "unfollowing",
                "it is connected, but follows no trust: what enrolled it is of an earlier version, or runs no more"
                    .to_owned(),
            ),
            Why::OtherRoot if lack.name.contains(DELEGATED) => {
                let how = "its agent renews it while its program asks; if that has ended";
                let text = format!("its certificate is under another root still; {how}: --without '{}'", lack.name);
                ("otherRoot", text)
            }
            Why::OtherRoot => ("otherRoot", "its certificate is under another root still".to_owned()),
            Why::Offline { since: from, until: end } => {
                since = from.map(text);
                until = Some(text(*end));
                let since = since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
                ("offline", format!("it is offline{since}, and may come back with a certificate until {}", text(*end)))
            }
            Why::Tokens { until: end } => {
                until = Some(text(*end));
                ("tokens", format!("tokens that were signed beside the other root are good until {}", text(*end)))
            }
            Why::SilentReplica => ("silent", "it has not said how far it is".to_owned()),
            Why::BehindReplica => ("behind", "it does not work with the newest roots yet, or federated meshes have not had the time to fetch them".to_owned()),
        };
        Self { name: lack.name.clone(), reason, message, since, until }
    }
}

impl Holder {
    /// Whether what it shows matters: who is not connected and whose certificate has ended does not.
    fn counts(&self, proof: &super::rotation::Proof, now: i64) -> bool {
        match self.presence {
            Presence::Follows { .. } | Presence::Unfollowing => true,
            Presence::Offline { .. } => self.ends > now,
            Presence::Delegated => self.ends > now && matches!(proof, super::rotation::Proof::Holds(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_for_a_program_is_told_how_to_go_on_without() {
        let message = |name: &str| Waiting::of(&Lack { name: name.to_owned(), why: Why::OtherRoot }).message;
        let program = message("shop/agent for spiffe://mesh.local/ns/shop/sa/job");
        assert!(
            program.ends_with("--without 'shop/agent for spiffe://mesh.local/ns/shop/sa/job'"),
            "{program}"
        );
        assert_eq!(message("shop/web"), "its certificate is under another root still");
    }
}

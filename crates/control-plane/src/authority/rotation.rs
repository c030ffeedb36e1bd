//! Replacing the root, as a pure state machine: what is recorded and what is known in, the next step out.
//!
//! ```text
//! idle → added ─────────────→ switched ──────────────→ removed
//!        every peer trusts    every peer's certificate
//!        the next root        is under the next root
//! ```
//!
//! What is recorded ([`Rotation`]) is an intention; how far it has come, the authority's own roots say ([`Roots`]). So
//! no crash between two writes leaves two stories: whoever goes on looks at both, and each step is one that does nothing
//! where it is done already.
//!
//! Aborted before the switch, the next root is withdrawn; after it, the earlier root signs again, and the next one
//! is withdrawn once no peer's certificate is under it any more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A rotation as it is recorded. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rotation {
    /// Counts rotations, from 1.
    pub(crate) number: u64,
    /// The root that it replaces, by fingerprint.
    pub(crate) from: String,
    /// The root that takes its place; none until it is made.
    pub(crate) to: Option<String>,
    pub(crate) course: Course,
    /// Whether certificates under the next root may be out: noted before the first can be.
    pub(crate) is_switched: bool,
    /// Who is not waited for, as `NAMESPACE/NAME`.
    pub(crate) without: BTreeSet<String>,
    /// Whether nobody is waited for who is not connected.
    pub(crate) without_offline: bool,
    /// Who started it.
    pub(crate) by: String,
    /// When, in seconds since 1970.
    pub(crate) started_at: i64,
    /// When the last step was done, in seconds since 1970.
    pub(crate) changed_at: i64,
    /// How it ended.
    pub(crate) end: Option<End>,
    /// Why the last step could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// Where a rotation is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Course {
    /// To the next root.
    Forward,
    /// It is aborted: to the root that was there.
    Back,
}

/// How a rotation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum End {
    /// The earlier root is trusted no more.
    Removed,
    /// Everything is as it was.
    Aborted,
    /// The authority's roots are not those of the rotation any more: somebody put others there.
    Lost,
}

/// The authority's roots, by fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roots {
    /// Under which certificates are signed.
    pub(crate) active: String,
    /// Trusted, and not used yet; several only where they are plugged in.
    pub(crate) next: Vec<String>,
    /// Still trusted, and not used any more.
    pub(crate) previous: Option<String>,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Step {
    /// The next root is about to be made.
    Starting,
    /// The next root is made and told of; all are to trust it.
    Added,
    /// Certificates are under the next root; all are to have one.
    Switched,
    /// Certificates are under the earlier root again; all are to have one.
    SwitchedBack,
    /// The earlier root is trusted no more.
    Removed,
    /// Everything is as it was.
    Aborted,
    /// The authority's roots are others.
    Lost,
}

/// What is to be shown of everybody before a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// They trust this root.
    Trusts(String),
    /// Their certificate is under this root.
    Holds(String),
}

/// Something to do; doing it again does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a next root, if there is none.
    Add,
    /// Note that the next root is this one.
    Note(String),
    /// Note that certificates under the next root may be out from now on.
    NoteSwitch,
    /// Sign under this root, the next one.
    Switch(String),
    /// Sign under this root, the earlier one.
    SwitchBack(String),
    /// Trust this root no more, the earlier one.
    Remove(String),
    /// Trust this root no more, the next one.
    Withdraw(String),
    /// Note how it ended.
    End(End),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This.
    Do(Action),
    /// Nothing yet: these lack what is to be shown.
    Wait(Vec<Lack>),
    /// Nothing: there is no rotation that has not ended.
    Rest,
}

/// All that is known of those who are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Control planes of the mesh, this one included.
    pub(crate) replicas: Vec<Replica>,
    pub(crate) holders: Vec<Holder>,
    /// When the last token ends that the key beside a root has signed, by root, in seconds since 1970.
    pub(crate) tokens: BTreeMap<String, i64>,
    /// Now, in seconds since 1970.
    pub(crate) now: i64,
}

/// A control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) name: String,
    /// Nothing where it has not said anything lately.
    pub(crate) said: Option<Said>,
}

/// What a control plane says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The roots that it tells its peers to trust.
    pub(crate) trusts: BTreeSet<String>,
    /// The root under which it signs.
    pub(crate) issuer: String,
}

/// Somebody who has a certificate, or may have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// `NAMESPACE/NAME`; for a workload of an agent, with its identity.
    pub(crate) name: String,
    pub(crate) presence: Presence,
    /// The roots that it acknowledged to trust.
    pub(crate) trusts: BTreeSet<String>,
    /// The root of the last certificate that is known of it.
    pub(crate) root: Option<String>,
    /// When its last certificate ends, at the latest, in seconds since 1970.
    pub(crate) ends: i64,
}

/// What somebody shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It follows trust. `refusal` are its words, where it refused the newest.
    Follows { refusal: Option<String> },
    /// It is connected, and follows no trust: its agent is of an earlier version, or not running.
    Unfollowing,
    /// It is not connected; since when, in seconds since 1970, where that is known.
    Offline { since: Option<i64> },
    /// An agent holds its certificate, and follows trust for it.
    Delegated,
}

/// Somebody who lacks what is to be shown, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) name: String,
    pub(crate) why: Why,
}

/// Why a proof is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has not acknowledged the root yet.
    NotAcknowledged,
    /// It refuses the trust that it was given.
    Refuses(String),
    /// It is connected, but follows no trust.
    Unfollowing,
    /// Its certificate is under another root still.
    OtherRoot,
    /// It is not connected, and may come back with what it had: since when, and when its certificate has ended for sure.
    Offline { since: Option<i64>, until: i64 },
    /// Tokens that the key beside the root has signed are good until then, in seconds since 1970.
    Tokens { until: i64 },
    /// A control plane that has not said how far it is.
    SilentReplica,
    /// A control plane that does not work with the newest roots yet.
    BehindReplica,
}

impl Rotation {
    /// Begins a rotation from what the roots are: where they are in the midst of one whose record is lost, it goes on.
    pub(crate) fn begin(number: u64, roots: &Roots, by: String, now: i64) -> Self {
        let (from, to, is_switched) = match &roots.previous {
            Some(previous) => (previous.clone(), Some(roots.active.clone()), true),
            None => (roots.active.clone(), roots.next.first().cloned(), false),
        };
        Self {
            number,
            from,
            to,
            course: Course::Forward,
            is_switched,
            without: BTreeSet::new(),
            without_offline: false,
            by,
            started_at: now,
            changed_at: now,
            end: None,
            trouble: None,
        }
    }

    /// How far it is.
    pub(crate) fn step(&self, roots: &Roots) -> Step {
        let is_to = self.to.as_deref() == Some(&roots.active);
        match (&self.end, self.course) {
            (Some(End::Removed), _) => Step::Removed,
            (Some(End::Aborted), _) => Step::Aborted,
            (Some(End::Lost), _) => Step::Lost,
            (None, _) if is_to => Step::Switched,
            (None, Course::Back) if self.is_switched => Step::SwitchedBack,
            (None, _) if roots.next.is_empty() || self.to.is_none() => Step::Starting,
            (None, _) => Step::Added,
        }
    }

    /// What comes next.
    pub(crate) fn next(&self, roots: &Roots, facts: &Facts) -> Next {
        if self.end.is_some() {
            return Next::Rest;
        }
        let is_from = self.from == roots.active;
        match (self.course, &self.to) {
            (Course::Forward, to) if is_from => self.to_switch(to.as_ref(), roots, facts),
            (Course::Back, to) if is_from => self.to_withdraw(to.as_ref(), roots, facts),
            (course, Some(to)) if *to == roots.active => self.to_remove(course, to, roots, facts),
            _ => Next::Do(Action::End(End::Lost)),
        }
    }

    /// On the earlier root, and ahead.
    fn to_switch(&self, to: Option<&String>, roots: &Roots, facts: &Facts) -> Next {
        match (to, roots.next.first()) {
            (Some(to), _) if roots.next.contains(to) => self.after(&Proof::Trusts(to.clone()), facts, || {
                if self.is_switched { Action::Switch(to.clone()) } else { Action::NoteSwitch }
            }),
            // Certificates under it may be out, and it is gone.
            _ if self.is_switched => Next::Do(Action::End(End::Lost)),
            (_, Some(next)) => Next::Do(Action::Note(next.clone())),
            (_, None) => Next::Do(Action::Add),
        }
    }

    /// On the earlier root, and on the way back.
    fn to_withdraw(&self, to: Option<&String>, roots: &Roots, facts: &Facts) -> Next {
        match (to, roots.next.first()) {
            (Some(to), _) if roots.next.contains(to) && self.is_switched => {
                self.after(&Proof::Holds(self.from.clone()), facts, || Action::Withdraw(to.clone()))
            }
            (Some(to), _) if roots.next.contains(to) => Next::Do(Action::Withdraw(to.clone())),
            (None, Some(next)) => Next::Do(Action::Note(next.clone())),
            _ => Next::Do(Action::End(End::Aborted)),
        }
    }

    /// On the next root, whether ahead or on the way back.
    fn to_remove(&self, course: Course, to: &str, roots: &Roots, facts: &Facts) -> Next {
        match (course, &roots.previous) {
            // Nothing is left to go back to.
            (_, None) => Next::Do(Action::End(End::Removed)),
            (_, Some(previous)) if *previous != self.from => Next::Do(Action::End(End::Lost)),
            (Course::Back, Some(previous)) => Next::Do(Action::SwitchBack(previous.clone())),
            (Course::Forward, Some(previous)) => {
                self.after(&Proof::Holds(to.to_owned()), facts, || Action::Remove(previous.clone()))
            }
        }
    }

    fn after(&self, proof: &Proof, facts: &Facts, action: impl FnOnce() -> Action) -> Next {
        let lacks = self.waiting(proof, facts);
        if lacks.is_empty() { Next::Do(action()) } else { Next::Wait(lacks) }
    }

    /// Who lacks what is to be shown, but those who are not waited for.
    pub(crate) fn waiting(&self, proof: &Proof, facts: &Facts) -> Vec<Lack> {
        let replicas = facts.replicas.iter().filter_map(|replica| replica.lacks(proof));
        let holders = facts.holders.iter().filter_map(|holder| holder.lacks(proof, facts.now));
        let tokens = facts.tokens(proof);
        replicas.chain(holders).chain(tokens).filter(|lack| !self.goes_without(lack)).collect()
    }

    fn goes_without(&self, lack: &Lack) -> bool {
        let is_offline = matches!(lack.why, Why::Offline { .. });
        let is_ours = matches!(lack.why, Why::SilentReplica | Why::BehindReplica | Why::Tokens { .. });
        !is_ours && (is_offline && self.without_offline || self.without.contains(&lack.name))
    }

    /// What is to be shown before the next step, while it is waited for.
    pub(crate) fn proof(&self, roots: &Roots) -> Option<Proof> {
        match self.step(roots) {
            Step::Added if self.course == Course::Forward => self.to.clone().map(Proof::Trusts),
            Step::Switched if self.course == Course::Forward => self.to.clone().map(Proof::Holds),
            Step::SwitchedBack => Some(Proof::Holds(self.from.clone())),
            _ => None,
        }
    }
}

impl Facts {
    /// Tokens that would be good for nothing any more. A key for tokens goes with the root that it stands beside.
    fn tokens(&self, proof: &Proof) -> Option<Lack> {
        let Proof::Holds(root) = proof else { return None };
        let others = self.tokens.iter().filter(|(of, _)| *of != root);
        let until = others.map(|(_, ends)| *ends).max().filter(|ends| *ends > self.now)?;
        Some(Lack { name: "tokens".to_owned(), why: Why::Tokens { until } })
    }

    /// Whether anybody is connected whom a step concerns.
    pub(crate) fn has_connected(&self) -> bool {
        self.holders.iter().any(|holder| !matches!(holder.presence, Presence::Offline { .. }))
    }
}

impl Replica {
    fn lacks(&self, proof: &Proof) -> Option<Lack> {
        let why = match (&self.said, proof) {
            (None, _) => Why::SilentReplica,
            (Some(said), Proof::Trusts(root)) if said.trusts.contains(root) => return None,
            (Some(said), Proof::Holds(root)) if said.issuer == *root => return None,
            (Some(_), _) => Why::BehindReplica,
        };
        Some(Lack { name: format!("control plane {}", self.name), why })
    }
}

impl Holder {
    /// Why it lacks what is to be shown. Whose certificate has ended cannot be locked out: it needs a new one anyway.
    pub(crate) fn lacks(&self, proof: &Proof, now: i64) -> Option<Lack> {
        let holds = |root: &String| self.root.as_ref() == Some(root);
        let shows = match proof {
            // Who left with a certificate under a root trusts that root: it would not have taken it else.
            Proof::Trusts(root) if matches!(self.presence, Presence::Offline { .. }) => {
                self.trusts.contains(root) || holds(root)
            }
            Proof::Trusts(root) => self.trusts.contains(root),
            Proof::Holds(root) => holds(root),
        };
        let may_come_back = matches!(self.presence, Presence::Offline { .. } | Presence::Delegated);
        let is_told_for = matches!((&self.presence, proof), (Presence::Delegated, Proof::Trusts(_)));
        let is_seen = self.presence != Presence::Unfollowing;
        if shows && is_seen || may_come_back && self.ends <= now || is_told_for {
            return None;
        }
        let why = match (&self.presence, proof) {
            (Presence::Unfollowing, _) => Why::Unfollowing,
            (Presence::Offline { since }, _) => Why::Offline { since: *since, until: self.ends },
            (Presence::Follows { refusal: Some(words) }, Proof::Trusts(_)) => Why::Refuses(words.clone()),
            (Presence::Follows { .. }, Proof::Trusts(_)) => Why::NotAcknowledged,
            (Presence::Follows { .. }, Proof::Holds(_)) | (Presence::Delegated, _) => Why::OtherRoot,
        };
        Some(Lack { name: self.name.clone(), why })
    }
}

#[cfg(test)]
mod tests;

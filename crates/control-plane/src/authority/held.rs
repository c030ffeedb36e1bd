//! Which certificates each workload may hold, as far as this process signed them or saw them shown.
//!
//! A workload that shows a certificate has given up those it had before. One that was signed and not shown yet may have
//! been lost on its way, so that the one before still counts. Which workload a renewal is for is told by the
//! certificate that is shown for it: its line leads back to a join token, or to a stream that says a name.
//!
//! Nothing of this is on disk: of what was signed before this process began, nobody knows but that it ends within the
//! longest life of a certificate.

use std::collections::BTreeMap;

use meshwork_model::mesh::Key;
use meshwork_model::spiffe::SpiffeId;

/// The most certificates of one workload that are told apart; more means that it renews again and again, and shows none.
const MAX_PENDING: usize = 8;

/// How often it is looked for what has ended, in seconds: a herd of renewals does not pay for it each time.
const FORGET_EVERY: i64 = 60;

/// A certificate, as far as rotation asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) serial: String,
    /// The root that it leads to; none where it is one that is not trusted any more.
    pub(super) root: Option<String>,
    /// When it ends, in seconds since 1970.
    pub(super) ends: i64,
}

/// For whom a certificate is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// This workload, as its token says.
    Workload(Key),
    /// Who showed a certificate with this serial number.
    Shown(String),
    /// A workload of an agent, which holds it: the one that showed a certificate with this serial number, or else this one.
    Agent(Option<String>, Key),
}

/// What a workload may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    /// The root of all that it may hold; none where they are under several.
    pub(super) root: Option<String>,
    /// When the last of them ends, in seconds since 1970.
    pub(super) ends: i64,
    /// When it showed one last, in seconds since 1970; 0 where it never did.
    pub(super) shown: i64,
    /// When one was signed for it last; 0 where that was not here.
    pub(super) issued: i64,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Held {
    workloads: BTreeMap<Key, Pending>,
    /// Workloads by the serial numbers of what they hold.
    lines: BTreeMap<String, Key>,
    /// What agents hold for others: the last certificate of each, and when it was signed.
    delegated: BTreeMap<(Key, SpiffeId), (Certificate, i64)>,
    /// When the last certificate ends of an identity that was signed for nobody knows which of its workloads.
    strays: BTreeMap<SpiffeId, i64>,
    /// When it was last looked for what has ended.
    forgot: i64,
}

/// What one workload may hold.
#[derive(Debug, Default)]
struct Pending {
    /// In the order in which they were signed or shown.
    certificates: Vec<Certificate>,
    shown: i64,
    issued: i64,
}

impl Held {
    /// A certificate was signed.
    pub(super) fn issued(&mut self, id: &SpiffeId, whom: For, certificate: Certificate, now: i64) {
        if now - self.forgot >= FORGET_EVERY {
            self.forget(now);
        }
        let workload = match whom {
            For::Workload(workload) => workload,
            For::Agent(shown, agent) => {
                let agent = shown.and_then(|serial| self.lines.get(&serial).cloned()).unwrap_or(agent);
                self.delegated.insert((agent, id.clone()), (certificate, now));
                return;
            }
            For::Shown(serial) => {
                if let Some(workload) = self.lines.get(&serial) {
                    workload.clone()
                } else {
                    let ends = self.strays.entry(id.clone()).or_default();
                    *ends = (*ends).max(certificate.ends);
                    return;
                }
            }
        };
        self.lines.insert(certificate.serial.clone(), workload.clone());
        let pending = self.workloads.entry(workload).or_default();
        pending.issued = now;
        if let Some(given_up) = pending.add(certificate) {
            self.lines.remove(&given_up);
        }
    }

    /// A workload showed a certificate: it has given up what it had before.
    pub(super) fn shown(&mut self, workload: &Key, certificate: Certificate, now: i64) {
        let pending = self.workloads.entry(workload.clone()).or_default();
        pending.shown = now;
        let known = pending.certificates.iter().position(|one| one.serial == certificate.serial);
        for gone in pending.certificates.drain(..known.unwrap_or(pending.certificates.len())) {
            self.lines.remove(&gone.serial);
        }
        if known.is_none() {
            self.lines.insert(certificate.serial.clone(), workload.clone());
            pending.certificates.push(certificate);
        }
    }

    /// What a workload may hold; none where nothing is known of it.
    pub(super) fn of(&self, workload: &Key) -> Option<Holding> {
        let pending = self.workloads.get(workload)?;
        let first = pending.certificates.first()?;
        let is_one = pending.certificates.iter().all(|one| one.root == first.root);
        Some(Holding {
            root: first.root.clone().filter(|_| is_one),
            ends: pending.certificates.iter().map(|one| one.ends).max().unwrap_or_default(),
            shown: pending.shown,
            issued: pending.issued,
        })
    }

    /// When the last certificate ends that an identity has for nobody knows which of its workloads.
    pub(super) fn stray(&self, id: &SpiffeId) -> i64 {
        self.strays.get(id).copied().unwrap_or_default()
    }

    /// What agents hold for others.
    pub(super) fn delegated(&self) -> impl Iterator<Item = (&Key, &SpiffeId, Holding)> {
        self.delegated.iter().map(|((agent, id), (certificate, issued))| {
            let (root, ends) = (certificate.root.clone(), certificate.ends);
            (agent, id, Holding { root, ends, shown: 0, issued: *issued })
        })
    }

    /// When a certificate ends that somebody holds; none where it is not known.
    pub(super) fn end_of(&self, serial: &str) -> Option<i64> {
        let of_workload = self.lines.get(serial).and_then(|workload| self.workloads.get(workload));
        let pending = of_workload.into_iter().flat_map(|pending| &pending.certificates);
        let mut all = pending.chain(self.delegated.values().map(|(certificate, _)| certificate));
        all.find(|one| one.serial == serial).map(|one| one.ends)
    }

    /// Who holds a certificate, for people: a workload, or an agent for somebody; none where it is not known.
    pub(super) fn holder(&self, serial: &str) -> Option<String> {
        let workload = self.lines.get(serial).map(Key::to_string);
        let delegated = || self.delegated.iter().find(|(_, (certificate, _))| certificate.serial == serial);
        workload.or_else(|| delegated().map(|((agent, id), _)| format!("{agent} for {id}")))
    }

    /// The serial numbers of all that somebody is known to hold.
    pub(super) fn serials(&self) -> impl Iterator<Item = &str> {
        let delegated = self.delegated.values().map(|(certificate, _)| certificate.serial.as_str());
        self.lines.keys().map(String::as_str).chain(delegated)
    }

    /// Forgets what has ended, and so says nothing any more.
    pub(super) fn forget(&mut self, now: i64) {
        self.forgot = now;
        let lines = &mut self.lines;
        self.workloads.retain(|_, pending| {
            let is_over = pending.certificates.iter().all(|one| one.ends <= now);
            if is_over {
                for gone in &pending.certificates {
                    lines.remove(&gone.serial);
                }
            }
            !is_over
        });
        self.delegated.retain(|_, (certificate, _)| certificate.ends > now);
        self.strays.retain(|_, ends| *ends > now);
    }
}

impl Pending {
    /// Adds a certificate; gives the serial number of one that is not told apart any more.
    fn add(&mut self, certificate: Certificate) -> Option<String> {
        self.certificates.push(certificate);
        if self.certificates.len() <= MAX_PENDING {
            return None;
        }
        // What the first two were is one from now on: under a root that is both's, if any, and as long as both.
        let first = self.certificates.remove(0);
        if let Some(second) = self.certificates.first_mut() {
            second.ends = second.ends.max(first.ends);
            second.root = second.root.take().filter(|root| first.root.as_ref() == Some(root));
        }
        Some(first.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Key {
        Key::new("shop", "web-1")
    }

    fn id() -> SpiffeId {
        SpiffeId::workload("mesh.local", "shop", "web").expect("valid")
    }

    fn certificate(serial: &str, root: &str, ends: i64) -> Certificate {
        Certificate { serial: serial.to_owned(), root: Some(root.to_owned()), ends }
    }

    fn check(held: &Held, root: Option<&str>, ends: i64) {
        let holding = held.of(&web()).expect("known");
        assert_eq!((holding.root.as_deref(), holding.ends), (root, ends), "{held:?}");
    }

    #[test]
    fn what_was_signed_counts_beside_what_was_before_until_it_is_shown() {
        let mut held = Held::default();
        held.issued(&id(), For::Workload(web()), certificate("1", "a", 100), 1);
        check(&held, Some("a"), 100);
        held.shown(&web(), certificate("1", "a", 100), 2);
        held.issued(&id(), For::Shown("1".to_owned()), certificate("2", "b", 150), 50);
        check(&held, None, 150);
        held.shown(&web(), certificate("2", "b", 150), 51);
        check(&held, Some("b"), 150);
        assert_eq!(held.of(&web()).map(|holding| (holding.shown, holding.issued)), Some((51, 50)));
        assert_eq!((held.end_of("2"), held.end_of("1")), (Some(150), None));
        assert_eq!((held.holder("2").as_deref(), held.holder("1")), (Some("shop/web-1"), None));
        assert_eq!(held.serials().collect::<Vec<_>>(), ["2"]);
        held.forget(150);
        assert_eq!(held.of(&web()), None);
        assert!(held.lines.is_empty());
    }

    #[test]
    fn a_certificate_from_before_is_known_once_it_is_shown() {
        let mut held = Held::default();
        // A renewal of nobody knows which workload.
        held.issued(&id(), For::Shown("7".to_owned()), certificate("8", "a", 100), 1);
        assert_eq!((held.of(&web()), held.stray(&id())), (None, 100));
        held.shown(&web(), certificate("8", "a", 100), 2);
        check(&held, Some("a"), 100);
        held.issued(&id(), For::Shown("8".to_owned()), certificate("9", "a", 160), 60);
        check(&held, Some("a"), 160);
        held.forget(100);
        assert_eq!(held.stray(&id()), 0);
    }

    #[test]
    fn renewals_that_are_never_shown_take_no_more_room_and_are_not_taken_for_good() {
        let mut held = Held::default();
        held.issued(&id(), For::Workload(web()), certificate("0", "a", 500), 1);
        for serial in 1..=20 {
            let one = certificate(&serial.to_string(), "b", 100 + serial);
            held.issued(&id(), For::Shown("0".to_owned()), one.clone(), serial);
            // The first one's line is given up with it.
            held.issued(&id(), For::Workload(web()), one, serial);
        }
        assert!(held.workloads[&web()].certificates.len() <= MAX_PENDING);
        check(&held, None, 500);
    }

    #[test]
    fn what_an_agent_holds_is_kept_by_identity() {
        let mut held = Held::default();
        let agent = Key::new("shop", "agent");
        for (serial, root) in [("1", "a"), ("2", "b")] {
            held.issued(&id(), For::Agent(None, agent.clone()), certificate(serial, root, 100), 1);
        }
        let all: Vec<_> = held.delegated().map(|(key, id, one)| (key.clone(), id.clone(), one)).collect();
        let holding = Holding { root: Some("b".to_owned()), ends: 100, shown: 0, issued: 1 };
        assert_eq!(all, [(agent.clone(), id(), holding)]);
        assert_eq!((held.end_of("2"), held.end_of("1")), (Some(100), None));
        let holder = format!("shop/agent for {}", id());
        assert_eq!((held.holder("2"), held.holder("1")), (Some(holder), None));
        // Agents of several hosts have one identity.
        let other = Key::new("shop", "agent-2");
        held.shown(&other, certificate("7", "a", 90), 2);
        held.issued(&id(), For::Agent(Some("7".to_owned()), agent.clone()), certificate("3", "a", 100), 2);
        assert_eq!(held.delegated().map(|(key, ..)| key).collect::<Vec<_>>(), [&agent, &other]);
        held.forget(100);
        assert_eq!(held.delegated().count(), 0);
    }
}

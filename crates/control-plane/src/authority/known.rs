//! Who has what somebody revokes, as far as this control plane knows: a revocation of nobody is kept, and is told from
//! one of somebody.
//!
//! Workloads are known by their enrolments and registrations, which are in the store. Certificates are known while this
//! process signed them last or saw them shown: of one from before, of another control plane's, and of one that was
//! renewed since, nothing is known.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_identity::{Bundle, SpiffeId};
use meshwork_model::mesh::Key;

use super::record::Subject;
use super::status::text;
use super::{Authority, now};
use crate::ingest::closest;

/// The most names that are suggested: more would be a list, not a hint.
const MAX_NEAR: usize = 3;
/// So many digits are no accident, where a serial number begins or ends with them.
const MIN_DIGITS: usize = 6;

/// What is known of somebody, or of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Who has it, for people; empty where nobody is known to.
    pub(crate) holders: Vec<String>,
    /// What else it may have been meant to be, the most likely first; empty where somebody has it.
    pub(crate) near: Vec<String>,
    /// What there is to say where nobody is known to have it.
    pub(crate) note: Option<String>,
}

impl Authority {
    /// Who has what is to be revoked. That it is revoked changes nothing about that.
    pub(crate) fn known(&self, subject: &Subject) -> Known {
        match subject {
            Subject::Identity(id) => self.known_identity(id),
            Subject::Serial(serial) => self.known_certificate(serial),
        }
    }

    /// Revocations that one which there is not may have been meant to be.
    pub(super) fn near_revocations(&self, subject: &Subject) -> Vec<String> {
        let all = self.revocations();
        let named = all.iter().filter_map(|revoked| match (&revoked.subject, subject) {
            (Subject::Identity(name), Subject::Identity(_)) | (Subject::Serial(name), Subject::Serial(_)) => {
                Some(name.clone())
            }
            _ => None,
        });
        match subject {
            Subject::Identity(id) => near_identities(id, &named.collect::<Vec<_>>()),
            Subject::Serial(serial) => near_serials(serial, &named.collect()),
        }
    }

    fn known_identity(&self, id: &str) -> Known {
        let trust_domain = self.own.id().trust_domain();
        let mesh = self.world.mesh();
        let registered = mesh.config.registrations.values().filter_map(|one| {
            Some((format!("WorkloadRegistration {}", one.key), one.identity(trust_domain).ok()?))
        });
        let enrolled = self.world.enrolled_identities();
        let mut all: Vec<(String, SpiffeId)> =
            enrolled.iter().map(|(workload, id)| (workload.to_string(), id.clone())).collect();
        all.extend(registered);
        let (delegated, is_stray) = {
            let state = self.lock();
            let held = |(agent, id, _): (&Key, &SpiffeId, _)| (format!("{agent} for {id}"), id.clone());
            let stray = SpiffeId::parse(id).is_ok_and(|id| state.held.stray(&id) > now());
            (state.held.delegated().map(held).collect::<Vec<_>>(), stray)
        };
        all.extend(delegated);
        let mut holders: Vec<String> =
            all.iter().filter(|(_, one)| one.as_str() == id).map(|(name, _)| name.clone()).collect();
        if is_stray && holders.is_empty() {
            holders.push("a workload that is not enrolled any more".to_owned());
        }
        if !holders.is_empty() {
            return Known { holders, near: Vec::new(), note: None };
        }
        // People take a workload's name for that of its account.
        let asked = short(id);
        let by_name = enrolled.iter().filter(|(workload, _)| asked == Some(workload.to_string()));
        let mut near: Vec<String> = by_name.map(|(_, id)| id.to_string()).collect();
        let names: BTreeSet<String> = all.iter().map(|(_, id)| id.to_string()).collect();
        let names: Vec<String> = names.into_iter().filter(|id| !near.contains(id)).collect();
        near.extend(near_identities(id, &names));
        near.truncate(MAX_NEAR);
        Known { holders, near, note: Some(self.stranger(id, trust_domain)) }
    }

    /// What there is to say of an identity that nobody is known to have.
    fn stranger(&self, id: &str, trust_domain: &str) -> String {
        let of = SpiffeId::parse(id).map(|id| id.trust_domain().to_owned()).unwrap_or_default();
        if of == trust_domain {
            return format!(
                "nobody is enrolled as {id}, and no WorkloadRegistration is about it: whoever comes with it later is \
                 refused"
            );
        }
        let trust = Arc::clone(&self.published.borrow().trust);
        if trust.federated().map(Bundle::trust_domain).any(|known| known == of) {
            return format!("who is {id} is known to {of} alone: whoever comes with it is refused");
        }
        format!("{of} is not federated with {trust_domain}: nobody of it is believed, revoked or not")
    }

    fn known_certificate(&self, serial: &str) -> Known {
        let (holder, serials) = {
            let state = self.lock();
            let signers = &state.read.intermediates;
            let signer = signers.iter().find(|(_, one)| one.serial == serial);
            let signer = signer.map(|(replica, _)| format!("control plane {replica}, which signs by it"));
            let serials = signers.values().map(|one| one.serial.as_str()).chain(state.held.serials());
            let serials: BTreeSet<String> = serials.map(ToOwned::to_owned).collect();
            (state.held.holder(serial).or(signer), serials)
        };
        if let Some(holder) = holder {
            return Known { holders: vec![holder], near: Vec::new(), note: None };
        }
        let note = format!(
            "this control plane knows nobody who has the certificate {serial}: since its start at {} it signed none of this \
             number that is in use, and saw nobody show it; it is refused all the same wherever it comes from",
            text(self.started)
        );
        Known { holders: Vec::new(), near: near_serials(serial, &serials), note: Some(note) }
    }
}

/// Identities that one may have been meant to be, the most likely first.
fn near_identities(id: &str, names: &[String]) -> Vec<String> {
    let mut near = Vec::new();
    // What is alike of two identities is not where they are of the same trust domain.
    let word = short(id).unwrap_or_else(|| id.to_owned());
    let shorts: Vec<String> = names.iter().map(|name| short(name).unwrap_or_else(|| name.clone())).collect();
    let mut left: Vec<&str> = shorts.iter().map(String::as_str).collect();
    while near.len() < MAX_NEAR {
        let Some(found) = closest(&word, &left) else { break };
        left.retain(|name| *name != found);
        near.extend(shorts.iter().position(|name| name == found).map(|at| names[at].clone()));
    }
    // The account is right, and the namespace is not.
    let account = |name: &str| name.split_once('/').map(|(_, account)| account.to_owned());
    let same = shorts.iter().zip(names).filter(|(one, _)| account(one) == account(&word));
    let same: Vec<String> = same.map(|(_, name)| name.clone()).filter(|name| !near.contains(name)).collect();
    near.extend(same);
    near.truncate(MAX_NEAR);
    near
}

/// `NAMESPACE/SERVICEACCOUNT` of an identity that has the mesh's form.
fn short(id: &str) -> Option<String> {
    let id = SpiffeId::parse(id).ok()?;
    id.namespace_and_account().map(|(namespace, account)| format!("{namespace}/{account}"))
}

/// Serial numbers that one may have been meant to be: those of which it is a part, and those that differ in some digits.
fn near_serials(serial: &str, serials: &BTreeSet<String>) -> Vec<String> {
    let is_part = |one: &&String| {
        let (short, long) =
            if serial.len() < one.len() { (serial, one.as_str()) } else { (one.as_str(), serial) };
        short.len() >= MIN_DIGITS && (long.starts_with(short) || long.ends_with(short))
    };
    let parts = serials.iter().filter(is_part);
    let alike = closest(serial, &serials.iter().map(String::as_str).collect::<Vec<_>>());
    let alike = alike.map(ToOwned::to_owned).filter(|_| serial.len() >= MIN_DIGITS);
    let parts = parts.filter(|one| alike.as_ref() != Some(*one)).cloned();
    let mut near: Vec<String> = alike.iter().cloned().chain(parts).collect();
    near.truncate(MAX_NEAR);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(short: &str) -> String {
        let (namespace, account) = short.split_once('/').expect("a short form");
        format!("spiffe://mesh.local/ns/{namespace}/sa/{account}")
    }

    #[test]
    fn identities_that_were_meant_are_found() {
        let names: Vec<String> = ["shop/web", "shop/cart", "bank/web", "bank/vault"].map(id).into();
        let check = |word: &str, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|short| id(short)).collect();
            assert_eq!(near_identities(&id(word), &names), expected, "{word}");
        };
        check("shop/wbe", &["shop/web"]);
        check("shop/crat", &["shop/cart"]);
        check("default/vault", &["bank/vault"]);
        check("default/web", &["shop/web", "bank/web"]);
        check("warehouse/robot", &[]);
        let foreign = "spiffe://partner.example/one/two";
        assert_eq!(near_identities("spiffe://partner.example/one/tow", &[foreign.to_owned()]), [foreign]);
    }

    #[test]
    fn serial_numbers_that_were_meant_are_found() {
        let serials: BTreeSet<String> =
            ["5f3a9c01d2e4b6a8", "5f3a9c77aaaaaaaa", "1"].map(str::to_owned).into();
        let check = |word: &str, expected: &[&str]| {
            assert_eq!(near_serials(word, &serials), expected, "{word}");
        };
        check("5f3a9c01", &["5f3a9c01d2e4b6a8"]);
        check("5f3a9c", &["5f3a9c01d2e4b6a8", "5f3a9c77aaaaaaaa"]);
        check("d2e4b6a8", &["5f3a9c01d2e4b6a8"]);
        check("5f3a9c01d2e4b68a", &["5f3a9c01d2e4b6a8"]);
        check("5f3a", &[]);
        check("2", &[]);
        check("0123456789abcdef", &[]);
    }
}

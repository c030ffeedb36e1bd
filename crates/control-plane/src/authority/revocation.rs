//! Who is no longer believed: by identity, for good; or by the serial number of one certificate, until that ends.

use meshwork_identity::{IdentityError, Revocations, SpiffeId};
use meshwork_xds::grpc::printable;

use super::record::{self, Read, Revoked, Subject};
use super::{Authority, now};
use crate::store::KvError;

/// The most identities that are revoked: each is a rule of every inbound listener.
const MAX_IDENTITIES: usize = 1_000;
/// The most serial numbers: every peer holds all of them.
const MAX_SERIALS: usize = 10_000;
/// Hexadecimal digits of a serial number. Source: RFC 5280 §4.1.2.2, 20 bytes.
const MAX_SERIAL_DIGITS: usize = 40;
/// The longest reason.
const MAX_REASON_BYTES: usize = 1_024;

/// Why a revocation is not kept, or not taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    /// It is no such thing, or must not be revoked.
    #[error("{0}")]
    Invalid(String),
    /// There is none to take back.
    #[error("{what} is not revoked; `meshwork ca revocations` lists who is{}", did_you_mean(near))]
    Unknown {
        /// What was to be taken back.
        what: String,
        /// Revocations that there are, and that may have been meant.
        near: Vec<String>,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] KvError),
    /// It is kept, and this control plane cannot act on it.
    #[error("the revocation is kept, and other control planes act on it; this one cannot: {0}")]
    Publish(#[from] IdentityError),
}

impl Subject {
    /// Reads what is to be revoked: an identity or a serial number. `NAMESPACE/SERVICEACCOUNT` is an identity of one's own
    /// trust domain.
    ///
    /// # Errors
    /// There is none, both, or one that is not well-formed.
    fn read(trust_domain: &str, identity: Option<&str>, serial: Option<&str>) -> Result<Self, RevokeError> {
        let invalid = |message: String| RevokeError::Invalid(message);
        match (identity, serial) {
            (Some(identity), None) => {
                let short = identity.split_once('/').filter(|_| !identity.contains(':'));
                let id = match short {
                    Some((namespace, account)) => SpiffeId::workload(trust_domain, namespace, account),
                    None => SpiffeId::parse(identity),
                };
                let expected = "expected NAMESPACE/SERVICEACCOUNT, such as shop/web, or spiffe://TRUST-DOMAIN/ns/shop/sa/web";
                let id = id
                    .map_err(|error| invalid(format!("{identity:?} is no SPIFFE ID: {error}; {expected}")))?;
                Ok(Self::Identity(id.to_string()))
            }
            (None, Some(serial)) => {
                let digits: String = serial.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
                let digits = digits.trim_start_matches("0x").trim_start_matches('0').to_ascii_lowercase();
                let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                if digits.is_empty() || digits.len() > MAX_SERIAL_DIGITS || !is_hex {
                    let expected =
                        "expected up to 40 hexadecimal digits, as `openssl x509 -serial` prints them";
                    return Err(invalid(format!(
                        "{serial:?} is no serial number of a certificate; {expected}"
                    )));
                }
                Ok(Self::Serial(digits))
            }
            _ => Err(invalid("expected either an identity or a serial number".to_owned())),
        }
    }

    /// What it is, for people.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Identity(id) => format!("the identity {id}"),
            Self::Serial(serial) => format!("the certificate {serial}"),
        }
    }
}

/// What may have been meant, for a message; empty where nothing is near.
fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(", or ")),
    }
}

/// Revocations as peers are told of them.
pub(super) fn revocations(all: &[Revoked]) -> Revocations {
    let identities = all.iter().filter_map(|revoked| match &revoked.subject {
        Subject::Identity(id) => SpiffeId::parse(id).ok(),
        Subject::Serial(_) => None,
    });
    let serials = all.iter().filter_map(|revoked| match &revoked.subject {
        Subject::Serial(serial) => Some(serial.clone()),
        Subject::Identity(_) => None,
    });
    Revocations::new(identities, serials)
}

/// Whether a revocation is of an identity or of its certificate.
pub(super) fn concerns(revoked: &Revoked, id: &SpiffeId, serial: Option<&str>) -> bool {
    match &revoked.subject {
        Subject::Identity(identity) => identity == id.as_str(),
        Subject::Serial(one) => Some(one.as_str()) == serial,
    }
}

/// Says that somebody is revoked, and why.
pub(super) fn words(id: &SpiffeId, serial: Option<&str>, reason: &str) -> String {
    let what = match serial {
        Some(serial) => format!("the certificate {serial} of {id}"),
        None => id.to_string(),
    };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{what} is revoked{why}")
}

impl Authority {
    /// Reads what is to be revoked.
    ///
    /// # Errors
    /// As [`Subject::read`].
    pub(crate) fn subject(
        &self,
        identity: Option<&str>,
        serial: Option<&str>,
    ) -> Result<Subject, RevokeError> {
        Subject::read(self.own.id().trust_domain(), identity, serial)
    }

    /// Revokes an identity or a certificate: acts here at once, and at other control planes within moments. Blocks.
    ///
    /// # Errors
    /// It must not be revoked, there are too many, or the store fails.
    pub(crate) fn revoke(&self, subject: Subject, reason: &str, by: &str) -> Result<Revoked, RevokeError> {
        self.check_revocable(&subject)?;
        if reason.len() > MAX_REASON_BYTES {
            return Err(RevokeError::Invalid(format!("a reason has at most {MAX_REASON_BYTES} bytes")));
        }
        let read = Read::all(&*self.kv)?;
        for over in read.revoked.iter().filter(|revoked| revoked.ends.is_some_and(|ends| ends <= now())) {
            record::delete_revoked(&*self.kv, &over.subject)?;
        }
        let is_identity = matches!(subject, Subject::Identity(_));
        let limit = if is_identity { MAX_IDENTITIES } else { MAX_SERIALS };
        let same = read.revoked.iter().filter(|revoked| {
            matches!(revoked.subject, Subject::Identity(_)) == is_identity && revoked.subject != subject
        });
        if same.count() >= limit {
            let message =
                format!("{limit} are revoked already; take some back whose certificates have ended");
            return Err(RevokeError::Invalid(message));
        }
        let ends = match &subject {
            Subject::Serial(serial) => self.lock().held.end_of(serial),
            Subject::Identity(_) => None,
        };
        let revoked = Revoked { subject, reason: printable(reason), by: by.to_owned(), at: now(), ends };
        record::put_revoked(&*self.kv, &revoked)?;
        self.act_on_it()?;
        Ok(revoked)
    }

    /// Takes a revocation back. Blocks.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub(crate) fn unrevoke(&self, subject: &Subject) -> Result<(), RevokeError> {
        if !record::delete_revoked(&*self.kv, subject)? {
            return Err(RevokeError::Unknown { what: subject.words(), near: self.near_revocations(subject) });
        }
        self.act_on_it()
    }

    fn act_on_it(&self) -> Result<(), RevokeError> {
        self.take_in()?;
        Ok(self.publish()?)
    }

    /// All that is revoked.
    pub(crate) fn revocations(&self) -> Vec<Revoked> {
        self.lock().read.revoked.clone()
    }

    /// What the mesh would not outlive is not revoked.
    fn check_revocable(&self, subject: &Subject) -> Result<(), RevokeError> {
        let message = match subject {
            Subject::Identity(id) if id == self.own.id().as_str() => {
                "that is the control plane's own identity: without it nobody gets a certificate any more"
            }
            Subject::Serial(serial) if *serial == self.identity.svid().serial() => {
                "that is the control plane's own certificate: start the control plane anew first, then it has another"
            }
            Subject::Serial(serial) if *serial == self.signing.issuer().serial => {
                "that is the intermediate under which this control plane signs: replace it first, by `meshwork ca rotate`"
            }
            Subject::Serial(serial) if self.signing.roots().iter().any(|root| root.serial == *serial) => {
                "that is a root, whose number nobody looks at: replace it by `meshwork ca rotate`"
            }
            _ => return Ok(()),
        };
        Err(RevokeError::Invalid(message.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_revoked_is_an_identity_or_a_serial_number() {
        let check = |identity: Option<&str>, serial: Option<&str>, expected: Result<Subject, &str>| match (
            Subject::read("mesh.local", identity, serial),
            expected,
        ) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expected) => panic!("{found:?} in place of {expected:?}"),
        };
        let web = "spiffe://mesh.local/ns/shop/sa/web";
        check(Some(web), None, Ok(Subject::Identity(web.to_owned())));
        check(
            Some("spiffe://partner.example/x"),
            None,
            Ok(Subject::Identity("spiffe://partner.example/x".to_owned())),
        );
        check(None, Some("00:0A:bC"), Ok(Subject::Serial("abc".to_owned())));
        check(None, Some("0x1f"), Ok(Subject::Serial("1f".to_owned())));
        check(Some("shop/web"), None, Ok(Subject::Identity(web.to_owned())));
        for bad in ["", "web", "shop/web/x", "https://mesh.local/x", "spiffe://mesh.local"] {
            check(Some(bad), None, Err("is no SPIFFE ID"));
            check(Some(bad), None, Err("expected NAMESPACE/SERVICEACCOUNT"));
        }
        for bad in ["", "0", "xyz", "1/2", &"f".repeat(41)] {
            check(None, Some(bad), Err("is no serial number"));
        }
        check(None, None, Err("either an identity or a serial number"));
        check(Some(web), Some("1"), Err("either an identity or a serial number"));
    }

    #[test]
    fn reasons_are_told() {
        let id = SpiffeId::workload("mesh.local", "shop", "web").expect("valid");
        assert_eq!(words(&id, None, "stolen"), "spiffe://mesh.local/ns/shop/sa/web is revoked: stolen");
        let told = words(&id, Some("ab"), "");
        assert_eq!(told, "the certificate ab of spiffe://mesh.local/ns/shop/sa/web is revoked");
    }
}

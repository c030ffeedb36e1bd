//! Tokens, enrolments and leases as they are kept, and their keys.

use meshwork_model::mesh::{Key, Labels, Workload};
use serde::{Deserialize, Serialize};

use super::form;
use super::kv::{Change, Entry};
use super::{Enrolment, TokenRequest};
use crate::addresses::Addressee;

/// Join tokens, by hash.
pub(super) const TOKENS: &str = "/meshwork/tokens/";
/// What control planes tell each other of workloads.
pub(crate) const SHARED: &str = "/meshwork/workloads/";
/// Enrolments, by namespace and name; they come before leases.
pub(super) const ENROLMENTS: &str = "/meshwork/workloads/enrolments/";
/// Leases, by namespace and name.
pub(super) const LEASES: &str = "/meshwork/workloads/leases/";
/// Numbers of virtual addresses, by whose they are.
pub(super) const ADDRESSES: &str = "/meshwork/addresses/";
/// The last number that was given.
pub(super) const LAST_ADDRESS: &str = "/meshwork/last-address";

/// A join token. Fields are only ever added.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    namespace: String,
    service_account: String,
    workload: String,
    labels: Labels,
    /// Seconds since 1970.
    pub(super) expires_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<Used>,
}

/// What a token bought.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Used {
    /// The hash of the key that the certificate is for, in hexadecimal.
    pub(super) key: String,
    /// The chain, PEM.
    pub(super) certificate: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Enrolled {
    namespace: String,
    workload: String,
    service_account: String,
    labels: Labels,
    #[serde(rename = "enrolledAt")]
    at: i64,
}

/// A lease, and the control plane that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) workload: Workload,
    /// Empty where it was kept by a program that had no others beside it.
    pub(crate) replica: String,
}

/// What is told of a workload.
#[derive(Debug)]
pub(crate) enum Shared {
    Enrolled(Enrolment),
    Leased(Box<Lease>),
    Unleased(Key),
}

impl Shared {
    /// What a change tells, if anything.
    pub(crate) fn of(change: &Change) -> Option<Self> {
        match change {
            Change::Put(entry) => Self::of_entry(entry),
            Change::Deleted { key, .. } => leased(key).map(Self::Unleased),
        }
    }

    pub(super) fn of_entry(entry: &Entry) -> Option<Self> {
        if entry.key.starts_with(ENROLMENTS) {
            return enrolment_from_text(&entry.value).map(Self::Enrolled);
        }
        Lease::from_text(&entry.value).map(|lease| Self::Leased(Box::new(lease)))
    }

    /// Whose lease this is.
    pub(crate) fn leased(&self) -> Option<Key> {
        match self {
            Self::Leased(lease) => Some(lease.workload.key.clone()),
            Self::Enrolled(_) | Self::Unleased(_) => None,
        }
    }
}

impl Token {
    pub(super) fn new(request: &TokenRequest, expires_at: i64) -> Self {
        Self {
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            workload: request.workload.clone(),
            labels: request.labels.clone(),
            expires_at,
            used: None,
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whom it lets in.
    pub(super) fn enrolment(&self) -> Enrolment {
        Enrolment {
            workload: Key::new(&*self.namespace, &*self.workload),
            service_account: self.service_account.clone(),
            labels: self.labels.clone(),
        }
    }
}

pub(super) fn enrolment_to_text(enrolment: &Enrolment, enrolled_at: i64) -> String {
    let enrolled = Enrolled {
        namespace: enrolment.workload.namespace.to_string(),
        workload: enrolment.workload.name.to_string(),
        service_account: enrolment.service_account.clone(),
        labels: enrolment.labels.clone(),
        at: enrolled_at,
    };
    serde_json::to_string(&enrolled).unwrap_or_default()
}

pub(super) fn enrolment_from_text(text: &str) -> Option<Enrolment> {
    let enrolled: Enrolled = serde_json::from_str(text).ok()?;
    Some(Enrolment {
        workload: Key::new(enrolled.namespace, enrolled.workload),
        service_account: enrolled.service_account,
        labels: enrolled.labels,
    })
}

impl Lease {
    pub(super) fn to_text(workload: &Workload, replica: &str) -> String {
        let text = form::workload_to_text(workload);
        let Ok(serde_json::Value::Object(mut lease)) = serde_json::from_str(&text) else { return text };
        lease.insert("replica".to_owned(), replica.into());
        serde_json::Value::Object(lease).to_string()
    }

    /// A lease; `None` where it cannot be read any more.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let lease: serde_json::Value = serde_json::from_str(text).ok()?;
        let replica = lease.get("replica").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        Some(Self { workload: form::workload_from_text(text)?, replica })
    }
}

pub(super) fn token_key(hash: &[u8]) -> String {
    format!("{TOKENS}{}", hex(hash))
}

pub(super) fn enrolment_key(workload: &Key) -> String {
    format!("{ENROLMENTS}{}/{}", workload.namespace, workload.name)
}

pub(super) fn lease_key(workload: &Key) -> String {
    format!("{LEASES}{}/{}", workload.namespace, workload.name)
}

/// The workload of a lease's key.
pub(super) fn leased(key: &str) -> Option<Key> {
    let (namespace, name) = key.strip_prefix(LEASES)?.split_once('/')?;
    Some(Key::new(namespace, name))
}

pub(super) fn address_key(name: &Addressee) -> String {
    format!("{ADDRESSES}{name}")
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! Who is no longer believed, though a certificate of theirs may still be valid.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::spiffe::SpiffeId;

/// Revoked identities and certificates, immutable and cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    identities: Arc<BTreeSet<SpiffeId>>,
    serials: Arc<BTreeSet<String>>,
}

impl Revocations {
    /// Takes identities, and serial numbers of certificates in hexadecimal.
    pub fn new(
        identities: impl IntoIterator<Item = SpiffeId>,
        serials: impl IntoIterator<Item = String>,
    ) -> Self {
        let serials = serials.into_iter().map(|serial| plain(&serial)).collect();
        Self { identities: Arc::new(identities.into_iter().collect()), serials: Arc::new(serials) }
    }

    /// Whether an identity or one of its certificates, by serial number (as in [`crate::Svid::serial`]), is revoked.
    pub fn revokes(&self, id: &SpiffeId, serial: &str) -> bool {
        self.identities.contains(id) || self.revokes_serial(serial)
    }

    /// Whether a certificate is revoked, whoever it is for.
    pub fn revokes_serial(&self, serial: &str) -> bool {
        !self.serials.is_empty() && self.serials.contains(serial)
    }

    /// The revoked identities, sorted.
    pub fn identities(&self) -> impl Iterator<Item = &SpiffeId> {
        self.identities.iter()
    }

    /// The revoked serial numbers: lowercase hexadecimal without leading zeros, sorted as text.
    pub fn serials(&self) -> impl Iterator<Item = &str> {
        self.serials.iter().map(String::as_str)
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.serials.is_empty()
    }
}

/// The one way to write a serial number: lowercase, without colons and leading zeros.
fn plain(serial: &str) -> String {
    let digits: String = serial.chars().filter(|letter| *letter != ':').collect();
    match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::workload("mesh.local", "shop", account).expect("valid")
    }

    #[test]
    fn identities_and_serials_are_revoked_by_themselves() {
        let revoked = Revocations::new([id("web")], ["00:0A:bC".to_owned()]);
        assert!(revoked.revokes(&id("web"), "1"));
        assert!(revoked.revokes(&id("cart"), "abc"));
        assert!(!revoked.revokes(&id("cart"), "abcd"));
        assert_eq!(revoked.serials().collect::<Vec<_>>(), ["abc"]);
        assert!(!revoked.is_empty());
        assert!(!Revocations::default().revokes(&id("web"), "0"));
        assert!(Revocations::new([], ["00".to_owned()]).revokes(&id("web"), "0"));
    }
}

//! Chains that were proven a moment ago, so that a peer who comes again need not have each signature of its chain
//! verified again: they are most of what a full handshake verifies.
//!
//! Why this is safe: a chain's proof follows from its bytes, the peer's role, the trust and the time. The key here is the
//! SHA-256 of all bytes with the role; a table belongs to one trust, is made with it and dropped with it
//! ([`super::IdentitySource`] swaps both in one pointer); and an entry holds only within the times of every certificate
//! of the chain. What a peer signs in the handshake itself, with the key of its certificate, is verified each time: who
//! shows another's chain gains nothing. Only what was proven is kept, so nobody without a certificate can fill the table.
//!
//! No lock: one slot for each place of the hash, the newer entry takes it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{self, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{Role, time_of};
use crate::trust::{Appraisal, Proof};

/// Chains that are kept, some 200 bytes each: more than the peers of a busy workload. Who has more verifies more.
const SLOTS: usize = 512;

/// The name of a chain: the hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainHash([u8; 32]);

/// What was proven under one trust.
pub(super) struct Proven {
    slots: Box<[ArcSwapOption<Entry>]>,
}

struct Entry {
    chain: ChainHash,
    role: Role,
    proof: Proof,
}

impl ChainHash {
    pub(super) fn of(leaf: &CertificateDer<'_>, signers: &[CertificateDer<'_>]) -> Self {
        let mut context = digest::Context::new(&SHA256);
        for der in std::iter::once(leaf).chain(signers) {
            // With its length: where one ends and the next begins is part of what is proven.
            context.update(&der.len().to_be_bytes());
            context.update(der);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }

    fn slot(self, role: Role) -> usize {
        let [first, second, ..] = self.0;
        let place = usize::from(u16::from_be_bytes([first, second]));
        (place ^ usize::from(role == Role::Client)) % SLOTS
    }
}

impl Proven {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| ArcSwapOption::empty()).collect() }
    }

    /// Who a chain has proved in this role, where that was seen and still holds.
    pub(super) fn find(&self, chain: ChainHash, role: Role, now: UnixTime) -> Option<Appraisal> {
        let entry = self.slots[chain.slot(role)].load();
        let entry = entry.as_ref().filter(|entry| entry.chain == chain && entry.role == role)?;
        let now = time_of(now);
        let holds = entry.proof.not_before <= now && now < entry.proof.not_after;
        holds.then(|| entry.proof.appraisal())
    }

    pub(super) fn keep(&self, chain: ChainHash, role: Role, proof: Proof) {
        self.slots[chain.slot(role)].store(Some(Arc::new(Entry { chain, role, proof })));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use meshwork_model::spiffe::SpiffeId;

    use super::*;

    const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn proof(begin: u64, end: u64) -> Proof {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = SpiffeId::parse(WEB).expect("valid");
        Proof { id, is_current: true, not_before: time(begin), not_after: time(end) }
    }

    fn chain(certificates: &[&str]) -> ChainHash {
        let ders: Vec<_> =
            certificates.iter().map(|text| CertificateDer::from(text.as_bytes().to_vec())).collect();
        let (leaf, signers) = ders.split_first().expect("one");
        ChainHash::of(leaf, signers)
    }

    #[test]
    fn an_entry_is_for_one_chain_one_role_and_its_time() {
        let proven = Proven::new();
        let kept = chain(&["leaf", "signer"]);
        proven.keep(kept, Role::Client, proof(100, 200));
        let found = proven.find(kept, Role::Client, at(100)).expect("kept");
        assert_eq!((found.id.as_str(), found.is_current), (WEB, true));
        assert!(proven.find(kept, Role::Client, at(199)).is_some());
        for (what, other, role, now) in [
            ("before its time", kept, Role::Client, 99),
            ("at its end", kept, Role::Client, 200),
            ("another role", kept, Role::Server, 150),
            ("another leaf", chain(&["beaf", "signer"]), Role::Client, 150),
            ("another signer", chain(&["leaf", "singer"]), Role::Client, 150),
            ("no signer", chain(&["leaf"]), Role::Client, 150),
            ("one more", chain(&["leaf", "signer", "signer"]), Role::Client, 150),
            ("another cut", chain(&["leafsigner"]), Role::Client, 150),
            ("another cut", chain(&["leafs", "igner"]), Role::Client, 150),
        ] {
            assert!(proven.find(other, role, at(now)).is_none(), "{what}");
        }
    }

    #[test]
    fn the_table_never_grows() {
        let proven = Proven::new();
        for number in 0..10 * SLOTS {
            proven.keep(chain(&[&number.to_string()]), Role::Server, proof(0, 10));
        }
        assert_eq!(proven.slots.len(), SLOTS);
        let kept = (0..10 * SLOTS)
            .filter(|number| proven.find(chain(&[&number.to_string()]), Role::Server, at(5)).is_some());
        assert!((1..=SLOTS).contains(&kept.count()));
    }
}

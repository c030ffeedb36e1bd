//! Hash rings and Maglev's tables.

use std::sync::Arc;

use super::Member;
use super::murmur::murmur2;
use crate::proxy::{BALANCING, Balancing, HashFunction, HashKeys, Maglev, RingHash};
use crate::xxhash::xxhash64;

/// Where a hash leads.
#[derive(Debug)]
pub(super) struct Table {
    places: Places,
    /// Each endpoint and its share, where none may be overloaded.
    bounded: Option<Bounded>,
}

#[derive(Debug)]
enum Places {
    /// Hashes, sorted, and whose they are.
    Ring(Vec<(u64, u32)>),
    /// Whose each place is.
    Maglev(Vec<u32>),
}

/// Bounds on how many requests each has. Source: Mirrokni et al., "Consistent Hashing with Bounded Loads".
#[derive(Debug)]
struct Bounded {
    factor: u32,
    shares: Vec<(u32, f64)>,
}

impl Table {
    /// Places endpoints by their shares, which add up to 1.
    pub(super) fn new(balancing: Balancing, shares: &[(u32, f64)], members: &[Member<'_>]) -> Self {
        let (places, keys) = match balancing {
            Balancing::Maglev(options) => (Places::Maglev(maglev(options, shares, members)), options.keys),
            Balancing::RingHash(options) => (Places::Ring(ring(options, shares, members)), options.keys),
            _ => (Places::Ring(Vec::new()), HashKeys::default()),
        };
        let bounded = keys.balance_factor.filter(|factor| *factor > 0);
        let bounded = bounded.map(|factor| Bounded { factor, shares: shares.to_vec() });
        Self { places, bounded }
    }

    /// Whom a hash leads to; each further attempt leads elsewhere.
    pub(super) fn pick(&self, hash: u64, attempt: u32, active: &[u32]) -> Option<usize> {
        let picked = match &self.places {
            Places::Ring(ring) => on_ring(ring, hash, attempt)?,
            Places::Maglev(table) => {
                let turned = if attempt > 0 { hash ^ (u64::MAX - u64::from(attempt) + 1) } else { hash };
                *table.get(usize::try_from(turned.checked_rem(table.len() as u64)?).ok()?)?
            }
        };
        let picked = match &self.bounded {
            Some(bounded) => bounded.instead_of(picked, hash, active),
            None => picked,
        };
        Some(picked as usize)
    }
}

/// Whose the first hash of the ring is that is not below this one.
fn on_ring(ring: &[(u64, u32)], hash: u64, attempt: u32) -> Option<u32> {
    let at = ring.partition_point(|(place, _)| *place < hash);
    let at = if at == ring.len() { 0 } else { at };
    let at = (at + attempt as usize).checked_rem(ring.len())?;
    Some(ring[at].1)
}

/// What an endpoint is called: its metadata's `hash_key`, its name or its address.
fn key(keys: HashKeys, member: &Member<'_>) -> Arc<str> {
    let said = member.endpoint.metadata.get(BALANCING).and_then(|values| values.get("hash_key"));
    if let Some(said) = said.and_then(|value| value.text()).filter(|said| !said.is_empty()) {
        return said.into();
    }
    if keys.by_hostname {
        Arc::clone(&member.endpoint.hostname)
    } else {
        member.endpoint.address.to_string().into()
    }
}

/// Source: Envoy ring hash: `<key>_<number>` hashed, as many numbers as the share asks for.
fn ring(options: RingHash, shares: &[(u32, f64)], members: &[Member<'_>]) -> Vec<(u64, u32)> {
    let least = shares.iter().fold(1.0f64, |least, (_, share)| least.min(*share));
    #[expect(clippy::cast_precision_loss, reason = "sizes are below 2^23")]
    let scale = ((least * options.least as f64).ceil() / least).min(options.most as f64);
    let mut ring = Vec::new();
    let (mut placed, mut wanted) = (0.0, 0.0);
    for (at, share) in shares {
        let key = key(options.keys, &members[*at as usize]);
        wanted += scale * share;
        let mut number = 0u64;
        while placed < wanted {
            let text = format!("{key}_{number}");
            let hash = match options.function {
                HashFunction::XxHash => xxhash64(text.as_bytes(), 0),
                HashFunction::Murmur2 => murmur2(text.as_bytes()),
            };
            ring.push((hash, *at));
            number += 1;
            placed += 1.0;
        }
    }
    ring.sort_by_key(|(hash, _)| *hash);
    ring
}

/// Source: Eisenbud et al., "Maglev", listing 1; Envoy for weights: one whose share is a third of the greatest has every
/// third turn.
fn maglev(options: Maglev, shares: &[(u32, f64)], members: &[Member<'_>]) -> Vec<u32> {
    struct Entry {
        at: u32,
        offset: u64,
        skip: u64,
        next: u64,
        share: f64,
        due: f64,
    }
    if shares.is_empty() || options.size < 2 {
        return Vec::new();
    }
    let mut sorted: Vec<_> =
        shares.iter().map(|(at, share)| (key(options.keys, &members[*at as usize]), *at, *share)).collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.cmp(&other.1)));
    let size = options.size;
    let mut entries: Vec<Entry> = sorted
        .iter()
        .map(|(key, at, share)| Entry {
            at: *at,
            offset: xxhash64(key.as_bytes(), 0) % size,
            skip: xxhash64(key.as_bytes(), 1) % (size - 1) + 1,
            next: 0,
            share: *share,
            due: 0.0,
        })
        .collect();
    let greatest = shares.iter().fold(0.0f64, |greatest, (_, share)| greatest.max(*share));
    let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
    let (mut left, mut round) = (table.len(), 0.0);
    while left > 0 {
        round += 1.0;
        for entry in &mut entries {
            if left == 0 || round * entry.share < entry.due {
                continue;
            }
            entry.due += greatest;
            loop {
                let place = (entry.offset + entry.skip * entry.next) % size;
                entry.next += 1;
                let place = &mut table[usize::try_from(place).unwrap_or(0)];
                if *place == u32::MAX {
                    *place = entry.at;
                    break;
                }
            }
            left -= 1;
        }
    }
    table
}

impl Bounded {
    /// Another one where the one that was picked has its share and more: by chance, but the same for the same hash;
    /// the least overloaded where all are.
    fn instead_of(&self, picked: u32, hash: u64, active: &[u32]) -> u32 {
        let share_of = |at: u32| self.shares.iter().find(|(other, _)| *other == at).map_or(0.0, |(_, s)| *s);
        let all: u32 = active.iter().sum();
        let overload = |at: u32, share: f64| {
            let slots = ((u64::from(all) + 1) * u64::from(self.factor)).div_ceil(100);
            #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
            let slots = (slots as f64 * share).ceil().max(1.0);
            f64::from(active.get(at as usize).copied().unwrap_or(0)) / slots
        };
        let mut least = (overload(picked, share_of(picked)), picked);
        if least.0 <= 1.0 {
            return picked;
        }
        let mut order: Vec<usize> = (0..self.shares.len()).collect();
        let mut random = super::Draws(hash);
        for at in 0..order.len() {
            let other = at + random.below(order.len() - at);
            order.swap(at, other);
            let (candidate, share) = self.shares[order[at]];
            let overload = overload(candidate, share);
            if candidate != picked && overload <= 1.0 {
                return candidate;
            }
            if overload < least.0 {
                least = (overload, candidate);
            }
        }
        least.1
    }
}

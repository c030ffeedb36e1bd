//! Which part of the load each priority gets, by the health of its endpoints.

use super::Member;
use crate::proxy::{Health, LoadPolicy};

/// Whether the healthy or the degraded endpoints of a priority are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    Healthy = 0,
    Degraded = 1,
}

/// How the endpoints of a priority stand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stand {
    /// Hosts, and those of them that count.
    hosts: u64,
    counted: u64,
    healthy_hosts: u64,
    degraded_hosts: u64,
    /// Overrated per cent that are healthy, and that are degraded.
    healthy: u64,
    degraded: u64,
}

/// Which per cent of the load each priority gets, healthy endpoints first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Load {
    healthy: Vec<u64>,
    degraded: Vec<u64>,
    /// Whether all of it goes to the healthy ones of the first priority, as nearly always.
    is_plain: bool,
}

impl Stand {
    pub(super) fn of<'m>(members: impl Iterator<Item = &'m Member<'m>>, policy: &LoadPolicy) -> Self {
        let mut stand = Self::default();
        let (mut healthy, mut degraded, mut all) = (0, 0, 0);
        for member in members {
            let weight = if policy.by_weight { u64::from(member.endpoint.weight) } else { 1 };
            stand.hosts += 1;
            if !member.is_excluded {
                stand.counted += 1;
                all += weight;
            }
            match member.health {
                Health::Healthy => {
                    stand.healthy_hosts += 1;
                    healthy += weight;
                }
                Health::Degraded => {
                    stand.degraded_hosts += 1;
                    degraded += weight;
                }
                _ => {}
            }
        }
        let overrated = |part: u64| (u64::from(policy.overprovisioning) * part).checked_div(all);
        stand.healthy = overrated(healthy).unwrap_or(0).min(100);
        stand.degraded = overrated(degraded).unwrap_or(0).min(100);
        stand
    }

    fn panics_below(&self, threshold: u32) -> bool {
        // Without a host that counts nothing is healthy.
        (self.healthy_hosts + self.degraded_hosts) * 100 < u64::from(threshold.min(100)) * self.counted
            || self.counted == 0 && threshold > 0
    }
}

impl Load {
    /// Shares the load among priorities, and says which of them panic: too few of their hosts are healthy, and all
    /// priorities together are not enough.
    pub(super) fn share(stands: &[Stand], panic_threshold: u32) -> (Self, Vec<bool>) {
        let available: u64 = stands.iter().map(|stand| stand.healthy + stand.degraded).sum();
        let available = available.min(100);
        let mut load = Self::by_availability(stands, available);
        if available == 0 && panic_threshold == 0 {
            load.healthy[0] = 100;
            return (load.noted(), vec![false; stands.len()]);
        }
        let panics: Vec<bool> =
            stands.iter().map(|stand| available < 100 && stand.panics_below(panic_threshold)).collect();
        if panics.iter().all(|panic| *panic) {
            load = Self::by_hosts(stands);
        }
        (load.noted(), panics)
    }

    fn by_availability(stands: &[Stand], available: u64) -> Self {
        let mut left = 100;
        let mut give = |of: fn(&Stand) -> u64| -> Vec<u64> {
            let one = |stand: &Stand| {
                let part = (of(stand) * 100).checked_div(available).unwrap_or(0).min(left);
                left -= part;
                part
            };
            stands.iter().map(one).collect()
        };
        let (healthy, degraded) = (give(|stand| stand.healthy), give(|stand| stand.degraded));
        let mut load = Self { healthy, degraded, is_plain: false };
        // What is left are errors of rounding.
        let first = |of: fn(&Stand) -> u64| stands.iter().position(|stand| of(stand) > 0);
        if let Some(at) = first(|stand| stand.healthy) {
            load.healthy[at] += left;
        } else if let Some(at) = first(|stand| stand.degraded) {
            load.degraded[at] += left;
        }
        load
    }

    /// By the number of hosts, healthy or not.
    fn by_hosts(stands: &[Stand]) -> Self {
        let all: u64 = stands.iter().map(|stand| stand.hosts).sum();
        let part = |stand: &Stand| (stand.hosts * 100).checked_div(all).unwrap_or(0);
        let mut healthy: Vec<u64> = stands.iter().map(part).collect();
        let left = 100 - healthy.iter().sum::<u64>();
        healthy[stands.iter().position(|stand| stand.hosts > 0).unwrap_or(0)] += left;
        Self { degraded: vec![0; healthy.len()], healthy, is_plain: false }
    }

    fn noted(self) -> Self {
        Self { is_plain: self.healthy.first() == Some(&100), ..self }
    }

    /// The priority of a request, and which of its endpoints.
    pub(super) fn choose(&self, hash: u64) -> (usize, Availability) {
        if self.is_plain {
            return (0, Availability::Healthy);
        }
        let wanted = hash % 100 + 1;
        let mut sum = 0;
        for (parts, availability) in
            [(&self.healthy, Availability::Healthy), (&self.degraded, Availability::Degraded)]
        {
            for (priority, part) in parts.iter().enumerate() {
                sum += part;
                if wanted <= sum {
                    return (priority, availability);
                }
            }
        }
        (0, Availability::Healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Endpoint;

    fn stand(healthy: usize, degraded: usize, unhealthy: usize) -> Stand {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
        let member = |health| Member { endpoint: &endpoint, health, is_excluded: false };
        let members: Vec<_> = [
            vec![member(Health::Healthy); healthy],
            vec![member(Health::Degraded); degraded],
            vec![member(Health::Unhealthy); unhealthy],
        ]
        .concat();
        Stand::of(members.iter(), &LoadPolicy::default())
    }

    #[test]
    fn load_spills_as_envoys_documentation_says() {
        let check = |stands: &[Stand], healthy: &[u64], degraded: &[u64], panics: &[bool]| {
            let (load, panicking) = Load::share(stands, 50);
            let got = (&*load.healthy, &*load.degraded, &*panicking);
            assert_eq!(got, (healthy, degraded, panics), "{stands:?}");
        };
        check(&[stand(100, 0, 0), stand(10, 0, 0)], &[100, 0], &[0, 0], &[false, false]);
        check(&[stand(72, 0, 28), stand(72, 0, 28)], &[100, 0], &[0, 0], &[false, false]);
        check(&[stand(71, 0, 29), stand(71, 0, 29)], &[99, 1], &[0, 0], &[false, false]);
        check(&[stand(50, 0, 50), stand(50, 0, 50)], &[70, 30], &[0, 0], &[false, false]);
        check(&[stand(25, 0, 75), stand(100, 0, 0)], &[35, 65], &[0, 0], &[false, false]);
        check(&[stand(25, 0, 75), stand(25, 0, 75)], &[50, 50], &[0, 0], &[true, true]);
        check(&[stand(0, 0, 100), stand(0, 0, 100)], &[50, 50], &[0, 0], &[true, true]);
        check(&[stand(5, 0, 95), stand(65, 0, 35)], &[8, 92], &[0, 0], &[true, false]);
        check(&[stand(0, 100, 0)], &[0], &[100], &[false]);
        check(&[stand(50, 50, 0), stand(0, 0, 0)], &[70, 0], &[30, 0], &[false, false]);
        check(&[Stand::default()], &[100], &[0], &[true]);
    }

    #[test]
    fn without_panic_nobody_is_left_to_ask() {
        let (load, panics) = Load::share(&[stand(0, 0, 4), stand(0, 0, 4)], 0);
        assert_eq!((load.healthy, panics), (vec![100, 0], vec![false, false]));
    }

    #[test]
    fn a_hash_chooses_by_per_cent() {
        let (load, _) = Load::share(&[stand(25, 25, 50), stand(10, 0, 90)], 0);
        let mut chosen = std::collections::BTreeMap::new();
        for hash in 0..100 {
            let (priority, availability) = load.choose(hash);
            *chosen.entry((availability as usize, priority)).or_insert(0) += 1;
        }
        let healthy = load.healthy.clone();
        assert_eq!(chosen.get(&(0, 0)).copied().unwrap_or(0), healthy[0]);
        assert_eq!(chosen.values().sum::<u64>(), 100);
    }
}

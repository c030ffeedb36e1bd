//! What of the mesh proxies have not been given yet.

use std::collections::BTreeSet;
use std::time::Duration;

use meshwork_model::mesh::Key;
use tokio::time::Instant;

/// Config is given to proxies when it has not changed for so long: changes come in groups.
pub(super) const QUIET: Duration = Duration::from_millis(100);
/// However often it changes, it is given to them after so long.
pub(super) const LONGEST: Duration = Duration::from_secs(10);

/// Services whose endpoints changed, which go at once, and proxies to translate anew, which wait for more to come.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    services: BTreeSet<Key>,
    proxies: BTreeSet<Key>,
    /// When the first of the proxies became dirty, and the last.
    since: Option<(Instant, Instant)>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.proxies.is_empty()
    }

    pub(super) fn add_services(&mut self, services: BTreeSet<Key>) {
        self.services.extend(services);
    }

    pub(super) fn add_proxies<'k>(&mut self, proxies: impl IntoIterator<Item = &'k Key>, now: Instant) {
        let before = self.proxies.len();
        let mut any = false;
        for proxy in proxies {
            any = true;
            if !self.proxies.contains(proxy) {
                self.proxies.insert(proxy.clone());
            }
        }
        if any || self.proxies.len() > before {
            self.since = Some((self.since.map_or(now, |(first, _)| first), now));
        }
    }

    /// A proxy has been given everything, or is gone.
    pub(super) fn clean(&mut self, proxy: &Key) {
        self.proxies.remove(proxy);
        if self.proxies.is_empty() {
            self.since = None;
        }
    }

    pub(super) fn take_services(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.services)
    }

    /// One of the proxies; it stays until it is clean.
    pub(super) fn next_proxy(&self) -> Option<Key> {
        self.proxies.first().cloned()
    }

    /// When the proxies are to be given what changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_wait_for_quiet_but_not_for_ever() {
        let start = Instant::now();
        let mut dirty = Dirty::default();
        assert_eq!((dirty.due(), dirty.is_empty()), (None, true));
        let web = Key::new("shop", "web");
        dirty.add_proxies([&web], start);
        assert_eq!(dirty.due(), Some(start + QUIET));
        dirty.add_proxies([&web], start + QUIET / 2);
        assert_eq!(dirty.due(), Some(start + QUIET / 2 + QUIET));
        dirty.add_proxies([&web], start + LONGEST);
        assert_eq!(dirty.due(), Some(start + LONGEST));
        assert_eq!(dirty.next_proxy(), Some(web.clone()));
        dirty.clean(&web);
        assert_eq!((dirty.due(), dirty.next_proxy()), (None, None));
    }
}

//! What filters count for the whole process: it outlives the configs that it was first made for, as long as the part
//! that it belongs to stays as it was.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use meshwork_model::proxy::JwtProvider;

use super::jwt::Keys;

type Shared = dyn Any + Send + Sync;

/// What filters keep.
#[derive(Default)]
pub(crate) struct Kept {
    /// States, by the address of the config that each belongs to.
    states: HashMap<(usize, TypeId), (Weak<Shared>, Arc<Shared>)>,
    /// Keys for tokens: wherever they are from the same source they are the same, whatever else of the config changes.
    keys: Vec<Weak<Keys>>,
}

impl Kept {
    /// The state that belongs to a config, made once.
    pub(crate) fn state<C, S>(&mut self, config: &Arc<C>, make: impl FnOnce(&C) -> S) -> Arc<S>
    where
        C: Send + Sync + 'static,
        S: Send + Sync + 'static,
    {
        let key = (Arc::as_ptr(config).addr(), TypeId::of::<S>());
        // An address is somebody else's as soon as the config is gone.
        let known = self.states.get(&key).filter(|(owner, _)| owner.strong_count() > 0);
        if let Some(state) = known.and_then(|(_, state)| Arc::clone(state).downcast().ok()) {
            return state;
        }
        let state = Arc::new(make(config));
        let owner: Arc<Shared> = Arc::<C>::clone(config);
        self.states.insert(key, (Arc::downgrade(&owner), Arc::<S>::clone(&state)));
        state
    }

    /// The keys of an issuer, made once for each source.
    pub(super) fn keys(&mut self, provider: &JwtProvider) -> Arc<Keys> {
        let mut known = self.keys.iter().filter_map(Weak::upgrade);
        if let Some(keys) = known.find(|keys| keys.are_of(&provider.keys)) {
            return keys;
        }
        let keys = Keys::of(provider);
        self.keys.push(Arc::downgrade(&keys));
        keys
    }

    /// Forgets states whose configs are gone, and keys that nobody asks for.
    pub(crate) fn sweep(&mut self) {
        self.states.retain(|_, (owner, _)| owner.strong_count() > 0);
        self.keys.retain(|keys| keys.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lives_as_long_as_its_config() {
        let mut kept = Kept::default();
        let config = Arc::new(7_u8);
        let first: Arc<u32> = kept.state(&config, |config| u32::from(*config));
        let again: Arc<u32> = kept.state(&Arc::clone(&config), |_| 0);
        assert!(Arc::ptr_eq(&first, &again));
        let other: Arc<u32> = kept.state(&Arc::new(7_u8), |_| 1);
        assert_eq!((*again, *other), (7, 1));
        drop(config);
        kept.sweep();
        assert!(kept.states.is_empty());
    }
}

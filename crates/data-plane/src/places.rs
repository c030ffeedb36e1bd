//! Numbered places for the wakers of connections: taking one and leaving it allocates nothing once the table has grown.

use std::task::Waker;

/// Wakers by place.
#[derive(Default)]
pub(crate) struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Places {
    /// Takes a place.
    pub(crate) fn take(&mut self, waker: Waker) -> u32 {
        if let Some(place) = self.free.pop()
            && let Some(empty) = self.wakers.get_mut(place as usize)
        {
            *empty = Some(waker);
            return place;
        }
        self.wakers.push(Some(waker));
        // Descriptors end long before.
        u32::try_from(self.wakers.len() - 1).unwrap_or(u32::MAX)
    }

    /// Leaves a place.
    pub(crate) fn leave(&mut self, place: u32) {
        if let Some(waker) = self.wakers.get_mut(place as usize).and_then(Option::take) {
            drop(waker);
            self.free.push(place);
        }
    }

    /// Whether nobody is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.wakers.len() == self.free.len()
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        self.wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_left_is_taken_again() {
        let mut places = Places::default();
        assert!(places.is_empty());
        let [a, b] = [0; 2].map(|_| places.take(Waker::noop().clone()));
        places.leave(a);
        places.leave(a);
        assert!(!places.is_empty());
        assert_eq!(places.take(Waker::noop().clone()), a);
        places.leave(a);
        places.leave(b);
        assert!(places.is_empty());
    }
}

//! The descriptors of Envoy's messages, for reflection.
//!
//! `descriptors.bin` is written by `cargo xtask gen` from the files that `envoy-types` carries. Decoded they take some
//! 3 MiB, a quarter of what an idle proxy may have; so who reads config only now and then unloads them in between.

use std::sync::{Mutex, PoisonError};

use prost_reflect::{DescriptorPool, MessageDescriptor};

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// The message that a type URL, or a full name, stands for.
pub(crate) fn message(type_url: &str) -> Option<MessageDescriptor> {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    pool().get_message_by_name(name)
}

/// All messages' full names.
pub(crate) fn names() -> Vec<String> {
    pool().all_messages().map(|message| message.full_name().to_owned()).collect()
}

/// Gives the memory of the descriptors back until they are asked for again, which then costs some milliseconds.
///
/// Whoever uses them at that moment keeps them until done.
pub fn unload() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

fn pool() -> DescriptorPool {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_with(|| {
        DescriptorPool::decode(include_bytes!("descriptors.bin").as_slice())
            .expect("the descriptors are part of the program")
    })
    .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_back_after_they_were_unloaded() {
        let listener = message("envoy.config.listener.v3.Listener").expect("known");
        unload();
        assert_eq!(
            message("type.googleapis.com/envoy.config.listener.v3.Listener").map(|m| m.fields().len()),
            Some(listener.fields().len())
        );
        assert!(names().len() > 100);
    }
}

//! The descriptors of Envoy's messages, for reflection.
//!
//! `descriptors.bin` is written by `cargo xtask gen` from the files that `envoy-types` carries.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!("descriptors.bin").as_slice())
        .expect("the descriptors are part of the program")
});

/// The message that a type URL, or a full name, stands for.
pub(crate) fn message(type_url: &str) -> Option<MessageDescriptor> {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    POOL.get_message_by_name(name)
}

/// All messages.
pub(crate) fn messages() -> impl Iterator<Item = MessageDescriptor> {
    POOL.all_messages()
}

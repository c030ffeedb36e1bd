//! Whatever a peer sends: the corpora of `fuzz/`, mutations of them, and messages from a grammar, through the targets
//! of each parser, through what must hold for any bytes, and against hyper.
//!
//! A few thousand rounds from fixed seeds, which is a second or two; `MESHWORK_FUZZ=100` makes it a hundred times as
//! many. A failure names its seed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "fuzz/corpus.rs"]
mod corpus;
#[path = "fuzz/hyper.rs"]
mod hyper;
#[path = "fuzz/properties.rs"]
mod properties;
#[path = "fuzz/random.rs"]
mod random;
#[path = "fuzz/targets.rs"]
mod targets;

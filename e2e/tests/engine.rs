//! The HTTP/1.1 engine through the binary: what is refused reaches nobody, what is forwarded arrives as it was meant,
//! and real programs on either side notice nothing.

#![expect(clippy::panic, reason = "to panic is how a test fails")]

#[path = "engine/answers.rs"]
mod answers;
#[path = "engine/attacks.rs"]
mod attacks;
#[path = "engine/judge.rs"]
mod judge;
#[path = "engine/legal.rs"]
mod legal;
#[path = "engine/peers.rs"]
mod peers;
#[path = "../../crates/http1/tests/fuzz/random.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the engine's own tests, which use all of it")]
mod random;
#[path = "engine/upgrade.rs"]
mod upgrade;

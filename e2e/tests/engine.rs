//! The HTTP/1.1 engine through the binary: what is refused reaches nobody, what is forwarded arrives as it was meant,
//! and real programs on either side notice nothing.

#![expect(clippy::panic, reason = "to panic is how a test fails")]

#[path = "engine/answers.rs"]
mod answers;
#[path = "engine/attacks.rs"]
mod attacks;
#[path = "engine/legal.rs"]
mod legal;

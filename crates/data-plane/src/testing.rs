//! A whole proxy in memory, its clock paused: real config, a real worker, and a network that the test plays.
//!
//! A test says [`play`] with a config and a script. In the script, [`World::connect`] makes a client's [`End`] and
//! [`World::origin`] an upstream that accepts such ends; both write bytes and read messages. [`Weather`] makes the
//! network slow; resets, half-closes and time-outs are the script's own doing. Nothing of this is in what is shipped:
//! the one seam is [`crate::transport::Socket`].

pub(crate) mod config;
mod end;
pub(crate) mod seeds;
mod socket;
mod world;

pub(crate) use end::{Cut, End, Message};
pub(crate) use socket::{MemorySocket, Weather};
pub(crate) use world::{Origin, World, dial, is_here, play, play_as, settle, timed};

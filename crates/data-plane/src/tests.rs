//! What a whole proxy does, judged from both of its ends.

mod bodies;
mod deadlines;
mod exchange;
mod framing;
mod http2_tests;
mod tcp;

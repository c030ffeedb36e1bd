//! What a whole proxy does, judged from both of its ends.

mod deadlines;
mod exchange;
mod framing;

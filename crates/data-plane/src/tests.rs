//! What a whole proxy does, judged from both of its ends.

mod attacks;
mod bodies;
mod deadlines;
mod exchange;
mod filters;
mod floods;
mod framing;
mod http2_tests;
mod listen;
mod redirected;
mod retries;
mod server_names;
mod tcp;
mod trust;

pub(crate) use self::server_names::hello;
use crate::testing::config::{ORIGIN, web};
use crate::testing::{World, play};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Plays a script with one endpoint.
fn one(script: impl AsyncFnOnce(&World)) {
    play(web(&[ORIGIN]), script);
}

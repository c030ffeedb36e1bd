//! A whole proxy on loopback, between a client and an origin that the tests write byte by byte.
//!
//! [`harness`] builds configs from model types and runs both ends. Nothing here sleeps; liveness has generous deadlines.

mod bulk;
mod config;
mod connections;
mod exchange;
mod harness;
mod http1;
mod http2;
mod mtls;
mod namespace;
mod records;
mod secrets;
mod tcp;
mod tokens;

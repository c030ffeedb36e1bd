//! HTTP: one exchange in [`exchange`], its forwarding in [`forward`], and the codecs on both sides of it.
//!
//! [`codec`] alone sees the types of `http1` and `h2`; everything else reads `RequestHead`, `ResponseHead` and the
//! frames of [`body`].

pub(crate) mod body;
pub(crate) mod call;
mod client_cert;
mod clients;
pub(crate) mod codec;
pub(crate) mod exchange;
pub(crate) mod fields;
pub(crate) mod filters;
mod forward;
mod lend;
pub(crate) mod log;
mod mirror;
mod pace;
mod respond;
pub(crate) mod serve;
pub(crate) mod taken;
mod tries;

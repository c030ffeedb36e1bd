//! What a mesh is made of, and the pure decisions on it.
//!
//! - [`mesh`]: what people write (services, routes, policies), after ingest has checked it.
//! - [`proxy`]: what a data plane runs (listeners, routes, clusters, endpoints, policies), in the xDS sense.
//! - [`mod@format`], [`flag`]: the texts of logs and local replies, and why a request ended as it did, in Envoy's words.
//! - [`head`]: a message head as one buffer and offsets; the codecs fill it, everything else reads it.
//! - [`route`], [`policy`], [`balance`]: `select`, `authorize` and `pick`, each a pure function of config,
//!   worker state and randomness. The proxy, `explain` and the tests call the same ones.
//! - [`regex`], [`fraction`]: tests and shares as Envoy writes them.
//! - [`retry`], [`times`], [`outlier`], [`check`]: what is tried again, what time an exchange has, which endpoints are
//!   left out, by their responses and by asking them.
//! - [`mutation`], [`rewrite`], [`hash`]: what a route makes of heads, and of them a hash ([`xxhash`]).
//! - [`problem`]: what is wrong with a piece of config, and where.
//! - [`chain`]: which filter chain takes a connection.
//! - [`fault`], [`limit`], [`cors`]: which fault a request gets, whether there is a token for it, and what pages may ask.
//! - [`jwt`]: whether a request has the tokens that it needs, and whether their claims are good.
//! - [`metadata`]: what filters found out about a request.
//! - [`path`], [`intake`]: paths and authorities in the one form that is judged and forwarded, and what else a proxy makes of
//!   a request's head first of all.
//! - [`cidr`]: ranges of IP addresses.
//! - [`client`]: who the client is, behind proxies that say so.
//! - [`address`]: virtual addresses, by which captured programs call what has a name in the mesh.
//! - [`xxhash`]: the hash of consistent hashing.
//! - [`reason`]: the one list of reasons for which the mesh answers in a service's place.
//!
//! This crate does no I/O and has no async, no clock, no protobuf and no serde.

pub mod address;
pub mod balance;
pub mod chain;
pub mod check;
pub mod cidr;
pub mod client;
pub mod cors;
pub mod fault;
pub mod flag;
pub mod format;
pub mod fraction;
pub mod hash;
pub mod head;
pub mod intake;
pub mod jwt;
pub mod limit;
pub mod mesh;
pub mod metadata;
pub mod mutation;
pub mod outlier;
pub mod path;
pub mod policy;
pub mod problem;
pub mod proxy;
pub mod reason;
pub mod regex;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod spiffe;
pub mod times;
pub mod xxhash;

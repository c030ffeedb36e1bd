use std::sync::Arc;
use std::time::Duration;

use super::{MetadataMatch, StringMatch};
use crate::fraction::Fraction;

/// That a service is asked whether a request may pass. Source: Envoy `extensions.filters.http.ext_authz.v3`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct ExtAuthz {
    /// The service.
    pub service: AuthService,
    /// How long its answer is waited for.
    pub timeout: Duration,
    /// Whether a request passes where the service could not be asked.
    pub failure_mode_allow: bool,
    /// Whether such a request says so.
    pub failure_mode_allow_header: bool,
    /// The status of the answer where it does not pass.
    pub status_on_error: u16,
    /// The part of a request's body that the service gets.
    pub body: Option<AuthBody>,
    /// Requests that the service is asked about.
    pub enabled: Fraction,
    /// What metadata of a request must pass for the service to be asked about it; `None` for none.
    pub enabled_metadata: Option<MetadataMatch>,
    /// Whether the others are refused.
    pub deny_at_disable: bool,
    /// Header fields that the service gets; `None` for all, or for the usual ones of an HTTP service.
    pub allowed_headers: Option<Vec<StringMatch>>,
    /// Header fields that it never gets.
    pub disallowed_headers: Vec<StringMatch>,
    /// Whose metadata it gets.
    pub metadata_namespaces: Vec<Arc<str>>,
    /// Whether it gets the peer's certificate.
    pub include_certificate: bool,
    /// Whether it gets the server name that the connection asked for.
    pub include_session: bool,
}

/// The service that is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthService {
    /// By gRPC.
    Grpc {
        /// The cluster.
        cluster: Arc<str>,
        /// The host that is asked for, where that is not the cluster's name.
        authority: Option<Arc<str>>,
    },
    /// By a request like the one that is asked about.
    Http(AuthHttp),
}

/// A service that is asked by a request.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthHttp {
    /// The cluster.
    pub cluster: Arc<str>,
    /// What stands before the path.
    pub path_prefix: Arc<str>,
    /// Fields that the request gets besides.
    pub headers_to_add: Vec<(Arc<str>, Arc<str>)>,
    /// Fields of the answer that the request gets, in the place of its own.
    pub upstream: Vec<StringMatch>,
    /// Fields of the answer that are appended to the request's.
    pub upstream_append: Vec<StringMatch>,
    /// Fields of a refusal that the client gets; empty for all.
    pub client: Vec<StringMatch>,
    /// Fields of another answer that the client gets with its response.
    pub client_on_success: Vec<StringMatch>,
}

/// The part of a body that is sent along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthBody {
    /// Bytes at most.
    pub most: u32,
    /// Whether the beginning of a longer one is enough.
    pub is_part_enough: bool,
    /// Whether it is sent as bytes, not as text.
    pub as_bytes: bool,
}

/// What a route says of it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CheckSettings {
    /// What the service is told besides.
    pub extensions: Vec<(Arc<str>, Arc<str>)>,
    /// Whether the body stays here.
    pub without_body: bool,
}

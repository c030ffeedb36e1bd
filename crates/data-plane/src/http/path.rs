//! Paths and authorities in the one form that `model::path` makes of them.

use meshwork_model::head::RequestHead;
use meshwork_model::path::{Form, form, normal_host};
use meshwork_model::proxy::{HostNormalization, Http1, PathNormalization};

use crate::error::{Kind, ProxyError};

/// Lets a request of HTTP/1.0 in, where config says so; it may name no host.
///
/// # Errors
/// It may not, or nobody knows the host.
pub(super) fn admit_http_10(head: &mut RequestHead, config: &Http1) -> Result<(), ProxyError> {
    if !config.accept_http_10 {
        return Err(ProxyError::fatal(Kind::Version));
    }
    if head.authority().is_empty() {
        match &config.default_host {
            Some(host) => head.set_authority(host.as_bytes()),
            None => return Err(ProxyError::fatal(Kind::Refused("no host is named"))),
        }
    }
    Ok(())
}

/// Brings the authority into normal form; `own` is the port that the client connected to.
pub(super) fn normalize_host(head: &mut RequestHead, rules: HostNormalization, own: u16) {
    if rules == HostNormalization::default() {
        return;
    }
    let is_connect = head.method() == b"CONNECT";
    if let Some(normal) = normal_host(head.authority(), rules, own, is_connect) {
        head.set_authority(&normal);
    }
}

/// Brings the path into normal form; the query stays as it is.
///
/// # Errors
/// It has none, or the client is sent to it.
pub(super) fn normalize_path(head: &mut RequestHead, rules: PathNormalization) -> Result<(), ProxyError> {
    match form(rules, head.path_and_query()) {
        Form::Normal => {}
        Form::Other(normal) => head.set_path_and_query(&normal),
        Form::Redirect(normal) => return Err(ProxyError::fatal(Kind::MovedPath(normal.into()))),
        Form::Refused(why) => return Err(ProxyError::fatal(Kind::Refused(why))),
    }
    Ok(())
}

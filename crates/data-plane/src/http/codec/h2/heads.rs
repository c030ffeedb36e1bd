//! Heads between the model and the `http` crate.

use ::http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, Request, Response, StatusCode, Uri, Version, request, response};
use meshwork_http1::{ParseError, is_authority, may_trail};
use meshwork_model::head::{Fields, RequestHead, ResponseHead};

use crate::error::{Kind, ProxyError};
use crate::http::body::{Length, Shape};

/// Reads a request's head; the length is what it says, or `None` at the end of the stream.
///
/// # Errors
/// There is no authority, two different ones, one with a user, a path that is none, or too many fields.
pub(super) fn read_request(
    parts: &request::Parts,
    is_ended: bool,
    most_fields: usize,
    head: &mut RequestHead,
) -> Result<Length, ProxyError> {
    if parts.headers.len() > most_fields {
        return Err(ProxyError::fatal(Kind::BadRequest(ParseError::TooManyFields)));
    }
    head.clear();
    head.set_method(parts.method.as_str().as_bytes());
    head.https = parts.uri.scheme_str() == Some("https");
    let named = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let host = parts.headers.get(HOST).map(HeaderValue::as_bytes);
    match (named, host) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => {
            return Err(ProxyError::fatal(Kind::Refused("Host and :authority differ")));
        }
        (Some(authority), _) | (None, Some(authority)) => head.set_authority(authority),
        (None, None) => return Err(ProxyError::fatal(Kind::Refused("there is no :authority"))),
    }
    if parts.headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(ProxyError::fatal(Kind::BadRequest(ParseError::RepeatedHost)));
    }
    // What HTTP/1.1 refuses is refused here, too: a user, and what no name has. Source: RFC 9113 §8.3.1.
    if !is_authority(head.authority()) {
        return Err(ProxyError::fatal(Kind::BadRequest(ParseError::BadHost)));
    }
    if parts.method != Method::CONNECT {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let is_target = path.starts_with('/') || path == "*" && parts.method == Method::OPTIONS;
        // The bytes that a target has over HTTP/1.1: an é has one spelling, which is judged.
        if !is_target || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ProxyError::fatal(Kind::BadRequest(ParseError::BadTargetForm)));
        }
        head.set_path_and_query(path.as_bytes());
    }
    read_fields(&parts.headers, &mut head.fields);
    Ok(length(&parts.headers, is_ended))
}

/// Reads a response's head. `to_head`: it answers HEAD.
pub(super) fn read_response(
    parts: &response::Parts,
    is_ended: bool,
    to_head: bool,
    head: &mut ResponseHead,
) -> Shape {
    head.clear();
    head.status = parts.status.as_u16();
    read_fields(&parts.headers, &mut head.fields);
    let has_no_body = to_head || matches!(head.status, 204 | 304);
    let declared = match length(&parts.headers, is_ended) {
        // An empty body, said by the stream's end: HTTP/1.1 has to say it in words.
        Length::None if !has_no_body => Length::Known(0),
        length => length,
    };
    Shape { declared, empty: is_ended || has_no_body }
}

fn length(headers: &HeaderMap, is_ended: bool) -> Length {
    let said = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    match said {
        Some(bytes) => Length::Known(bytes),
        None if is_ended => Length::None,
        None => Length::Unknown,
    }
}

fn read_fields(headers: &HeaderMap, fields: &mut Fields) {
    // Cookies may come in crumbs; HTTP/1.1 knows one line only. Source: RFC 9113 §8.2.3.
    let is_crumbled = headers.get_all(COOKIE).iter().nth(1).is_some();
    for (name, value) in headers {
        if name != CONTENT_LENGTH && name != HOST && !(is_crumbled && name == COOKIE) {
            fields.push(name.as_str().as_bytes(), trimmed(value));
        }
    }
    if is_crumbled {
        let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(trimmed).collect();
        fields.push(b"cookie", &crumbs.join(&b"; "[..]));
    }
}

/// A value without the white space around it, which is none of it: HTTP/1.1 would not see it, and a rule must not see
/// more than the application does. Source: RFC 9110 §5.5, RFC 9113 §8.2.1.
fn trimmed(value: &HeaderValue) -> &[u8] {
    value.as_bytes().trim_ascii()
}

/// Reads trailers, but for those that none may be.
pub(super) fn fields_of(map: &HeaderMap) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in map.iter().filter(|(name, _)| may_trail(name.as_str().as_bytes())) {
        fields.push(name.as_str().as_bytes(), trimmed(value));
    }
    fields
}

/// Writes a request's head.
///
/// # Errors
/// A part that HTTP/2 cannot carry.
pub(super) fn write_request(head: &RequestHead, length: Length) -> Result<Request<()>, ProxyError> {
    let refused = |what| ProxyError::fatal(Kind::Refused(what));
    let uri = Uri::builder()
        .scheme(if head.https { "https" } else { "http" })
        .authority(head.authority())
        .path_and_query(head.path_and_query())
        .build()
        .map_err(|_| refused("the authority or path cannot be sent over HTTP/2"))?;
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(head.method()).map_err(|_| refused("the method cannot be sent over HTTP/2"))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    write_fields(&head.fields, length, request.headers_mut())
        .map_err(|()| refused("a header cannot be sent over HTTP/2"))?;
    Ok(request)
}

/// Writes a response's head.
///
/// # Errors
/// A part that HTTP/2 cannot carry.
pub(super) fn write_response(head: &ResponseHead, length: Length) -> Result<Response<()>, ProxyError> {
    let bad = |what: &'static str| ProxyError::fatal(Kind::BadResponse(what.into()));
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(head.status).map_err(|_| bad("its status cannot be sent over HTTP/2"))?;
    *response.version_mut() = Version::HTTP_2;
    write_fields(&head.fields, length, response.headers_mut())
        .map_err(|()| bad("a header cannot be sent over HTTP/2"))?;
    Ok(response)
}

fn write_fields(fields: &Fields, length: Length, map: &mut HeaderMap) -> Result<(), ()> {
    map.reserve(fields.len() + 1);
    for (name, value) in fields.iter() {
        let name = HeaderName::from_bytes(name).map_err(drop)?;
        map.append(name, HeaderValue::from_bytes(value).map_err(drop)?);
    }
    if let Length::Known(bytes) = length {
        map.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    Ok(())
}

/// Writes trailers; those that cannot be carried are left out.
pub(super) fn map_of_trailers(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter() {
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value));
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_cannot_change_what_was_judged() {
        let mut map = HeaderMap::new();
        for name in [
            "x-forwarded-client-cert",
            "authorization",
            "content-length",
            "set-cookie",
            "grpc-status",
            "x-sum",
        ] {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let fields = fields_of(&map);
        let left: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(left, [&b"grpc-status"[..], b"x-sum"]);
    }
}

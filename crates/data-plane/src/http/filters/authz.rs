//! External authorization: a service is asked whether a request may pass.
//!
//! It fails closed: a service that cannot be asked refuses, unless config says otherwise.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use meshwork_identity::certificates_pem;
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::metadata::matches_metadata;
use meshwork_model::proxy::{AuthHttp, AuthService, CheckSettings, ExtAuthz, StringMatch};
use meshwork_model::reason::Reason;
use meshwork_model::route::matches_text;
use meshwork_xds::services::{CHECK, Check, CheckPeer, Checked};
use tracing::debug;

use super::{LocalReply, Scene, body};
use crate::error::ProxyError;
use crate::http::body::Length;
use crate::http::call::{self, Call};
use crate::peer::Peer;

/// Under which name metadata has what the service found out.
const FILTER: &str = "envoy.filters.http.ext_authz";
/// Whether the service got a part of the body only.
const PARTIAL: &str = "x-envoy-auth-partial-body";
/// Says that a request passed although the service could not be asked.
const ALLOWED_ON_FAILURE: &[u8] = b"x-envoy-auth-failure-mode-allowed";
/// Fields that the service wants the request to lose.
const REMOVE: &[u8] = b"x-envoy-auth-headers-to-remove";

/// Fields that frame messages, or are the connection's: no service has a say in them.
const OF_CODEC: [&str; 7] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// The filter on a route.
pub(super) struct Authorization {
    config: Arc<ExtAuthz>,
    settings: CheckSettings,
}

/// What the response gets because of an answer.
#[derive(Default)]
pub(super) struct Added {
    add: Vec<(String, String)>,
    set: Vec<(String, String)>,
}

impl Authorization {
    pub(super) fn new(config: &Arc<ExtAuthz>, settings: CheckSettings) -> Self {
        Self { config: Arc::clone(config), settings }
    }

    /// Lets a request pass that the service lets pass.
    pub(super) async fn ask(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
    ) -> Result<(), ProxyError> {
        let config = &*self.config;
        let metadata = scene.record.metadata.as_deref();
        let is_meant = config.enabled_metadata.as_ref().is_none_or(|test| matches_metadata(test, metadata));
        if !is_meant || !config.enabled.hits(scene.place.worker.random()) {
            return if config.deny_at_disable { Err(self.failure().into()) } else { Ok(()) };
        }
        let declared = scene.length;
        let body = match config.body.filter(|_| !self.settings.without_body && !declared.is_empty()) {
            Some(part) => Some(body::read(scene, head, part.most as usize, part.is_part_enough).await?),
            None => None,
        };
        let answer = match &config.service {
            AuthService::Grpc { cluster, authority } => {
                let message = self.check(scene, head, declared, body.as_ref()).encode();
                let (worker, timeout) = (scene.place.worker, config.timeout);
                let asked = call::grpc(worker, cluster, authority.as_deref(), CHECK, &message, timeout);
                match scene.wait(asked).await? {
                    Ok(message) => Checked::decode(&message),
                    Err(error) => Err(error.kind.to_string()),
                }
            }
            AuthService::Http(http) => {
                let body = body.map(|part| part.bytes).unwrap_or_default();
                self.by_http(scene, http, head, body).await?
            }
        };
        match answer {
            Ok(checked) => self.act(scene, head, checked),
            Err(error) => {
                debug!(error, "the authorization service could not be asked");
                if !config.failure_mode_allow {
                    return Err(self.failure().into());
                }
                if config.failure_mode_allow_header {
                    head.fields.push(ALLOWED_ON_FAILURE, b"true");
                }
                Ok(())
            }
        }
    }

    fn failure(&self) -> LocalReply {
        LocalReply::new(Reason::AuthorizationFailed, self.config.status_on_error)
    }

    /// What the service is asked.
    fn check<'c>(
        &'c self,
        scene: &'c Scene<'_, '_>,
        head: &'c RequestHead,
        declared: Length,
        body: Option<&'c body::Part>,
    ) -> Check<'c> {
        let config = &*self.config;
        let peer = scene.place.peer;
        let metadata = scene.record.metadata.as_deref();
        let namespaces = || config.metadata_namespaces.iter().map(|name| &**name).collect();
        let mut headers = self.headers(head, &[]);
        if let Length::Known(bytes) = declared
            && self.tells("content-length", &[])
        {
            headers.push(("content-length".into(), bytes.to_string()));
        }
        if let (Some(body), Some(part)) = (body, config.body) {
            let is_partial = body.bytes.len() >= part.most as usize && part.is_part_enough;
            headers.push((PARTIAL.into(), is_partial.to_string()));
        }
        let text = |bytes: &'c [u8]| std::str::from_utf8(bytes).unwrap_or_default();
        Check {
            source: CheckPeer {
                address: Some(peer.address),
                principal: principal(peer),
                certificate: self.certificate(peer),
            },
            destination: CheckPeer { address: Some(peer.local), ..CheckPeer::default() },
            time: Some(SystemTime::now()),
            id: scene.place.worker.random().to_string(),
            method: text(head.method()),
            path: text(head.path_and_query()),
            host: text(head.authority()),
            scheme: scheme(head),
            protocol: scene.downstream.protocol(),
            headers,
            size: body.map_or(0, |body| i64::try_from(body.received).unwrap_or(i64::MAX)),
            body: body.map(|body| (&*body.bytes, config.body.is_some_and(|part| part.as_bytes))),
            extensions: owned(&self.settings.extensions),
            metadata: metadata.map(|metadata| (metadata, namespaces())),
            server_name: config.include_session.then(|| peer.server_name.as_deref().unwrap_or_default()),
        }
    }

    fn certificate(&self, peer: &Peer) -> String {
        match peer.certificates().first() {
            Some(own) if self.config.include_certificate => {
                escaped(&certificates_pem(std::slice::from_ref(own)))
            }
            _ => String::new(),
        }
    }

    /// Whether the service gets a field: config allows it, or, where it allows none, it is one of these.
    fn tells(&self, name: &str, usual: &[&str]) -> bool {
        let config = &*self.config;
        let is_allowed = match &config.allowed_headers {
            Some(allowed) => usual.contains(&name) || is_one(allowed, name),
            None => usual.is_empty() || usual.contains(&name),
        };
        is_allowed && !is_one(&config.disallowed_headers, name)
    }

    /// The fields that the service gets.
    fn headers(&self, head: &RequestHead, usual: &[&str]) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let pseudo: [(&str, &[u8]); 4] = [
            (":authority", head.authority()),
            (":path", head.path_and_query()),
            (":method", head.method()),
            (":scheme", scheme(head).as_bytes()),
        ];
        let fields = head.fields.iter().map(|(name, value)| (String::from_utf8_lossy(name), value));
        for (name, value) in pseudo.map(|(name, value)| (Cow::from(name), value)).into_iter().chain(fields) {
            if !self.tells(&name, usual) || name == PARTIAL {
                continue;
            }
            let value = String::from_utf8_lossy(value);
            match headers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => {
                    values.push(',');
                    values.push_str(&value);
                }
                None => headers.push((name.into_owned(), value.into_owned())),
            }
        }
        headers
    }

    /// Asks by a request like this one.
    async fn by_http(
        &self,
        scene: &mut Scene<'_, '_>,
        http: &AuthHttp,
        head: &RequestHead,
        body: Bytes,
    ) -> Result<Result<Checked, String>, ProxyError> {
        let mut asked = RequestHead::default();
        asked.set_method(head.method());
        asked.set_authority(head.authority());
        asked.set_path_and_query(&[http.path_prefix.as_bytes(), head.path_and_query()].concat());
        for (name, value) in self.headers(head, &["authorization"]) {
            if !name.starts_with(':') && name != "content-length" {
                asked.fields.push(name.as_bytes(), value.as_bytes());
            }
        }
        for (name, value) in &http.headers_to_add {
            asked.fields.set(name.as_bytes(), value.as_bytes());
        }
        if body.is_empty() {
            asked.fields.push(b"content-length", b"0");
        }
        let ask = Call { cluster: &http.cluster, head: &asked, body, timeout: self.config.timeout };
        let worker = scene.place.worker;
        Ok(match scene.wait(call::call(worker, &ask)).await? {
            Ok(answered) if answered.head.status < 500 => Ok(read_http(http, &answered)),
            Ok(answered) => Err(format!("the status is {}", answered.head.status)),
            Err(error) => Err(error.kind.to_string()),
        })
    }

    /// Does what the service says.
    fn act(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
        mut checked: Checked,
    ) -> Result<(), ProxyError> {
        for (key, value) in std::mem::take(&mut checked.metadata) {
            scene.record.metadata().set(FILTER, &key, value);
        }
        leave_to_codec(&mut checked);
        let pairs = checked.set.iter().chain(&checked.add).chain(&checked.append);
        let pairs = pairs.chain(&checked.response_add).chain(&checked.response_set);
        if !pairs.clone().all(|(name, value)| is_field(name, value)) {
            debug!("the authorization service asks for a field that is none");
            return Err(self.failure().into());
        }
        if !checked.is_allowed {
            // What is no status of an answer refuses all the same.
            let status = checked.status.filter(|status| (200..600).contains(status)).unwrap_or(403);
            let mut reply = LocalReply::new(Reason::RefusedExternally, status);
            reply.body = Some(Bytes::from(checked.body));
            checked.set.iter().for_each(|(name, value)| reply.fields.set(name.as_bytes(), value.as_bytes()));
            for (name, value) in &checked.append {
                reply.fields.push(name.as_bytes(), value.as_bytes());
            }
            return Err(reply.into());
        }
        checked.set.iter().for_each(|(name, value)| set(head, name, value));
        for (name, value) in checked.add.iter().filter(|(name, _)| !name.starts_with(':') && name != "host") {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in &checked.append {
            append(&mut head.fields, name, value);
        }
        for name in &checked.remove {
            let name = name.to_ascii_lowercase();
            if !name.starts_with(':') && name != "host" {
                head.fields.remove(name.as_bytes());
            }
        }
        if !(checked.query_set.is_empty() && checked.query_remove.is_empty()) {
            change_query(head, &checked.query_set, &checked.query_remove);
        }
        if !(checked.response_add.is_empty() && checked.response_set.is_empty()) {
            scene.passed().authz.push(Added { add: checked.response_add, set: checked.response_set });
        }
        Ok(())
    }
}

impl Added {
    pub(super) fn answer(&self, response: &mut ResponseHead) {
        for (name, value) in &self.add {
            response.fields.push(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in &self.set {
            response.fields.set(name.as_bytes(), value.as_bytes());
        }
    }
}

/// What the answer to a request says. Source: Envoy `HttpService`.
fn read_http(http: &AuthHttp, answered: &call::Answered) -> Checked {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let all = || answered.head.fields.iter().map(|(name, value)| (text(name), text(value)));
    let of = |tests: &[StringMatch]| all().filter(|(name, _)| is_one(tests, name)).collect();
    let is_allowed = answered.head.status == 200;
    if is_allowed {
        let lists = answered.head.fields.all(REMOVE).map(text);
        let remove =
            lists.flat_map(|list| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>());
        return Checked {
            is_allowed,
            set: of(&http.upstream),
            add: of(&http.upstream_append),
            remove: remove.filter(|name| !name.is_empty()).collect(),
            response_add: of(&http.client_on_success),
            ..Checked::default()
        };
    }
    let usual = ["www-authenticate", "location"];
    let is_for_client =
        |name: &str| http.client.is_empty() || usual.contains(&name) || is_one(&http.client, name);
    Checked {
        status: Some(answered.head.status),
        body: text(&answered.body),
        append: all().filter(|(name, _)| is_for_client(name)).collect(),
        ..Checked::default()
    }
}

/// Forgets what an answer says of fields that are not its own to set.
fn leave_to_codec(checked: &mut Checked) {
    let Checked { set, add, append, response_add, response_set, .. } = checked;
    for fields in [set, add, append, response_add, response_set] {
        fields.retain(|(name, _)| !OF_CODEC.contains(&&**name));
    }
}

fn is_one(tests: &[StringMatch], name: &str) -> bool {
    tests.iter().any(|test| matches_text(test, name.as_bytes()))
}

fn is_field(name: &str, value: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~:".contains(&byte);
    !name.is_empty()
        && name.bytes().all(is_name)
        && !value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

fn owned(pairs: &[(Arc<str>, Arc<str>)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn scheme(head: &RequestHead) -> &'static str {
    match head.fields.find(b"x-forwarded-proto") {
        Some(b"https") => "https",
        _ => "http",
    }
}

/// The name that stands for a peer. Source: Envoy `AttributeContext.Peer.principal`.
fn principal(peer: &Peer) -> &str {
    let Some(facts) = peer.proven() else { return "" };
    facts.uris.first().or_else(|| facts.dns_names.first()).map_or(&*facts.subject, |name| name)
}

fn set(head: &mut RequestHead, name: &str, value: &str) {
    match name {
        ":path" => head.set_path_and_query(value.as_bytes()),
        ":authority" | "host" => head.set_authority(value.as_bytes()),
        ":method" => head.set_method(value.as_bytes()),
        _ if name.starts_with(':') => {}
        _ => head.fields.set(name.as_bytes(), value.as_bytes()),
    }
}

/// Appends to the first value of a field that is there. Source: Envoy `OkHttpResponse.headers`.
fn append(fields: &mut Fields, name: &str, value: &str) {
    let name = name.as_bytes();
    let mut values: Vec<Vec<u8>> = fields.all(name).map(<[u8]>::to_vec).collect();
    let Some(first) = values.first_mut() else { return };
    first.push(b',');
    first.extend_from_slice(value.as_bytes());
    fields.remove(name);
    for value in values {
        fields.push(name, &value);
    }
}

fn change_query(head: &mut RequestHead, set: &[(String, String)], remove: &[String]) {
    let whole = String::from_utf8_lossy(head.path_and_query()).into_owned();
    let (path, query) = whole.split_once('?').unwrap_or((&whole, ""));
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map_or((pair.into(), String::new()), |(k, v)| (k.into(), v.into())))
        .collect();
    for (key, value) in set {
        pairs.retain(|(known, _)| known != key);
        pairs.push((key.clone(), value.clone()));
    }
    pairs.retain(|(key, _)| !remove.contains(key));
    // Envoy keeps them in order of their names.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let query: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    head.set_path_and_query(path.as_bytes());
}

/// Source: RFC 3986 §2.1, of all but unreserved characters, as Envoy escapes certificates.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_service_says_where_a_message_ends() {
        let fields = || ["content-length", "te", "x-a"].map(|name| (name.to_owned(), "1".to_owned())).into();
        let mut checked = Checked { set: fields(), response_add: fields(), ..Checked::default() };
        leave_to_codec(&mut checked);
        let left = vec![("x-a".to_owned(), "1".to_owned())];
        assert_eq!((checked.set, checked.response_add), (left.clone(), left));
    }

    #[test]
    fn a_value_is_appended_to_the_first_and_the_others_stay() {
        let mut fields = Fields::default();
        append(&mut fields, "x-a", "1");
        assert!(fields.is_empty());
        fields.push(b"x-a", b"1");
        fields.push(b"x-a", b"2");
        append(&mut fields, "x-a", "3");
        assert_eq!(fields.all(b"x-a").collect::<Vec<_>>(), [&b"1,3"[..], b"2"]);
    }

    #[test]
    fn a_query_is_changed() {
        let check = |path: &str, set: &[(&str, &str)], remove: &[&str], expected: &str| {
            let mut head = RequestHead::default();
            head.set_path_and_query(path.as_bytes());
            let set: Vec<_> =
                set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let remove: Vec<_> = remove.iter().map(|key| (*key).to_owned()).collect();
            change_query(&mut head, &set, &remove);
            assert_eq!(String::from_utf8_lossy(head.path_and_query()), expected);
        };
        check("/a", &[("b", "1")], &[], "/a?b=1");
        check("/a?c=2&b=0", &[("b", "1")], &[], "/a?b=1&c=2");
        check("/a?b=0", &[], &["b"], "/a");
    }
}

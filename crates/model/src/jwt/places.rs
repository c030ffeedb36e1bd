//! Where tokens are found in a request.
//!
//! Two tokens that differ are none: which one the application would take, nobody knows. Source: Istio
//! RequestAuthentication, where what several tokens mean is left open.

use std::borrow::Cow;

use super::Failure;
use crate::head::RequestHead;
use crate::path::escape;
use crate::proxy::{JwtProvider, TokenPlace};

/// A token as it was found.
pub(super) struct Token {
    /// The token.
    pub(super) text: String,
    place: TokenPlace,
    /// Issuers whose tokens may stand there; `None` stands for all.
    issuers: Option<Vec<String>>,
}

/// Tokens at these providers' places: fields, then parameters, then cookies; one of each place.
///
/// # Errors
/// One place has several that differ.
pub(super) fn tokens(providers: &[&JwtProvider], head: &RequestHead) -> Result<Vec<Token>, Failure> {
    let mut places: Vec<(TokenPlace, Option<Vec<String>>)> = Vec::new();
    for provider in providers {
        for place in places_of(provider) {
            let issuer = provider.issuer.as_ref().map(ToString::to_string);
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, issuers)) => match (issuers.as_mut(), issuer) {
                    (Some(issuers), Some(issuer)) => issuers.push(issuer),
                    _ => *issuers = None,
                },
                None => places.push((place, issuer.map(|issuer| vec![issuer]))),
            }
        }
    }
    let rank = |place: &TokenPlace| match place {
        TokenPlace::Header { .. } => 0,
        TokenPlace::Param(_) => 1,
        TokenPlace::Cookie(_) => 2,
    };
    places.sort_by_key(|(place, _)| rank(place));
    let mut tokens = Vec::new();
    for (place, issuers) in places {
        let mut texts = at(&place, head);
        texts.dedup();
        if texts.len() > 1 {
            return Err(Failure::Several);
        }
        if let Some(text) = texts.pop() {
            tokens.push(Token { text, place, issuers });
        }
    }
    Ok(tokens)
}

/// Whether all are one and the same token.
pub(super) fn are_same(tokens: &[Token]) -> bool {
    tokens.windows(2).all(|pair| pair[0].text == pair[1].text)
}

/// Removes the fields that a good token would set, and those that applications take for them: nobody else may set them.
pub(super) fn clean(provider: &JwtProvider, head: &mut RequestHead) {
    let claims = provider.claim_headers.iter().map(|(name, _)| name);
    for name in provider.payload_header.iter().chain(claims) {
        head.fields.remove(name.as_bytes());
        head.fields.remove_look_alikes(name.as_bytes());
    }
}

/// Puts a token where a provider looks for one first, beside what stands there already.
pub fn put(provider: &JwtProvider, text: &str, head: &mut RequestHead) {
    match places_of(provider).first() {
        Some(TokenPlace::Header { name, prefix }) => {
            head.fields.push(name.as_bytes(), format!("{prefix}{text}").as_bytes());
        }
        Some(TokenPlace::Param(name)) => {
            let separator: &[u8] = if head.path_and_query().contains(&b'?') { b"&" } else { b"?" };
            let path = [head.path_and_query(), separator, name.as_bytes(), b"=", text.as_bytes()].concat();
            head.set_path_and_query(&path);
        }
        Some(TokenPlace::Cookie(name)) => head.fields.push(b"cookie", format!("{name}={text}").as_bytes()),
        None => {}
    }
}

fn places_of(provider: &JwtProvider) -> Vec<TokenPlace> {
    if !provider.places.is_empty() {
        return provider.places.clone();
    }
    let bearer = TokenPlace::Header { name: "authorization".into(), prefix: "Bearer ".into() };
    vec![bearer, TokenPlace::Param("access_token".into())]
}

fn at(place: &TokenPlace, head: &RequestHead) -> Vec<String> {
    match place {
        TokenPlace::Header { name, prefix } => {
            // One that is no text is a token, and not a good one: it must not pass as none.
            let values = head.fields.all(name.as_bytes()).map(String::from_utf8_lossy);
            values.filter_map(|value| behind(&value, prefix)).collect()
        }
        TokenPlace::Param(name) => params(head, name),
        TokenPlace::Cookie(name) => cookies(head, name),
    }
}

/// What stands behind a prefix, wherever that is. A scheme has no case. Source: Envoy `JwtHeader.value_prefix`, RFC 9110
/// §11.1.
fn behind(value: &str, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some(value.to_owned());
    }
    let start = value.to_ascii_lowercase().find(&prefix.to_ascii_lowercase())?;
    let rest = &value[start + prefix.len()..];
    let is_legal = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    Some(rest.find(is_legal).map_or(value, |start| &rest[start..]).to_owned())
}

fn params(head: &RequestHead, name: &str) -> Vec<String> {
    let path = std::str::from_utf8(head.path_and_query()).unwrap_or_default();
    let Some((_, query)) = path.split_once('?') else { return Vec::new() };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value).into_owned()).collect()
}

/// A part of a query, as applications read it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = escape(rest);
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn cookies(head: &RequestHead, name: &str) -> Vec<String> {
    let lines = head.fields.all(b"cookie").filter_map(|line| std::str::from_utf8(line).ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let named = pairs.filter(|(key, _)| key.trim_end() == name);
    named.map(|(_, value)| value.trim_start().trim_matches('"').to_owned()).collect()
}

impl Token {
    /// Whether an issuer's token may stand where this was found.
    pub(super) fn is_for(&self, issuer: &str) -> bool {
        self.issuers.as_ref().is_none_or(|known| known.iter().any(|known| known == issuer))
    }

    /// Takes it out of the request. (Envoy leaves cookies, too.)
    pub(super) fn remove(&self, head: &mut RequestHead) {
        match &self.place {
            TokenPlace::Header { name, .. } => head.fields.remove(name.as_bytes()),
            TokenPlace::Param(name) => {
                if let Some(path) = without(head, name) {
                    head.set_path_and_query(path.as_bytes());
                }
            }
            TokenPlace::Cookie(_) => {}
        }
    }
}

fn without(head: &RequestHead, name: &str) -> Option<String> {
    let path = std::str::from_utf8(head.path_and_query()).ok()?;
    let (path, query) = path.split_once('?')?;
    let key = |pair: &str| decoded(pair.split('=').next().unwrap_or_default()).into_owned();
    let kept = query.split('&').filter(|pair| key(pair) != name);
    let kept = kept.collect::<Vec<_>>().join("&");
    Some(if kept.is_empty() { path.to_owned() } else { format!("{path}?{kept}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_path_and_query(path.as_bytes());
        for (name, value) in fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn tokens_are_found_at_their_places_and_taken_out() {
        let check = |places: Vec<TokenPlace>, mut head: RequestHead, expected: &[&str], left: &str| {
            let provider = JwtProvider { places, ..JwtProvider::default() };
            let tokens = tokens(&[&provider], &head).expect("one");
            assert_eq!(tokens.iter().map(|token| &*token.text).collect::<Vec<_>>(), expected);
            for token in &tokens {
                token.remove(&mut head);
            }
            assert_eq!(head.path_and_query(), left.as_bytes());
            assert!(head.fields.find(b"authorization").is_none());
        };
        let bearer = head("/a?access_token=p&b=c", &[("authorization", "Bearer h")]);
        check(vec![], bearer, &["h", "p"], "/a?b=c");
        check(vec![], head("/a?access_token=p", &[]), &["p"], "/a");
        check(vec![], head("/a?access%5Ftoken=p%2eq&b=%25", &[]), &["p.q"], "/a?b=%25");
        check(vec![], head("/", &[("authorization", "bearer h")]), &["h"], "/");
        check(vec![], head("/", &[("authorization", "BEARER  h")]), &["h"], "/");
    }

    #[test]
    fn a_token_that_was_put_is_found() {
        let check = |places: Vec<TokenPlace>, path: &str| {
            let provider = JwtProvider { places, ..JwtProvider::default() };
            let mut head = head(path, &[]);
            put(&provider, "a.b.c", &mut head);
            let tokens = tokens(&[&provider], &head).expect("one");
            assert_eq!(tokens.iter().map(|token| &*token.text).collect::<Vec<_>>(), ["a.b.c"], "{head:?}");
        };
        check(vec![], "/");
        check(vec![TokenPlace::Header { name: "x-jwt".into(), prefix: "".into() }], "/");
        check(vec![TokenPlace::Param("token".into()), TokenPlace::Cookie("token".into())], "/");
        check(vec![TokenPlace::Param("token".into())], "/?a=b");
        check(vec![TokenPlace::Cookie("token".into())], "/");
    }

    #[test]
    fn a_cookie_is_read() {
        let head = head("/", &[("cookie", "a=b; token=\"x.y.z\""), ("cookie", "c=d")]);
        assert_eq!(cookies(&head, "token"), ["x.y.z"]);
        assert_eq!(cookies(&head, "c"), ["d"]);
        assert_eq!(cookies(&head, "e"), [""; 0]);
    }

    #[test]
    fn what_is_no_text_is_no_good_token_rather_than_none() {
        let mut head = head("/", &[]);
        head.fields.push(b"authorization", b"Bearer a.b.c\xff");
        let tokens = tokens(&[&JwtProvider::default()], &head).expect("one");
        assert_eq!(tokens.iter().map(|token| &*token.text).collect::<Vec<_>>(), ["a.b.c\u{fffd}"]);
    }

    #[test]
    fn nobody_else_sets_the_fields_of_a_token() {
        let claim_headers = vec![("x-user-id".into(), vec!["sub".into()])];
        let payload_header = Some("x-claims".into());
        let provider = JwtProvider { payload_header, claim_headers, ..JwtProvider::default() };
        let names = ["x-user-id", "x-user_id", "X_User_Id", "x-claims", "x_claims", "x-user", "x_user"];
        let mut head = head("/", &names.map(|name| (name, "1")));
        clean(&provider, &mut head);
        assert_eq!(head.fields.iter().map(|(name, _)| name).collect::<Vec<_>>(), [b"x-user", b"x_user"]);
    }

    #[test]
    fn tokens_that_differ_are_none() {
        let places = vec![
            TokenPlace::Header { name: "authorization".into(), prefix: "Bearer ".into() },
            TokenPlace::Param("token".into()),
            TokenPlace::Cookie("token".into()),
        ];
        let provider = JwtProvider { places, ..JwtProvider::default() };
        let check = |path: &str, fields: &[(&str, &str)], expected: Option<bool>| {
            let found = tokens(&[&provider], &head(path, fields)).ok();
            assert_eq!(found.map(|tokens| are_same(&tokens)), expected, "{path} {fields:?}");
        };
        let (one, other) = ("Bearer a.b.c", "Bearer d.e.f");
        check("/", &[("authorization", one)], Some(true));
        check("/", &[("authorization", one), ("authorization", one)], Some(true));
        check("/", &[("authorization", one), ("authorization", other)], None);
        check("/", &[("authorization", one), ("authorization", other), ("authorization", one)], None);
        check("/?token=a.b.c&token=d.e.f", &[], None);
        check("/?token=a.b.c&token=", &[], None);
        check("/?token=a.b.c&%74oken=d.e.f", &[], None);
        check("/", &[("authorization", one), ("authorization", "bearer d.e.f")], None);
        check("/", &[("cookie", "token=a.b.c; token = d.e.f")], None);
        check("/", &[("cookie", "token=a.b.c; token=d.e.f")], None);
        check("/", &[("cookie", "token=a.b.c"), ("cookie", "token=d.e.f")], None);
        check("/?token=a.b.c", &[("authorization", one), ("cookie", "token=a.b.c")], Some(true));
        check("/?token=d.e.f", &[("authorization", one)], Some(false));
        check("/", &[("authorization", one), ("cookie", "token=d.e.f")], Some(false));
        // What has no token says nothing of one.
        check("/", &[("authorization", "Basic x"), ("authorization", one)], Some(true));
    }
}

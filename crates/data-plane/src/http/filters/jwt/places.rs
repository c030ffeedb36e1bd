//! Where tokens are found in a request.
//!
//! Two tokens that differ are none: which one the application would take, nobody knows. Source: Istio
//! RequestAuthentication, where what several tokens mean is left open.

use meshwork_model::head::RequestHead;
use meshwork_model::jwt::Failure;
use meshwork_model::proxy::{JwtProvider, TokenPlace};

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

/// Removes the fields that a good token would set: nobody else may.
pub(super) fn clean(provider: &JwtProvider, head: &mut RequestHead) {
    let claims = provider.claim_headers.iter().map(|(name, _)| name);
    for name in provider.payload_header.iter().chain(claims) {
        head.fields.remove(name.as_bytes());
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
            let values = head.fields.all(name.as_bytes()).filter_map(|value| std::str::from_utf8(value).ok());
            values.filter_map(|value| behind(value, prefix)).collect()
        }
        TokenPlace::Param(name) => params(head, name),
        TokenPlace::Cookie(name) => cookies(head, name),
    }
}

/// What stands behind a prefix, wherever that is. Source: Envoy `JwtHeader.value_prefix`.
fn behind(value: &str, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some(value.to_owned());
    }
    let rest = &value[value.find(prefix)? + prefix.len()..];
    let is_legal = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    Some(rest.find(is_legal).map_or(value, |start| &rest[start..]).to_owned())
}

fn params(head: &RequestHead, name: &str) -> Vec<String> {
    let path = std::str::from_utf8(head.path_and_query()).unwrap_or_default();
    let Some((_, query)) = path.split_once('?') else { return Vec::new() };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect()
}

fn cookies(head: &RequestHead, name: &str) -> Vec<String> {
    let lines = head.fields.all(b"cookie").filter_map(|line| std::str::from_utf8(line).ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"').to_owned()).collect()
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
    let kept = query.split('&').filter(|pair| pair.split('=').next() != Some(name));
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
    }

    #[test]
    fn a_cookie_is_read() {
        let head = head("/", &[("cookie", "a=b; token=\"x.y.z\""), ("cookie", "c=d")]);
        assert_eq!(cookies(&head, "token"), ["x.y.z"]);
        assert_eq!(cookies(&head, "c"), ["d"]);
        assert_eq!(cookies(&head, "e"), [""; 0]);
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
        check("/", &[("cookie", "token=a.b.c; token=d.e.f")], None);
        check("/", &[("cookie", "token=a.b.c"), ("cookie", "token=d.e.f")], None);
        check("/?token=a.b.c", &[("authorization", one), ("cookie", "token=a.b.c")], Some(true));
        check("/?token=d.e.f", &[("authorization", one)], Some(false));
        check("/", &[("authorization", one), ("cookie", "token=d.e.f")], Some(false));
        // What has no token says nothing of one.
        check("/", &[("authorization", "Basic x"), ("authorization", one)], Some(true));
    }
}

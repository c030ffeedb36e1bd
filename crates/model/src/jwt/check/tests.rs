use super::*;
use crate::proxy::{JwtRule, PathMatch, RouteMatch, TokenPlace};

/// Tokens are texts of issuer, subject, and `!` where nobody has signed them.
#[derive(Default)]
struct Ring {
    /// Providers whose keys are not at hand.
    lacking: Vec<usize>,
}

impl Keyring for Ring {
    type Signed = bool;
    type Lack = usize;

    fn read(&mut self, text: &str) -> Result<(Parts, bool), Failure> {
        let (issuer, subject) = text.split_once('.').ok_or(Failure::BadFormat)?;
        let claim = |name: &str, value: &str| (name.into(), Value::Text(value.into()));
        let claims = [claim("iss", issuer), claim("sub", subject.trim_end_matches('!'))].into();
        let parts = Parts { header: Claims::new(), claims, payload: text.to_owned() };
        Ok((parts, !text.ends_with('!')))
    }

    fn verify(&mut self, provider: usize, signed: &bool) -> Result<Result<(), Failure>, usize> {
        if self.lacking.contains(&provider) {
            return Err(provider);
        }
        Ok(if *signed { Ok(()) } else { Err(Failure::NotVerified) })
    }
}

fn provider(name: &str) -> JwtProvider {
    JwtProvider {
        name: name.into(),
        issuer: Some(name.into()),
        claim_headers: vec![("x-user".into(), vec!["sub".into()])],
        payload_in_metadata: Some("payload".into()),
        ..JwtProvider::default()
    }
}

/// Providers `a`, `b` and so on, and what every request needs of them.
fn config(providers: Vec<JwtProvider>, requires: JwtRequirement) -> JwtAuthentication {
    JwtAuthentication {
        providers: providers.into_iter().map(Arc::new).collect(),
        rules: vec![JwtRule {
            matches: RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new()),
            requires: Some(requires),
        }],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    }
}

fn head(tokens: &[&str]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"GET");
    head.set_path_and_query(b"/");
    for token in tokens {
        head.fields.push(b"authorization", format!("Bearer {token}").as_bytes());
    }
    head.fields.push(b"x-user", b"root");
    head
}

fn of(provider: usize) -> JwtRequirement {
    JwtRequirement::Provider { provider, audiences: None }
}

/// What becomes of a request with these tokens: whose are good, or what is wrong.
fn outcome(config: &JwtAuthentication, tokens: &[&str]) -> Result<Vec<usize>, Failure> {
    match authenticate(config, None, &mut head(tokens), &mut Ring::default(), 0.0) {
        Authentication::Passed(passed) => Ok(passed.good),
        Authentication::Refused(refusal) => Err(refusal.failure.expect("of tokens")),
        Authentication::Lacks(provider) => panic!("keys of {provider} are there"),
    }
}

#[test]
fn a_requirement_holds_or_says_why_not() {
    use JwtRequirement::{All, AllowMissing, AllowMissingOrFailed, Any};
    let check = |requires: JwtRequirement, tokens: &[&str], expected: Result<&[usize], Failure>| {
        let config = config(vec![provider("a"), provider("b")], requires.clone());
        let expected = expected.map(<[usize]>::to_vec);
        assert_eq!(outcome(&config, tokens), expected, "{requires:?} {tokens:?}");
    };
    check(of(0), &["a.me"], Ok(&[0]));
    check(of(0), &[], Err(Failure::Missing));
    check(of(0), &["a.me!"], Err(Failure::NotVerified));
    check(of(0), &["b.me"], Err(Failure::UnknownIssuer));
    check(of(0), &["nothing"], Err(Failure::BadFormat));
    check(of(0), &["a.me", "a.you"], Err(Failure::Several));
    check(of(0), &["a.me", "a.me"], Ok(&[0]));
    check(of(7), &["a.me"], Err(Failure::UnknownIssuer));
    let optional = |provider| Any(vec![of(provider), AllowMissing]);
    check(optional(0), &[], Ok(&[]));
    check(optional(0), &["a.me"], Ok(&[0]));
    check(optional(0), &["a.me!"], Err(Failure::NotVerified));
    check(optional(0), &["c.me"], Err(Failure::UnknownIssuer));
    // Only tokens of its own provider may stand there.
    check(optional(0), &["b.me"], Err(Failure::UnknownIssuer));
    let either = || Any(vec![of(0), of(1), All(vec![optional(0), optional(1)])]);
    check(either(), &[], Ok(&[]));
    check(either(), &["b.me"], Ok(&[1]));
    check(either(), &["b.me!"], Err(Failure::NotVerified));
    check(All(vec![of(0), of(1)]), &["a.me"], Err(Failure::Missing));
    check(AllowMissing, &["a.me!"], Err(Failure::NotVerified));
    check(AllowMissingOrFailed, &["a.me!"], Ok(&[]));
    check(AllowMissingOrFailed, &["a.me", "a.you"], Ok(&[]));
    check(AllowMissingOrFailed, &["a.me"], Ok(&[0]));
}

#[test]
fn what_a_token_leaves_is_nobodys_to_claim() {
    let check = |change: &dyn Fn(&mut JwtProvider), tokens: &[&str], user: Option<&[u8]>, is_kept: bool| {
        let mut provider = provider("a");
        change(&mut provider);
        let config = config(vec![provider], JwtRequirement::Any(vec![of(0), JwtRequirement::AllowMissing]));
        let mut head = head(tokens);
        let outcome = authenticate(&config, None, &mut head, &mut Ring::default(), 0.0);
        let is_good = !tokens.is_empty();
        let Authentication::Passed(passed) = outcome else { panic!("{outcome:?}") };
        assert_eq!((passed.is_asked, passed.found.len()), (true, usize::from(is_good)), "{tokens:?}");
        assert_eq!(head.fields.find(b"x-user"), user, "{tokens:?}");
        assert_eq!(head.fields.find(b"authorization").is_some(), is_kept, "{tokens:?}");
    };
    check(&|_| (), &[], None, false);
    check(&|_| (), &["a.me"], Some(b"me"), false);
    check(&|provider| provider.forward = true, &["a.me"], Some(b"me"), true);
    // A claim must not begin another field.
    check(&|_| (), &["a.me\u{7f}"], None, false);
    let payload = |provider: &mut JwtProvider| {
        provider.payload_header = Some("x-user".into());
        (provider.pad_payload_header, provider.claim_headers) = (true, Vec::new());
    };
    check(&payload, &["a.bcd"], Some(b"a.bcd==="), false);
}

#[test]
fn who_is_asked_next_sees_what_is_left() {
    let places = |name: &str| vec![TokenPlace::Header { name: name.into(), prefix: "".into() }];
    let all = || {
        let any = |provider| JwtRequirement::Any(vec![of(provider), JwtRequirement::AllowMissing]);
        JwtRequirement::All(vec![any(0), any(1)])
    };
    let [first, second] = ["a", "b"].map(provider);
    let config = config(vec![first, JwtProvider { places: places("x-b"), ..second }], all());
    let mut head = head(&["a.me"]);
    head.fields.push(b"x-b", b"b.you");
    let passed = authenticate(&config, None, &mut head, &mut Ring::default(), 0.0);
    let Authentication::Passed(passed) = passed else { panic!("{passed:?}") };
    assert_eq!(passed.good, [0, 1]);
    assert_eq!(head.fields.all(b"x-user").collect::<Vec<_>>(), [b"you"]);
}

#[test]
fn a_request_whose_keys_are_not_at_hand_is_as_it_came() {
    let config = config(vec![provider("a"), provider("b")], JwtRequirement::All(vec![of(0), of(1)]));
    let mut head = head(&["a.me"]);
    let mut ring = Ring { lacking: vec![0] };
    let outcome = authenticate(&config, None, &mut head, &mut ring, 0.0);
    assert_eq!(outcome, Authentication::Lacks(0));
    assert!(head.fields.find(b"authorization").is_some(), "{head:?}");
    // Who waits for keys is not let in by an alternative that would not have been asked.
    let requires = JwtRequirement::Any(vec![of(0), JwtRequirement::AllowMissingOrFailed]);
    let lenient = self::config(vec![provider("a")], requires);
    assert_eq!(authenticate(&lenient, None, &mut head, &mut ring, 0.0), Authentication::Lacks(0));
    ring.lacking.clear();
    assert!(matches!(authenticate(&lenient, None, &mut head, &mut ring, 0.0), Authentication::Passed(_)));
}

#[test]
fn routes_say_what_their_requests_need() {
    let mut config = config(vec![provider("a")], of(0));
    config.named = vec![("lenient".into(), JwtRequirement::AllowMissing)];
    let check = |route: &RouteJwt, expected: Result<bool, u16>| {
        let mut head = head(&[]);
        let got = match authenticate(&config, Some(route), &mut head, &mut Ring::default(), 0.0) {
            Authentication::Passed(passed) => Ok(passed.is_asked),
            Authentication::Refused(refusal) => Err(refusal.status),
            Authentication::Lacks(provider) => panic!("keys of {provider} are there"),
        };
        assert_eq!(got, expected, "{route:?}");
        assert_eq!(head.fields.find(b"x-user"), None, "{route:?}");
    };
    check(&RouteJwt::Off, Ok(false));
    check(&RouteJwt::Named("lenient".into()), Ok(true));
    check(&RouteJwt::Named("nothing".into()), Err(403));
}

#[test]
fn preflights_have_no_token() {
    let config = config(vec![provider("a")], of(0));
    let mut head = head(&[]);
    head.set_method(b"OPTIONS");
    head.fields.push(b"origin", b"https://a");
    let judge = |head: &mut RequestHead| authenticate(&config, None, head, &mut Ring::default(), 0.0);
    assert!(matches!(judge(&mut head), Authentication::Refused(_)));
    head.fields.push(b"access-control-request-method", b"PUT");
    assert_eq!(judge(&mut head), Authentication::Passed(Passed::default()));
}

#[test]
fn base64_is_padded() {
    assert_eq!(["", "ab", "abc", "abcd"].map(padded), ["", "ab==", "abc=", "abcd"]);
}

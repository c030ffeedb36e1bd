use super::*;

#[test]
fn a_whole_text_matches_as_by_re2() {
    let check = |pattern: &str, text: &str, expected: bool| {
        let regex = Regex::new(pattern).expect(pattern);
        assert_eq!(regex.matches(text.as_bytes()), expected, "{pattern} {text}");
    };
    check("/a", "/a", true);
    check("/a", "/ab", false);
    check("a|ab", "ab", true);
    check("/v[12]/.*", "/v2/x", true);
    check("^/a$", "/a", true);
    check(".*", "a\nb", false);
    check("(?s).*", "a\nb", true);
    check("a$", "a\n", false);
    check(r"\d+", "12", true);
    check(r"\d+", "٣", false);
    check(r"[^\d]", "٣", true);
    check(r"\D", "٣", true);
    check(r"\w", "é", false);
    check(r"\s", "\x0b", false);
    check("[a&&b]+", "a&b", true);
    check("[[a]+", "[a", true);
    check("[]a]+", "]a", true);
    check("[a-]+", "a-", true);
    check("[+--]+", "+,-", true);
    check(r"[\w.-]+", "a.b-c_9", true);
    check("[[:alpha:]]+", "aZ", true);
    check("[^[:alpha:]]", "a", false);
    check("a{,5}", "a{,5}", true);
    check("a{2}", "aa", true);
    check("a{", "a{", true);
    check(r"\Qa.b\E+", "a.bb", true);
    check(r"\x41\x{e9}\101", "AéA", true);
    check("(?i)é|K", "É", true);
    check(r"\<a\>", "<a>", true);
    check(r"a\b{x}", "a{x}", true);
    check("(?P<n>a)(?<m>b)", "ab", true);
    check("a b#c", "a b#c", true);
}

#[test]
fn what_re2_does_not_know_is_refused() {
    for pattern in [
        r"\1",
        r"(a)\1",
        "(?=a)",
        "(?<=a)",
        "(?x)a",
        "a{1001}",
        "[b-a]",
        "[a",
        "(a",
        "a)",
        r"\p{L}",
        r"\Z",
        r"\",
        r"\y",
        "*",
        "(?P=n)",
        r"[a-\d]",
        r"\x4",
        "[[:nope:]]",
    ] {
        assert!(Regex::new(pattern).is_err(), "{pattern}");
    }
    assert_eq!(Regex::new("(?:.{1000}){1000}").err().as_deref(), Some("the expression is too large"));
}

#[test]
fn bytes_that_are_no_text_match_no_letter() {
    assert!(!Regex::new("a.c").expect("an expression").matches(b"a\xffc"));
    assert!(Regex::new(r"a\Cc").expect("an expression").matches(b"a\xffc"));
}

#[test]
fn everything_that_is_found_is_replaced() {
    let check = |pattern: &str, substitution: &str, text: &str, expected: &str| {
        let rewrite = Rewrite::new(pattern, substitution).expect(pattern);
        let got = String::from_utf8(rewrite.apply(text.as_bytes()).into_owned()).expect("text");
        assert_eq!(got, expected, "{pattern} {substitution} {text}");
    };
    check("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo");
    check("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz");
    check("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz");
    check("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb");
    check("x*", "-", "abc", "-a-b-c-");
    check("b", r"[\0\\]", "abc", r"a[b\]c");
    check("(a)|(b)", r"<\1\2>", "ab", "<a><b>");
    check("b", r"\1", "abc", "abc");
    check("b", r"\n", "abc", "abc");
    check("b", r"x\", "abc", "abc");
}

#[test]
fn expressions_are_equal_by_what_is_written() {
    assert_eq!(Regex::new("a").ok(), Regex::new("a").ok());
    assert_ne!(Regex::new("a").ok(), Regex::new("[a]").ok());
    assert_ne!(Rewrite::new("a", "b").ok(), Rewrite::new("a", "c").ok());
}

#[test]
fn an_expression_begins_with_what_is_plain_to_see() {
    let check = |pattern: &str, expected: &str| {
        let regex = Regex::new(pattern).expect(pattern);
        assert_eq!(regex.literal_start(), expected, "{pattern}");
    };
    check(r"\/items\/[^\/]+\/x", "/items/");
    check("/a.b", "/a");
    check("/ab*", "/a");
    check("/ab?c", "/a");
    check("/ab{0,2}", "/a");
    check("/ab+c", "/ab");
    check("/a|/b", "");
    check("/a(b|c)", "");
    check("(?i)/a", "");
    check("^/a", "");
    check(r"/a\d", "/a");
    check(r"/a\bc", "/a");
    check(r"/a\Q|b", "");
    check(r"/a\x41", "/a");
    check("/é", "/");
    check("/a", "/a");
}

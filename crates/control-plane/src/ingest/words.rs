//! Words for messages: what a mistyped word most likely meant, and how names are listed.

/// The name most like a mistyped word, if one is near enough to be meant.
pub(crate) fn closest<'n>(word: &str, names: &[&'n str]) -> Option<&'n str> {
    // A long stranger is no typing error, and its distance would cost time.
    const MAX_WORD_BYTES: usize = 64;
    if word.len() > MAX_WORD_BYTES {
        return None;
    }
    let limit = (word.chars().count() / 3).max(1);
    let near = names.iter().map(|name| (distance(word, name), *name)).filter(|(d, _)| *d <= limit);
    near.min().map(|(_, name)| name)
}

/// Names as a person lists them: `a, b or c`, each in quotes.
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// The name that paths have for resources of a kind: of `HTTPRoute` it is `httproutes`. Source: Kubernetes.
pub fn plural(kind: &str) -> String {
    let mut plural = kind.to_lowercase();
    let ends_in_vowel = |text: &str| text.ends_with(['a', 'e', 'i', 'o', 'u']);
    if let Some(stem) = plural.strip_suffix('y').filter(|stem| !ends_in_vowel(stem)) {
        plural = format!("{stem}ies");
    } else if plural.ends_with('s') {
        plural.push_str("es");
    } else {
        plural.push('s');
    }
    plural
}

/// How many letters must be put in, taken out, changed or swapped with their neighbour; case counts nothing.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let edit = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    if swapped { edit.min(rows[i - 2][j - 2] + 1) } else { edit }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word() {
        let names = ["backendRefs", "matches", "name", "timeouts", "DENY", "ALLOW"];
        let check =
            |word: &str, expected: Option<&str>| assert_eq!(closest(word, &names), expected, "{word}");
        check("backendRef", Some("backendRefs"));
        check("backendrefs", Some("backendRefs"));
        check("mathces", Some("matches"));
        check("deny", Some("DENY"));
        check("namse", Some("name"));
        check("something", None);
        check("x", None);
        check(&"matches".repeat(100), None);
    }

    #[test]
    fn names_are_listed_as_people_do() {
        assert_eq!(list(&["a"]), "\"a\"");
        assert_eq!(list(&["a", "b", "c"]), "\"a\", \"b\" or \"c\"");
    }

    #[test]
    fn kinds_have_the_plurals_that_kubernetes_gives_them() {
        for (kind, expected) in [
            ("HTTPRoute", "httproutes"),
            ("AuthorizationPolicy", "authorizationpolicies"),
            ("ServiceEntry", "serviceentries"),
            ("Gateway", "gateways"),
            ("Telemetry", "telemetries"),
            ("PeerAuthentication", "peerauthentications"),
            ("GatewayClass", "gatewayclasses"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }
}

//! Path normalisation: one form of a path, judged by routes and policies and forwarded as judged.
//!
//! Source: RFC 3986 §6.2.2 (case, percent-encoding, dot segments); Envoy `normalize_path`, `merge_slashes`,
//! `path_with_escaped_slashes_action`.

use meshwork_model::proxy::PathNormalization;

/// The path has `%2F` or `%5C`, which origins read in different ways.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EscapedSlash;

/// Normalises the path of `path_and_query`; its query stays as it is. `None`: it was in normal form already.
///
/// # Errors
/// The path has an escaped slash and the config refuses those.
pub(crate) fn normalize(
    rules: PathNormalization,
    path_and_query: &[u8],
) -> Result<Option<Vec<u8>>, EscapedSlash> {
    let end = path_and_query.iter().position(|b| *b == b'?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    if !path.starts_with(b"/") || is_plain(path) {
        return Ok(None);
    }
    if rules.reject_escaped_slashes && has_escaped_slash(path) {
        return Err(EscapedSlash);
    }
    let mut normal = path.to_vec();
    if rules.rfc3986 {
        normal = decode_unreserved(&normal);
        normal.iter_mut().filter(|b| **b == b'\\').for_each(|b| *b = b'/');
    }
    if rules.merge_slashes {
        normal.dedup_by(|b, a| *a == b'/' && *b == b'/');
    }
    if rules.rfc3986 {
        normal = remove_dot_segments(&normal);
    }
    normal.extend_from_slice(query);
    Ok((normal != path_and_query).then_some(normal))
}

/// Whether nothing in the path could need a change: the common case, found in one pass.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|b| {
        let plain = !matches!(b, b'%' | b'\\') && (before != b'/' || !matches!(b, b'/' | b'.'));
        before = *b;
        plain
    })
}

fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(3).any(|w| w.eq_ignore_ascii_case(b"%2f") || w.eq_ignore_ascii_case(b"%5c"))
}

/// Decodes escapes of unreserved characters and writes the digits of the others in upper case; what is not an escape
/// stays.
fn decode_unreserved(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        match escape(rest) {
            Some(byte) if is_unreserved(byte) => {
                out.push(byte);
                rest = &rest[3..];
            }
            Some(_) => {
                out.extend(rest[..3].iter().map(u8::to_ascii_uppercase));
                rest = &rest[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Source: RFC 3986 §5.2.4, for paths that begin with `/`.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if is_last {
            out.push(b'/');
        }
    }
    if out.is_empty() { b"/".to_vec() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: PathNormalization =
        PathNormalization { rfc3986: true, merge_slashes: true, reject_escaped_slashes: true };

    fn check(rules: PathNormalization, path: &str, expected: Result<&str, EscapedSlash>) {
        let got = normalize(rules, path.as_bytes())
            .map(|p| p.map_or(path.to_owned(), |p| String::from_utf8(p).expect("ASCII")));
        assert_eq!(got, expected.map(str::to_owned), "{path}");
    }

    #[test]
    fn paths_have_one_form() {
        check(SAFE, "/", Ok("/"));
        check(SAFE, "/a/b?c=/../d", Ok("/a/b?c=/../d"));
        check(SAFE, "/a//b", Ok("/a/b"));
        check(SAFE, "//", Ok("/"));
        check(SAFE, "/a/./b/", Ok("/a/b/"));
        check(SAFE, "/a/../b", Ok("/b"));
        check(SAFE, "/a/b/..", Ok("/a/"));
        check(SAFE, "/..", Ok("/"));
        check(SAFE, "/../../etc", Ok("/etc"));
        check(SAFE, "/a//../b", Ok("/b"));
        check(SAFE, "/%61dmin", Ok("/admin"));
        check(SAFE, "/%2e%2E/x", Ok("/x"));
        check(SAFE, "/a%3ab", Ok("/a%3Ab"));
        check(SAFE, "/a\\b", Ok("/a/b"));
        check(SAFE, "/a\\..\\b", Ok("/b"));
        check(SAFE, "/.well-known/x", Ok("/.well-known/x"));
        check(SAFE, "/a%", Ok("/a%"));
        check(SAFE, "/a%zz%4", Ok("/a%zz%4"));
        check(SAFE, "/a/%2e%2e", Ok("/"));
        check(SAFE, "*", Ok("*"));
        check(SAFE, "", Ok(""));
    }

    #[test]
    fn normalising_twice_changes_nothing_more() {
        for path in ["/a//../b", "/%2e/%2E%2e//x/", "/a\\..\\b/.", "/%252e%252e/x"] {
            let once = normalize(SAFE, path.as_bytes()).expect("allowed").unwrap_or(path.into());
            assert_eq!(normalize(SAFE, &once), Ok(None), "{path}");
        }
    }

    #[test]
    fn escaped_slashes_are_refused_where_asked() {
        check(SAFE, "/a%2fb", Err(EscapedSlash));
        check(SAFE, "/a%5Cb", Err(EscapedSlash));
        check(SAFE, "/a?b=%2f", Ok("/a?b=%2f"));
        check(PathNormalization { reject_escaped_slashes: false, ..SAFE }, "/a%2fb", Ok("/a%2Fb"));
    }

    #[test]
    fn nothing_is_done_that_was_not_asked_for() {
        check(PathNormalization::default(), "/a//../%61\\b%2f", Ok("/a//../%61\\b%2f"));
        check(PathNormalization { merge_slashes: true, ..<_>::default() }, "/a//./b", Ok("/a/./b"));
        check(PathNormalization { rfc3986: true, ..<_>::default() }, "/a//./b", Ok("/a//b"));
    }
}

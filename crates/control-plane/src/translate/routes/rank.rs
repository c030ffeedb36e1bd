//! Which of several matches is tried first.

use std::cmp::Reverse;

use meshwork_model::mesh::{PathMatch, RouteKind, RouteMatch};

/// The rank of a match; lesser is tried earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path: (PathKind, Reverse<usize>, Reverse<usize>),
    has_no_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// The route among those that act, the oldest first; the rule; the match.
    order: [usize; 3],
}

/// Expressions stand between exact paths and prefixes: the specification leaves that open, and behind the prefix of
/// all paths none would ever match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathKind {
    Exact,
    Regex,
    Prefix,
}

impl Rank {
    /// That of a match of a route of a kind.
    ///
    /// HTTPRoute: exact paths, then longer ones, a method, more headers, more query parameters. GRPCRoute: a longer
    /// service, a longer method, more headers. VirtualService: as it is written. Then the order, for all of them.
    pub(super) fn of(kind: RouteKind, matches: &RouteMatch, order: [usize; 3]) -> Self {
        let (headers, query) = (Reverse(matches.headers.len()), Reverse(matches.query.len()));
        let has_no_method = matches.method.is_none();
        let alike = (PathKind::Exact, Reverse(0), Reverse(0));
        match kind {
            RouteKind::Http => Self { path: http(&matches.path), has_no_method, headers, query, order },
            RouteKind::Grpc => {
                let (service, method) = grpc(&matches.path);
                let path = (PathKind::Exact, Reverse(service), Reverse(method));
                Self { path, has_no_method, headers, query, order }
            }
            RouteKind::Virtual => {
                let nothing = Reverse(0);
                Self { path: alike, has_no_method: true, headers: nothing, query: nothing, order }
            }
        }
    }
}

fn http(path: &PathMatch) -> (PathKind, Reverse<usize>, Reverse<usize>) {
    let (kind, length) = match path {
        PathMatch::Exact(path) => (PathKind::Exact, path.len()),
        PathMatch::Regex(regex) => (PathKind::Regex, regex.pattern().len()),
        PathMatch::Prefix(path) | PathMatch::Text(path) => (PathKind::Prefix, path.len()),
    };
    (kind, Reverse(length), Reverse(0))
}

/// How long a call's service and its method are; an expression counts as the service, unless that is any.
fn grpc(path: &PathMatch) -> (usize, usize) {
    match path {
        PathMatch::Exact(path) => {
            let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
            (service.len(), method.len())
        }
        PathMatch::Prefix(path) | PathMatch::Text(path) => (path.trim_start_matches('/').len(), 0),
        PathMatch::Regex(regex) => match regex.pattern().strip_prefix("/[^/]+/") {
            Some(method) => (0, method.len()),
            None => (regex.pattern().len(), 0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_model::regex::Regex;

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.into())
    }

    fn regex(path: &str) -> PathMatch {
        PathMatch::Regex(Regex::new(path).expect("valid"))
    }

    #[test]
    fn paths_rank_as_each_kind_says() {
        let check = |kind, first: PathMatch, second: PathMatch| {
            let first = Rank::of(kind, &RouteMatch::path(first), [1, 0, 0]);
            let second = Rank::of(kind, &RouteMatch::path(second), [0, 0, 0]);
            assert!(first < second, "{first:?} {second:?}");
        };
        check(RouteKind::Http, exact("/a"), prefix("/longer"));
        check(RouteKind::Http, prefix("/longer"), prefix("/a"));
        check(RouteKind::Http, regex("/.*"), prefix("/longer"));
        check(RouteKind::Http, exact("/a"), regex("/longer.*"));
        check(RouteKind::Grpc, exact("/long.Service/A"), exact("/Service/LongMethod"));
        check(RouteKind::Grpc, exact("/Service/Method"), prefix("/Service"));
        check(RouteKind::Grpc, prefix("/S"), regex("/[^/]+/Method"));
        check(RouteKind::Grpc, regex("/[^/]+/Method"), prefix("/"));
    }
}

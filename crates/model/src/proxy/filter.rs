use std::sync::Arc;

use super::Rbac;

/// A filter before the router.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpFilter {
    /// The name by which routes refer to it.
    pub name: Arc<str>,
    /// Whether it is off where no route says anything of it.
    pub disabled: bool,
    /// What it does.
    pub kind: HttpFilterKind,
}

/// What a filter does.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpFilterKind {
    /// Authorization by who asks, and for what.
    Rbac(HttpRbac),
}

/// What a route, or what stands above it, says of a filter. Source: Envoy `typed_per_filter_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFilter {
    /// The filter's name.
    pub name: Arc<str>,
    /// Whether it is off; if not, it is on, whatever [`HttpFilter::disabled`] says.
    pub disabled: bool,
    /// What it does here; `None` leaves that.
    pub kind: Option<RouteFilterKind>,
}

/// What a filter does for a route.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteFilterKind {
    /// Other rules.
    Rbac(HttpRbac),
}

/// Rules, and rules that are only tried.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HttpRbac {
    /// What decides; `None` lets everything pass.
    pub rules: Option<Arc<Rbac>>,
    /// What is tried on the side: its verdict is noted, and decides nothing.
    pub shadow: Option<Arc<Rbac>>,
    /// Stands before the names under which the verdict on the side is noted.
    pub shadow_prefix: Arc<str>,
}

impl HttpFilter {
    /// Names of filters as Envoy's documentation has them.
    pub const RBAC: &str = "envoy.filters.http.rbac";

    /// A filter that is on.
    pub fn new(name: impl Into<Arc<str>>, kind: HttpFilterKind) -> Self {
        Self { name: name.into(), disabled: false, kind }
    }

    /// Rules of authorization, each under a name of its own.
    pub fn rules(rules: impl IntoIterator<Item = Arc<Rbac>>) -> Vec<Self> {
        let name =
            |index: usize| if index == 0 { Self::RBAC.into() } else { format!("{}.{index}", Self::RBAC) };
        let each = rules.into_iter().enumerate();
        each.map(|(index, rbac)| Self::rbac(name(index), rbac)).collect()
    }

    /// Rules of authorization.
    pub fn rbac(name: impl Into<Arc<str>>, rules: Arc<Rbac>) -> Self {
        Self::new(name, HttpFilterKind::Rbac(HttpRbac { rules: Some(rules), ..HttpRbac::default() }))
    }

    /// Its rules of authorization, where it has some.
    pub fn policy(&self) -> Option<&Arc<Rbac>> {
        match &self.kind {
            HttpFilterKind::Rbac(rbac) => rbac.rules.as_ref(),
        }
    }
}

impl HttpFilterKind {
    /// Its place in the one order of filters; of one kind there may be several.
    ///
    /// A filter that may refuse for nothing stands before one that costs, and what is judged stands before what changes.
    pub fn place(&self) -> usize {
        match self {
            Self::Rbac(_) => 3,
        }
    }
}

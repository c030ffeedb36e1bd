//! Where in a message something is, and the list of what is wrong there.

use std::fmt;

use meshwork_model::problem::{Code, Problem, Severity};

/// The path of a field, built on the stack while a message is walked: `filter_chains[0].filters[0].name`.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    /// The message itself.
    Root,
    /// A field.
    Field(&'a Path<'a>, &'a str),
    /// An element of a repeated field.
    Index(&'a Path<'a>, usize),
    /// An entry of a map field.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// Something was wrong, and is among the [`Problems`].
#[derive(Debug)]
pub(crate) struct Noted;

/// Collects what is wrong with one resource.
pub(crate) struct Problems {
    resource: String,
    list: Vec<Problem>,
}

impl Problems {
    /// `resource` names it: `Listener web`.
    pub(crate) fn of(resource: impl Into<String>) -> Self {
        Self { resource: resource.into(), list: Vec::new() }
    }

    /// Notes an error, and yields nothing, so that a decoder can return it.
    pub(crate) fn error<T>(&mut self, at: &Path<'_>, message: impl Into<String>, fix: &str) -> Option<T> {
        let problem = Problem::error(self.resource.clone(), at.to_string(), message, fix);
        self.list.push(problem.of(Code::Refused));
        None
    }

    /// Notes an error, where "nothing" is a value, too.
    pub(crate) fn refuse<T>(
        &mut self,
        at: &Path<'_>,
        message: impl Into<String>,
        fix: &str,
    ) -> Result<T, Noted> {
        self.error::<()>(at, message, fix);
        Err(Noted)
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.list
    }
}

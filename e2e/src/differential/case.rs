//! A case as its file says it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::answer::Origin;
use super::certs::Cert;
use super::step::Step;

/// A case. `e2e/differential/README.md` explains every field.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// Its path below `cases`, without the ending.
    #[serde(skip)]
    pub(super) name: String,
    /// What is judged, in a sentence.
    #[serde(rename = "about")]
    pub(super) _about: String,

    /// A whole bootstrap, in place of the pieces below.
    pub(super) bootstrap: Option<Value>,
    /// The template that the pieces are put into.
    #[serde(default)]
    pub(super) base: Base,
    pub(super) listener: Option<Value>,
    pub(super) filter_chain: Option<Value>,
    pub(super) hcm: Option<Value>,
    pub(super) router: Option<Value>,
    pub(super) tcp_proxy: Option<Value>,
    pub(super) network_filters: Option<Vec<Value>>,
    pub(super) http_filters: Option<Vec<Value>>,
    pub(super) routes: Option<Vec<Value>>,
    pub(super) virtual_hosts: Option<Vec<Value>>,
    pub(super) route_config: Option<Value>,
    pub(super) cluster: Option<Value>,
    pub(super) clusters: Option<Vec<Value>>,
    pub(super) listeners: Option<Vec<Value>>,
    pub(super) secrets: Option<Vec<Value>>,
    /// Merged over the finished bootstrap; such a case has a process of its own.
    pub(super) more: Option<Value>,

    #[serde(default)]
    pub(super) origins: BTreeMap<String, Origin>,
    #[serde(default)]
    pub(super) shared_origins: bool,
    #[serde(default)]
    pub(super) certs: BTreeMap<String, Cert>,
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) requests: Vec<Step>,
    /// Files below `$DIR` that both must have written alike.
    #[serde(default)]
    pub(super) logs: Vec<String>,

    #[serde(default)]
    pub(super) differs: Vec<Differs>,
    pub(super) only: Option<Program>,
    /// What the config is refused with, where it is.
    pub(super) refused: Option<Refused>,
    #[serde(default)]
    pub(super) own_process: bool,
    /// We may still refuse it; it is judged as soon as we do not.
    #[serde(default)]
    pub(super) awaited: bool,
    #[serde(default)]
    pub(super) covers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Base {
    #[default]
    Http,
    Tcp,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(super) enum Program {
    Meshwork,
    Envoy,
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meshwork => "meshwork",
            Self::Envoy => "envoy",
        }
    }
}

/// Something that may differ, as a path of a difference with `*` for any run of characters, and why.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Differs {
    pub(super) what: String,
    #[serde(rename = "why")]
    pub(super) _why: String,
    /// It need not differ every time.
    #[serde(default)]
    pub(super) sometimes: bool,
}

/// Parts of the messages with which the programs refuse the config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refused {
    pub(super) meshwork: Option<String>,
    pub(super) envoy: Option<String>,
}

impl Case {
    /// The origins, one named `origin` where the case names none.
    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        let mut origins = self.origins.clone();
        if origins.is_empty() {
            origins.insert("origin".to_owned(), Origin::default());
        }
        origins
    }

    /// Whether the programs are expected to differ in it.
    pub(super) fn differs_from_envoy(&self) -> bool {
        let refuses_alone = self.refused.as_ref().is_some_and(|r| r.meshwork.is_some() != r.envoy.is_some());
        let told_apart = self.requests.iter().any(Step::tells_apart);
        refuses_alone || told_apart || self.only.is_some() || self.differs.iter().any(|d| !d.sometimes)
    }

    /// Whether the case runs on this program.
    pub(super) fn runs_on(&self, program: Program) -> bool {
        self.only.is_none_or(|only| only == program)
    }
}

/// Reads the cases whose names contain one of the filters; panics where one is no case.
pub(super) fn load(folder: &Path, filters: &[&str]) -> Vec<Case> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.sort();
    let name = |file: &str| {
        let below = file.strip_prefix(&format!("{}/", folder.display())).unwrap_or(file);
        below.trim_end_matches(".yaml").to_owned()
    };
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| is_named(name, f));
    let files = files.iter().map(|file| (file, name(file))).filter(|(_, name)| wanted(name));
    files.map(|(file, name)| read(file, name)).collect()
}

fn is_named(name: &str, filter: &str) -> bool {
    let filter = filter.trim_start_matches("e2e/").trim_start_matches("differential/");
    let filter = filter.trim_start_matches("cases/").trim_end_matches(".yaml");
    name.contains(filter)
}

fn read(file: &str, name: String) -> Case {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let case: Case = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    Case { name, ..case }
}

fn collect(folder: &Path, files: &mut Vec<String>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            files.push(path.to_string_lossy().into_owned());
        }
    }
}

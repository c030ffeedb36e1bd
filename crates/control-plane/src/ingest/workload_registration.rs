//! WorkloadRegistration: which process of a host has an identity. Source: `meshwork.dev/v1alpha1`.

use std::sync::Arc;

use meshwork_model::mesh::{UnixSelectors, WorkloadRegistration};
use meshwork_model::problem::Code;

use super::metadata::{Metadata, is_label};
use super::reader::{Fields, Item, Report, Text};
use super::route::limited;

/// The most agents that may attest one workload: each host has one.
const MAX_AGENTS: usize = 1_000;
/// The longest path that Linux takes, in bytes. Source: `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4_095;
/// The longest hint, in bytes.
const MAX_HINT_BYTES: usize = 253;
/// Digits of SHA-256 in hexadecimal.
const SHA256_DIGITS: usize = 64;
/// The largest user or group. Source: Linux, where the number above it stands for none.
const MAX_ID: i64 = u32::MAX as i64 - 1;

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<WorkloadRegistration> {
    let is_reserved = *metadata.key.namespace == *crate::SYSTEM_NAMESPACE;
    if is_reserved {
        let message = format!("the identities of {} belong to the control plane", crate::SYSTEM_NAMESPACE);
        let fix = "Put it into the namespace of the workload";
        report.error("metadata.namespace", metadata.place, message, fix);
    }
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let account = spec.required_text(report, "serviceAccount").and_then(|text| account(&text, report));
    let agents = agents(&mut spec, report);
    let selectors = spec.required(report, "selectors").and_then(|item| selectors(&item, report));
    let hint = spec.text(report, "hint").and_then(|text| hint(&text, report));
    spec.close(report);
    let registration = WorkloadRegistration {
        key: metadata.key.clone(),
        service_account: account?,
        agents: agents?,
        selectors: selectors?,
        hint,
    };
    (!is_reserved).then_some(registration)
}

fn account(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    if is_label(text.value) {
        return Some(text.value.into());
    }
    let fix = "Use a-z, 0-9 and '-', with a letter or digit at both ends";
    text.error(report, format!("\"{}\" is not the name of a service account", text.value), fix);
    None
}

fn agents(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let _ = spec.required(report, "agents")?;
    let items = limited(spec, report, "agents", MAX_AGENTS);
    if items.is_empty() {
        let message = "no agent may attest the workload";
        let fix = "Name the agent of its host as NAMESPACE/SERVICEACCOUNT";
        report.error_of(Code::MissingField, &spec.path_of("agents"), spec.place_of("agents"), message, fix);
        return None;
    }
    let mut agents = Vec::new();
    for item in &items {
        let Some(text) = item.text(report) else { continue };
        let named = text.value.split_once('/').filter(|(of, name)| is_label(of) && is_label(name));
        let Some((namespace, name)) = named else {
            let message = format!("\"{}\" is not an agent", text.value);
            text.error(report, message, "Write it as NAMESPACE/SERVICEACCOUNT");
            continue;
        };
        let agent = (Arc::from(namespace), Arc::from(name));
        if agents.contains(&agent) {
            let message = format!("the agent {} is named already", text.value);
            text.error_of(Code::Duplicate, report, message, "Name each once");
        }
        agents.push(agent);
    }
    (agents.len() == items.len()).then_some(agents)
}

fn selectors(item: &Item<'_>, report: &mut Report<'_>) -> Option<UnixSelectors> {
    let mut fields = item.fields(report)?;
    let mut id = |name| fields.integer(report, name, 0..=MAX_ID).and_then(|id| u32::try_from(id).ok());
    let (uid, gid) = (id("uid"), id("gid"));
    let path = fields.text(report, "executable");
    let executable = path.as_ref().and_then(|text| executable(text, report));
    let digest = fields.text(report, "sha256");
    let sha256 = digest.as_ref().and_then(|text| sha256(text, report));
    let is_whole = executable.is_some() == path.is_some() && sha256.is_some() == digest.is_some();
    fields.demand_some(
        report,
        "nothing is said of the process, so that every one of the host would be the workload",
        "Write `uid`, `gid`, `executable` or `sha256`",
    );
    fields.close(report);
    let selectors = UnixSelectors { uid, gid, executable, sha256 };
    (is_whole && !selectors.is_empty()).then_some(selectors)
}

/// The kernel tells an executable by its absolute path, without `.` and `..`.
fn executable(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    let is_good = text.value.len() <= MAX_PATH_BYTES
        && !text.value.contains('\0')
        && text.value.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part));
    if is_good {
        return Some(text.value.into());
    }
    let message = format!("\"{}\" is not the whole path of a file", text.value);
    text.error(report, message, "Write it as /usr/bin/web: where the file itself is, not a link to it");
    None
}

fn sha256(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    if text.value.len() == SHA256_DIGITS && text.value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(text.value.to_ascii_lowercase().into());
    }
    let message = format!("expected {SHA256_DIGITS} hexadecimal digits, found \"{}\"", text.value);
    text.error(report, message, "Write what `sha256sum` prints of the executable");
    None
}

fn hint(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    if !text.value.is_empty() && text.value.len() <= MAX_HINT_BYTES && !text.value.contains(char::is_control)
    {
        return Some(text.value.into());
    }
    text.error(report, format!("a hint has 1 to {MAX_HINT_BYTES} bytes, and no control characters"), "");
    None
}

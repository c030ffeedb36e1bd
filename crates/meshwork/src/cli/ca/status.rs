//! `meshwork ca status`.

use serde_json::Value;

use super::{Authority, PATH, progress, short};
use crate::cli::api::Api;
use crate::cli::output::{self, Format};
use crate::cli::writes::counted;
use crate::cli::{runtime, table};

/// Show the roots, who signs under which, how far a rotation is and who is waited for
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca status
  meshwork ca status -o json | jq -r '.rotation.waiting[].name'

Exit codes: 0 it answered; 1 it did not; 2 the command line is wrong.")]
pub(super) struct CaStatus {
    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl CaStatus {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let told = runtime::on_this_thread(async { self.api.client()?.get(PATH).await })?;
        if self.output.print(&told)? {
            return Ok(());
        }
        output::line(text(&serde_json::from_value(told)?, output::colours()).trim_end());
        Ok(())
    }
}

fn text(authority: &Authority, colours: bool) -> String {
    let mut parts = vec![format!("trust domain {}\n", authority.trust_domain), roots(authority, colours)];
    parts.push(intermediates(authority, colours));
    if !authority.federated.is_empty() {
        parts.push(federated(&authority.federated, colours));
    }
    parts.push(rotation(authority));
    let revoked = &authority.revoked;
    parts.push(match (revoked.identities, revoked.serials) {
        (0, 0) => "nobody is revoked\n".to_owned(),
        (identities, serials) => format!(
            "revoked: {}, {}; `meshwork ca revocations` lists them\n",
            counted(identities, "identity"),
            counted(serials, "certificate")
        ),
    });
    if let Some(trouble) = &authority.trouble {
        parts.push(format!("trouble: {trouble}\n"));
    }
    parts.join("\n")
}

fn roots(authority: &Authority, colours: bool) -> String {
    let row = |root: &super::Root| {
        let plugged = if root.plugged { "plugged in" } else { "own" };
        vec![
            short(&root.fingerprint).to_owned(),
            root.role.clone(),
            root.not_before.clone(),
            root.not_after.clone(),
            plugged.to_owned(),
        ]
    };
    let rows: Vec<_> = authority.roots.iter().map(row).collect();
    table::render(&["ROOT", "ROLE", "FROM", "UNTIL", "KIND"], &rows, colours)
}

fn intermediates(authority: &Authority, colours: bool) -> String {
    let row = |one: &super::Intermediate| {
        let own = if one.is_own { " (asked)" } else { "" };
        let plugged = if one.plugged { "plugged in" } else { "own" };
        vec![
            format!("{}{own}", one.replica),
            short(&one.root).to_owned(),
            one.serial.clone(),
            one.not_after.clone(),
            plugged.to_owned(),
        ]
    };
    let rows: Vec<_> = authority.intermediates.iter().map(row).collect();
    table::render(&["CONTROL PLANE", "SIGNS UNDER", "INTERMEDIATE", "UNTIL", "KIND"], &rows, colours)
}

fn federated(domains: &[Value], colours: bool) -> String {
    let row = |domain: &Value| {
        let text = |name: &str| match &domain[name] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Array(list) => list.len().to_string(),
            _ => "-".to_owned(),
        };
        let state = match domain["error"].as_str() {
            Some(error) => format!("refused: {error}"),
            None => "good".to_owned(),
        };
        vec![text("trustDomain"), text("roots"), text("source"), text("sequence"), text("refreshedAt"), state]
    };
    let rows: Vec<_> = domains.iter().map(row).collect();
    table::render(&["FEDERATED", "ROOTS", "SOURCE", "SEQUENCE", "REFRESHED", "STATE"], &rows, colours)
}

fn rotation(authority: &Authority) -> String {
    let Some(rotation) = &authority.rotation else { return "no root was replaced yet\n".to_owned() };
    let mut lines = vec![progress::line(rotation)];
    let (from, to) = (short(&rotation.from), rotation.to.as_deref().map_or("a new root", short));
    if rotation.running {
        lines.push(format!("  from {from} to {to}, started by {} at {}", rotation.by, rotation.started_at));
        let offline = rotation.without_offline.then(|| "those that are offline".to_owned());
        let without: Vec<String> = rotation.without.iter().cloned().chain(offline).collect();
        if !without.is_empty() {
            lines.push(format!("  without {}", without.join(", ")));
        }
        lines.extend(rotation.trouble.as_ref().map(|trouble| format!("  cannot go on yet: {trouble}")));
        lines.extend(progress::reasons(rotation));
    } else {
        lines.push(format!("  at {}", rotation.changed_at));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_that_matters_is_told() {
        let told = json!({
            "trustDomain": "mesh.local",
            "roots": [
                {"fingerprint": "aaaaaaaaaaaaaaaaaaaa", "serial": "1", "role": "active", "notBefore": "2026-01-01T00:00:00Z",
                 "notAfter": "2036-01-01T00:00:00Z", "plugged": false},
                {"fingerprint": "bbbbbbbbbbbbbbbbbbbb", "serial": "2", "role": "next", "notBefore": "2026-02-01T00:00:00Z",
                 "notAfter": "2036-02-01T00:00:00Z", "plugged": true},
            ],
            "intermediates": [{"replica": "r1", "serial": "9", "root": "aaaaaaaaaaaaaaaaaaaa",
                "notAfter": "2026-03-01T00:00:00Z", "plugged": false, "isOwn": true}],
            "rotation": {"number": 1, "step": "added", "aborting": false, "running": true, "from": "aaaaaaaaaaaaaaaaaaaa",
                "to": "bbbbbbbbbbbbbbbbbbbb", "by": "uid 0", "startedAt": "2026-02-01T00:00:00Z",
                "changedAt": "2026-02-01T00:00:00Z", "without": ["shop/old"], "withoutOffline": true, "concerned": 2,
                "done": 1, "waiting": [{"name": "shop/web", "reason": "notAcknowledged", "message": "not yet"}],
                "hidden": 0, "trouble": null},
            "revoked": {"identities": 1, "serials": 2},
            "federated": [{"trustDomain": "partner.example", "roots": ["x"], "source": "config", "sequence": 4, "error": "it is late"}],
            "trouble": "a disk is full",
        });
        let text = text(&serde_json::from_value(told).expect("an authority"), false);
        for part in [
            "aaaaaaaaaaaaaaaa  active",
            "bbbbbbbbbbbbbbbb  next",
            "r1 (asked)",
            "rotation 1: added: 1 of 2 trust the next root; waiting for shop/web",
            "without shop/old, those that are offline",
            "  shop/web: not yet",
            "revoked: 1 identity, 2 certificates",
            "partner.example  1      config  4",
            "refused: it is late",
            "trouble: a disk is full",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}

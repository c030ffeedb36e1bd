//! `meshwork ca revoke`, `meshwork ca unrevoke`, `meshwork ca revocations`.

use serde_json::{Value, json};

use super::PATH;
use crate::cli::api::{Api, encoded};
use crate::cli::output::{self, Format};
use crate::cli::{runtime, table};

/// Believe an identity, or one certificate, no more: within seconds, in the whole mesh
///
/// It gets no certificate, no token and no config any more; its streams end, its endpoints go, and everybody refuses it, on open
/// connections, too. Envoy and gRPC know identities only: they accept a certificate that is revoked by its serial number until it
/// ends. Whoever is revoked need not be known: it is then for who comes with it later, and that is said.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca revoke --identity shop/web --reason 'its key was stolen'
  meshwork ca revoke --serial $(openssl x509 -in STATE/identity.pem -noout -serial | cut -d= -f2)
  meshwork ca revoke --identity shop/web -o json | jq .known

Exit codes: 0 it is revoked, whether anybody is known to have it or not; 1 it is not; 2 the command line is wrong.")]
pub(super) struct Revoke {
    #[command(flatten)]
    what: What,

    /// Why, for those who come after
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Take a revocation back
///
/// Who has a certificate that has not ended is let in again at once: also whoever stole its key.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca revocations
  meshwork ca unrevoke --identity shop/web
  meshwork ca unrevoke --serial 5f3a9c01d2e4b6a8

Exit codes: 0 it is revoked no more; 1 it was not, or is still; 2 the command line is wrong.")]
pub(super) struct Unrevoke {
    #[command(flatten)]
    what: What,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// List who is revoked, why and by whom
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca revocations
  meshwork ca revocations -o json | jq -r '.items[].identity // empty'")]
pub(super) struct Revocations {
    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// The most who are named of those who have something: a fleet fills a screen.
const MAX_HOLDERS: usize = 5;

/// What is revoked.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// An identity: spiffe://…, or NAMESPACE/SERVICEACCOUNT of the mesh's own trust domain
    #[arg(long, value_name = "ID")]
    identity: Option<String>,

    /// The serial number of a certificate, hexadecimal
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
}

impl Revoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let body = match (&self.what.identity, &self.what.serial) {
            (Some(identity), _) => json!({ "identity": identity, "reason": self.reason }),
            (None, serial) => json!({ "serial": serial, "reason": self.reason }),
        };
        let path = format!("{PATH}/revocations");
        let told = runtime::on_this_thread(async { self.api.client()?.post(&path, &body).await })?;
        if !self.output.print(&told)? {
            output::line(revoked(&told));
        }
        if let Some(warning) = warning(&told) {
            output::note(warning);
        }
        if told["serial"].is_string() && self.output == Format::Text {
            output::note(
                "Envoy and gRPC accept it until it ends; they refuse an identity that is revoked at once",
            );
        }
        Ok(())
    }
}

/// What is revoked now, and who has it.
fn revoked(told: &Value) -> String {
    let holders = texts(&told["holders"]);
    let more = holders.len().saturating_sub(MAX_HOLDERS);
    let names = holders.get(..MAX_HOLDERS).unwrap_or(&holders).join(", ");
    match (names.as_str(), more) {
        ("", _) => format!("{} is revoked", subject(told)),
        (names, 0) => format!("{} is revoked; had by {names}", subject(told)),
        (names, more) => format!("{} is revoked; had by {names} and {more} more", subject(told)),
    }
}

/// What there is to say where nobody is known to have it: as a rule somebody has mistyped.
fn warning(told: &Value) -> Option<String> {
    let note = told["note"].as_str()?;
    let (flag, value) = match (told["identity"].as_str(), told["serial"].as_str()) {
        (Some(identity), _) => ("identity", identity),
        (None, serial) => ("serial", serial.unwrap_or_default()),
    };
    let near = texts(&told["near"]).join(", or ");
    let near = if near.is_empty() { near } else { format!("; did you mean {near}?") };
    Some(format!("warning: {note}{near}\n  to take it back: meshwork ca unrevoke --{flag} {value}"))
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

impl Unrevoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (name, value) = match (&self.what.identity, &self.what.serial) {
            (Some(identity), _) => ("identity", identity.as_str()),
            (None, serial) => ("serial", serial.as_deref().unwrap_or_default()),
        };
        let path = format!("{PATH}/revocations?{name}={}", encoded(value));
        let told = runtime::on_this_thread(async { self.api.client()?.delete(&path).await })?;
        if !self.output.print(&told)? {
            let what = if name == "serial" { "certificate " } else { "" };
            output::line(format_args!("{what}{value} is not revoked any more"));
        }
        Ok(())
    }
}

impl Revocations {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let path = format!("{PATH}/revocations");
        let told = runtime::on_this_thread(async { self.api.client()?.get(&path).await })?;
        if self.output.print(&told)? {
            return Ok(());
        }
        let items = told["items"].as_array().map_or(&[][..], Vec::as_slice);
        if items.is_empty() {
            output::note("nobody is revoked");
            return Ok(());
        }
        let rows: Vec<_> = items.iter().map(row).collect();
        let text = table::render(&["REVOKED", "AT", "BY", "REASON"], &rows, output::colours());
        output::line(text.trim_end());
        Ok(())
    }
}

fn row(item: &Value) -> Vec<String> {
    let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let reason = Some(text("reason")).filter(|reason| !reason.is_empty());
    vec![subject(item), text("at"), text("by"), reason.unwrap_or_else(|| "-".to_owned())]
}

fn subject(item: &Value) -> String {
    match (item["identity"].as_str(), item["serial"].as_str()) {
        (Some(identity), _) => identity.to_owned(),
        (None, serial) => format!("certificate {}", serial.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_what_is_revoked_is_told_and_so_is_that_nobody_has() {
        let web = "spiffe://mesh.local/ns/shop/sa/web";
        let of = |holders: Value| revoked(&json!({ "identity": web, "holders": holders }));
        assert_eq!(of(json!([])), format!("{web} is revoked"));
        assert_eq!(of(json!(["shop/a", "shop/b"])), format!("{web} is revoked; had by shop/a, shop/b"));
        let many = of(json!(["a", "b", "c", "d", "e", "f", "g"]));
        assert_eq!(many, format!("{web} is revoked; had by a, b, c, d, e and 2 more"));

        assert_eq!(warning(&json!({ "identity": web, "holders": ["a"], "near": [] })), None);
        let told = json!({ "identity": "spiffe://mesh.local/ns/shop/sa/wbe", "near": [web], "note": "nobody has it" });
        let expected = format!(
            "warning: nobody has it; did you mean {web}?\n  to take it back: meshwork ca unrevoke --identity \
             spiffe://mesh.local/ns/shop/sa/wbe"
        );
        assert_eq!(warning(&told), Some(expected));
        let told = json!({ "serial": "ab", "near": [], "note": "nobody has it" });
        let expected = "warning: nobody has it\n  to take it back: meshwork ca unrevoke --serial ab";
        assert_eq!(warning(&told).as_deref(), Some(expected));
    }

    #[test]
    fn a_revocation_is_a_row() {
        let check = |item: Value, expected: [&str; 4]| assert_eq!(row(&item), expected);
        let at = "2026-01-01T00:00:00Z";
        check(
            json!({ "identity": "spiffe://x/y", "reason": "lost", "by": "ann", "at": at }),
            ["spiffe://x/y", at, "ann", "lost"],
        );
        check(
            json!({ "serial": "ab", "reason": "", "by": "ann", "at": at }),
            ["certificate ab", at, "ann", "-"],
        );
    }
}

//! `meshwork ca revoke`, `meshwork ca unrevoke`, `meshwork ca revocations`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::PATH;
use crate::cli::api::Api;
use crate::cli::output::{self, Format};
use crate::cli::{runtime, table};

/// Believe an identity, or one certificate, no more: within seconds, in the whole mesh
///
/// It gets no certificate, no token and no config any more; its streams end, its endpoints go, and everybody refuses it, on open
/// connections, too. Envoy and gRPC know identities only: they accept a certificate that is revoked by its serial number until it
/// ends.
#[derive(clap::Args)]
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
#[derive(clap::Args)]
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
pub(super) struct Revocations {
    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

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
        if self.output.print(&told)? {
            return Ok(());
        }
        output::line(format_args!("{} is revoked", subject(&told)));
        if told["serial"].is_string() {
            output::note(
                "Envoy and gRPC accept it until it ends; they refuse an identity that is revoked at once",
            );
        }
        Ok(())
    }
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

/// A value as it stands in a query. Source: RFC 3986 §2.1, §3.4.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_for_a_query() {
        assert_eq!(encoded("spiffe://mesh.local/ns/shop/sa/web"), "spiffe://mesh.local/ns/shop/sa/web");
        assert_eq!(encoded("a b&c=d#ä"), "a%20b%26c%3Dd%23%C3%A4");
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

//! `meshwork ca bundle`.

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::Value;

use super::PATH;
use crate::cli::api::Api;
use crate::cli::{output, runtime};

/// Print the mesh's own bundle: what other trust domains have to know to believe its identities
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork ca bundle > mesh.local.json
  meshwork ca bundle -o pem > mesh.local.pem

Another mesh writes it into its MeshConfig, `federatedTrustDomains[].bundle`, as one or the other; docs/federation.md tells more.")]
pub(super) struct CaBundle {
    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "json")]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// A SPIFFE bundle document: roots, and keys for JWT-SVIDs
    Json,
    /// The root certificates
    Pem,
}

impl CaBundle {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let path = format!("{PATH}/bundle");
        let document = runtime::on_this_thread(async { self.api.client()?.get(&path).await })?;
        match self.output {
            Form::Json => output::line(serde_json::to_string_pretty(&document)?),
            Form::Pem => {
                output::line(pem(&document).context("the control plane answers with no bundle")?.trim_end());
            }
        }
        Ok(())
    }
}

/// The certificates of a document. They are in base64 there already.
fn pem(document: &Value) -> Option<String> {
    let mut text = String::new();
    for key in document["keys"].as_array()? {
        for certificate in key["x5c"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            let letters: Vec<char> = certificate.chars().collect();
            for line in letters.chunks(64) {
                text.extend(line);
                text.push('\n');
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn certificates_of_a_document_are_pem() {
        let long = "A".repeat(65);
        let document = json!({ "keys": [
            { "use": "x509-svid", "x5c": [long] },
            { "use": "jwt-svid", "kid": "a" },
            { "use": "x509-svid", "x5c": ["QQ=="] },
        ] });
        let expected = format!(
            "-----BEGIN CERTIFICATE-----\n{}\nA\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nQQ==\n-----END \
             CERTIFICATE-----\n",
            "A".repeat(64)
        );
        assert_eq!(pem(&document), Some(expected));
        assert_eq!(pem(&json!([])), None);
    }
}

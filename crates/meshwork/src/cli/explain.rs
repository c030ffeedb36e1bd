//! `meshwork explain`.

use anyhow::bail;
use meshwork_model::reason::{ALL, Reason};
use serde_json::json;

use super::output::{self, Format};

/// Say in words why the mesh answered in a service's place
#[derive(clap::Args)]
#[command(
    after_help = "The code stands in the answer's `x-meshwork-reason` header, its body, and the access log."
)]
pub(crate) struct Explain {
    /// A reason's code, such as MW0201; all of them where it is left out
    code: Option<String>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let chosen: Vec<Reason> = match &self.code {
            None => ALL.to_vec(),
            Some(code) => ALL.iter().filter(|r| r.words().code.eq_ignore_ascii_case(code)).copied().collect(),
        };
        if chosen.is_empty() {
            bail!(
                "there is no reason {}; `meshwork explain` lists all of them",
                self.code.unwrap_or_default()
            );
        }
        if self.output == Format::Json {
            return output::json(&chosen.iter().map(|r| as_json(*r)).collect::<Vec<_>>());
        }
        for reason in chosen {
            let words = reason.words();
            output::line(format_args!("{}  {}\n        {}", words.code, words.what, words.fix));
        }
        Ok(())
    }
}

fn as_json(reason: Reason) -> serde_json::Value {
    let words = reason.words();
    json!({
        "code": words.code, "flag": words.flag, "status": words.status, "grpc_status": words.grpc_status,
        "what": words.what, "fix": words.fix,
    })
}

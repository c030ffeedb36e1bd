//! `meshwork explain`.

use anyhow::bail;
use meshwork_model::problem::Code;
use meshwork_model::reason::{ALL, Reason};
use serde_json::{Value, json};

use super::output::{self, Format};

/// Say in words what a code means: why the mesh answered in a service's place, or what is wrong with config
#[derive(clap::Args)]
#[command(after_help = "\
A reason's code stands in the answer's `x-meshwork-reason` header, its body, and the access log; a config problem's in \
brackets behind `error` or `warning`, and in the API's answers.

Examples:
  meshwork explain MW0201
  meshwork explain MW1102 -o json")]
pub(crate) struct Explain {
    /// The code, such as MW0201; all of them where it is left out
    code: Option<String>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let is_meant =
            |code: &str| self.code.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(code));
        let reasons: Vec<Reason> = ALL.iter().filter(|r| is_meant(r.words().code)).copied().collect();
        let codes: Vec<Code> = Code::ALL.iter().filter(|c| is_meant(c.words().code)).copied().collect();
        if reasons.is_empty() && codes.is_empty() {
            let wanted = self.code.unwrap_or_default();
            bail!("there is no code {wanted}; `meshwork explain` lists all of them");
        }
        let all: Vec<Value> = reasons
            .iter()
            .map(|r| reason_as_json(*r))
            .chain(codes.iter().map(|c| code_as_json(*c)))
            .collect();
        if self.output.print(&all)? {
            return Ok(());
        }
        for words in reasons.iter().map(|reason| reason.words()) {
            output::line(format_args!("{}  {}\n        {}", words.code, words.what, words.fix));
        }
        for words in codes.iter().map(|code| code.words()) {
            output::line(format_args!(
                "{}  {}\n        {}\n        {}",
                words.code, words.title, words.cause, words.fix
            ));
        }
        Ok(())
    }
}

fn reason_as_json(reason: Reason) -> Value {
    let words = reason.words();
    json!({
        "code": words.code, "flag": words.flag, "status": words.status, "grpc_status": words.grpc_status,
        "what": words.what, "fix": words.fix,
    })
}

fn code_as_json(code: Code) -> Value {
    let words = code.words();
    json!({ "code": words.code, "title": words.title, "cause": words.cause, "fix": words.fix })
}

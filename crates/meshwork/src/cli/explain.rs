//! `meshwork explain`.

mod request;

use anyhow::bail;
use meshwork_model::problem::Code;
use meshwork_model::reason::{ALL, Reason};
use serde_json::{Value, json};

use super::output::{self, Format};
use request::Asked;

/// Say what becomes of a request and why, or what a code means
///
/// With `--from` and `--to`: which route takes the request, which endpoint it goes to, as whom the caller comes there, and
/// what each policy says, by the same functions that proxies run. Nothing is sent. With a code, or with nothing: why the
/// mesh answered in a service's place, or what is wrong with config.
#[derive(clap::Args)]
#[command(after_help = "\
A reason's code stands in the answer's `x-meshwork-reason` header, its body, and the access log; a config problem's in \
brackets behind `error` or `warning`, and in the API's answers.

Examples:
  meshwork explain MW0201
  meshwork explain --from web.shop --to cart.shop:80 GET /items
  meshwork explain --from web --to cart POST '/items?x=1' -H 'x-tenant: a'
  meshwork explain --from web --to cart GET /me --claims '{\"iss\": \"https://i.example\"}'
  meshwork explain --config ./mesh --from spiffe://mesh.local/ns/shop/sa/web --to cart.shop")]
pub(crate) struct Explain {
    /// A code, such as MW0201; all of them where nothing is said. Behind `--from` and `--to`: the method
    #[arg(value_name = "CODE|METHOD")]
    first: Option<String>,

    /// Behind `--from` and `--to`: path and query
    #[arg(value_name = "PATH", requires = "from")]
    path: Option<String>,

    #[command(flatten)]
    asked: Asked,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.asked.is_asked() {
            return self.asked.run(self.first, self.path, self.output);
        }
        let code = self.first;
        let is_meant = |known: &str| code.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(known));
        let reasons: Vec<Reason> = ALL.iter().filter(|r| is_meant(r.words().code)).copied().collect();
        let codes: Vec<Code> = Code::ALL.iter().filter(|c| is_meant(c.words().code)).copied().collect();
        if reasons.is_empty() && codes.is_empty() {
            let wanted = code.unwrap_or_default();
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

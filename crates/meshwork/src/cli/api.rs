//! Asking the control plane's API.

use anyhow::Context;

/// Where the control plane's API answers.
#[derive(clap::Args)]
pub(crate) struct Api {
    /// Where the control plane's API answers
    #[arg(long, value_name = "URL", env = "MESHWORK_API", default_value = "http://127.0.0.1:15040")]
    api: String,
}

impl Api {
    /// GETs a path; gives the answer's text.
    ///
    /// # Errors
    /// Nobody answers there, or not with 200.
    pub(crate) async fn fetch(&self, path: &str) -> anyhow::Result<String> {
        let address = self.api.trim_start_matches("http://").trim_end_matches('/');
        let address = address.parse().with_context(|| {
            format!("{:?} is not the URL of a control plane's API, such as http://127.0.0.1:15040", self.api)
        })?;
        meshwork_demo::fetch(address, path).await.with_context(|| {
            format!("no control plane answers on {}; start one, or name its address with --api", self.api)
        })
    }
}

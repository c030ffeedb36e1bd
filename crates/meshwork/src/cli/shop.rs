//! `meshwork shop`: the sample shop's programs, which the demo starts.

use std::net::SocketAddr;

use meshwork_demo::shop;

use super::runtime;

/// Run one program of the sample shop
#[derive(clap::Args)]
pub(crate) struct Shop {
    /// Which program: web, catalog, cart, checkout, payments, ledger, load
    role: shop::Role,

    /// Where it listens
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,

    /// The release that the catalog says it is: v1 or v2
    #[arg(long, default_value = "v1")]
    release: shop::Release,

    /// Where a service that it calls is reached, as NAME=ADDR; may be repeated
    #[arg(long = "call", value_name = "NAME=ADDR")]
    calls: Vec<shop::Call>,

    /// Requests per second that the load sends
    #[arg(long, default_value_t = meshwork_demo::DEFAULT_RATE)]
    rate: u32,
}

impl Shop {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self { role, listen, release, calls, rate } = self;
        let options = shop::Options { role, listen, release, calls, rate };
        runtime::on_this_thread(async { Ok(shop::run(options).await?) })
    }
}

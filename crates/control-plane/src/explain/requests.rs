//! What a proxy of either side does with a request before its filters are asked.

use std::net::IpAddr;

use meshwork_model::head::RequestHead;
use meshwork_model::intake::{Own, Unfit};
use meshwork_model::proxy::HttpConnection;
use meshwork_model::reason::Reason;

use super::answer::Outcome;
use super::refused;

/// A proxy that says of itself what is known of it, and draws nothing.
pub(super) struct Sample<'a> {
    /// Its address.
    pub(super) address: IpAddr,
    /// What it tells of the client's certificate, as far as that is known.
    pub(super) cert: &'a str,
}

impl Own for Sample<'_> {
    fn address(&mut self) -> IpAddr {
        self.address
    }

    fn request_id(&mut self) -> [u8; 36] {
        *b"00000000-0000-4000-8000-000000000000"
    }

    fn trace_parent(&mut self) -> [u8; 55] {
        *b"00-00000000000000000000000000000001-0000000000000001-00"
    }

    fn client_cert(&mut self) -> String {
        self.cert.to_owned()
    }
}

/// What comes of a request that has no form to be judged in.
pub(super) fn unfit(why: &Unfit) -> Outcome {
    match why {
        Unfit::Refused(why) => refused(Some(Reason::BadRequest), (*why).to_owned()),
        Unfit::Moved(path) => {
            let text = format!("the client is sent to {}", String::from_utf8_lossy(path));
            Outcome { status: Some(307), ..refused(Some(Reason::DirectResponse), text) }
        }
    }
}

/// What comes of a request that asks for another protocol which the proxy does not carry.
pub(super) fn switched(http: &HttpConnection, head: &RequestHead) -> Option<Outcome> {
    let asked = head.upgrade();
    let is_carried = asked.is_empty() || http.carries(asked);
    (!is_carried).then(|| {
        let text = format!("the proxy does not switch to {}", String::from_utf8_lossy(asked));
        refused(Some(Reason::UpgradeRefused), text)
    })
}

//! Charges, by gRPC over HTTP/2 with prior knowledge.

pub(crate) mod proto;

use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderMap;
use http::uri::Authority;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use self::proto::{ChargeReply, ChargeRequest, Payments, PaymentsServer};
use super::server::{DRAIN, Stop};

/// Serves until told to stop, then lets calls under way finish.
pub(super) async fn serve(listener: TcpListener, mut stop: Stop) -> Result<(), tonic::transport::Error> {
    let mut deadline = stop.clone();
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .add_service(PaymentsServer::new(Till))
        .serve_with_incoming_shutdown(incoming, async move { stop.wait().await });
    tokio::select! {
        result = server => result,
        () = async { deadline.wait().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

/// Takes every charge that is one.
struct Till;

impl Payments for Till {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeReply>, Status> {
        let ChargeRequest { order, cents } = request.into_inner();
        if order.is_empty() || cents == 0 {
            return Err(Status::invalid_argument("a charge has an order and more than 0 cents"));
        }
        let authorization = authorization(&order, cents);
        Ok(Response::new(ChargeReply { authorization, cents }))
    }
}

/// The proof of a charge: the same for the same charge, so that who asks can check that the answer is his.
pub(crate) fn authorization(order: &str, cents: u64) -> String {
    let mut hash = DefaultHasher::new();
    (order, cents).hash(&mut hash);
    format!("{:016x}", hash.finish())
}

/// Calls payments at an address. Connects on first use, and again when the connection is lost.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
}

impl Client {
    pub(super) fn new(address: &Authority) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        // An authority always makes a URI; the other endpoint would answer in words.
        let endpoint = endpoint.unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1:0"));
        Self {
            channel: endpoint.connect_timeout(proto::CONNECT_TIMEOUT).timeout(proto::TIMEOUT).connect_lazy(),
        }
    }

    /// Charges an order, with the fields of `cause` that are passed on.
    pub(super) async fn charge(
        &self,
        order: &str,
        cents: u64,
        cause: &HeaderMap,
    ) -> Result<ChargeReply, Status> {
        let mut request = Request::new(ChargeRequest { order: order.to_owned(), cents });
        let mut passed_on = HeaderMap::new();
        super::client::pass_on(cause, &mut passed_on);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(passed_on);
        proto::charge(self.channel.clone(), request).await.map(Response::into_inner)
    }
}

/// A status in words: its code by name, and its message.
pub(super) fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

//! The way to a control plane that is not ours: through a cluster of the proxy's own config.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use meshwork_data_plane::Dialer;
use meshwork_xds::bootstrap::Ads;
use meshwork_xds::grpc::Link;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

/// A dead path is noticed after interval and timeout together, also on an idle stream.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Stands for a cluster whose name is no authority.
const NAMELESS: &str = "http://control-plane";

/// Makes the way to a control plane. To be called within a tokio runtime.
pub(crate) fn link(dialer: Dialer, ads: &Ads) -> Link {
    let cluster = ads.cluster.clone();
    let connector = service_fn(move |_: Uri| {
        let (dialer, cluster) = (dialer.clone(), cluster.clone());
        async move { dialer.connect(&cluster).await.map(TokioIo::new) }
    });
    // The scheme is for tonic alone: with https it would want to wrap the connection itself.
    let endpoint = Endpoint::from_shared(format!("http://{}", ads.authority));
    let channel = endpoint
        .unwrap_or_else(|_| Endpoint::from_static(NAMELESS))
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    Link { channel, metadata: metadata(ads), gives_up: false }
}

/// What cannot be sent was refused when the file was read.
fn metadata(ads: &Ads) -> MetadataMap {
    let mut map = MetadataMap::new();
    for (name, value) in &ads.metadata {
        if let (Ok(name), Ok(value)) =
            (MetadataKey::from_bytes(name.as_bytes()), MetadataValue::try_from(value.as_str()))
        {
            map.append(name, value);
        }
    }
    map
}

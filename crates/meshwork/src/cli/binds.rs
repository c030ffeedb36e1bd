//! The ports of a workload as arguments: which service ports it serves and calls, and where on this host.

use std::net::SocketAddr;
use std::str::FromStr;

use meshwork_model::mesh::{Inbound, Key, Outbound, Protocol};

/// `PORT[/PROTOCOL]=BIND>APPLICATION`
#[derive(Clone)]
pub(crate) struct InboundArgument(pub(crate) Inbound);

/// `SERVICE.NAMESPACE:PORT=BIND`
#[derive(Clone)]
pub(crate) struct OutboundArgument(pub(crate) Outbound);

impl FromStr for InboundArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected PORT=BIND>APPLICATION, such as 8080=127.0.0.1:15006>127.0.0.1:9000";
        let (port, addresses) = text.split_once('=').ok_or(expected)?;
        let (bind, application) = addresses.split_once('>').ok_or(expected)?;
        let (port, protocol) = match port.split_once('/') {
            Some((port, protocol)) => (port, Some(self::protocol(protocol)?)),
            None => (port, None),
        };
        let port = port.parse().map_err(|_| format!("{port:?} is not a port; {expected}"))?;
        Ok(Self(Inbound { port, bind: address(bind)?, application: address(application)?, protocol }))
    }
}

impl FromStr for OutboundArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected SERVICE.NAMESPACE:PORT=BIND, such as catalog.shop:80=127.0.0.1:15001";
        let (service, bind) = text.split_once('=').ok_or(expected)?;
        let (service, port) = service.rsplit_once(':').ok_or(expected)?;
        let (name, namespace) = service.split_once('.').ok_or(expected)?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port; {expected}"))?;
        Ok(Self(Outbound { service: Key::new(namespace, name), port, bind: address(bind)? }))
    }
}

/// What is spoken on a port: `http`, `http2`, `grpc`, `tcp`.
pub(crate) fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::of_name(text)
        .ok_or_else(|| format!("{text:?} is not a protocol; expected one of http, http2, grpc, tcp"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address and port, such as 127.0.0.1:15001"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_workload_are_read_or_refused_in_words() {
        let inbound: InboundArgument = "8080=127.0.0.1:0>127.0.0.1:9000".parse().expect("valid");
        assert_eq!((inbound.0.port, inbound.0.protocol), (8080, None));
        let grpc: InboundArgument = "50051/grpc=127.0.0.1:0>127.0.0.1:50051".parse().expect("valid");
        assert_eq!(grpc.0.protocol, Some(Protocol::Grpc));
        let outbound: OutboundArgument = "catalog.shop:80=[::1]:1".parse().expect("valid");
        assert_eq!((outbound.0.service, outbound.0.port), (Key::new("shop", "catalog"), 80));
        for bad in [
            "",
            "8080",
            "8080/udp=127.0.0.1:0>127.0.0.1:1",
            "x=127.0.0.1:0>127.0.0.1:1",
            "80=127.0.0.1>127.0.0.1:1",
        ] {
            assert!(bad.parse::<InboundArgument>().is_err(), "{bad}");
        }
        for bad in ["", "catalog:80=127.0.0.1:0", "catalog.shop=127.0.0.1:0", "catalog.shop:80"] {
            assert!(bad.parse::<OutboundArgument>().is_err(), "{bad}");
        }
    }
}

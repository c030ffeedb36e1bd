//! The one list of reasons for which the mesh answers in a service's place, or ends a connection.
//!
//! Each has a stable code, the flag that Envoy's access log uses for the same event (so that people's
//! dashboards keep working), and words: what happened, and what to do.

/// Why the mesh, not the application, decided a request's fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reason {
    /// The downstream's bytes are not a valid HTTP message.
    BadRequest,
    /// The request head is larger than the limit.
    HeadTooLarge,
    /// The request asks for something that the proxy does not do (CONNECT, an upgrade it cannot carry).
    Unsupported,
    /// The request asks to switch to a protocol that config does not carry.
    UpgradeRefused,
    /// The request's HTTP version is not answered.
    Version,
    /// No virtual host or route matches the request.
    NoRoute,
    /// The route names a cluster that the proxy does not have.
    NoCluster,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// Policy refused the request.
    Denied,
    /// No connection to the endpoint could be opened.
    ConnectFailed,
    /// The endpoint could not prove the identity that was expected of it.
    UpstreamIdentity,
    /// The endpoint closed or broke the connection before its answer was complete.
    UpstreamReset,
    /// The endpoint's bytes are not a valid HTTP message.
    BadResponse,
    /// The endpoint did not answer in time.
    Timeout,
    /// As much as config allows is under way to the cluster already.
    UpstreamOverflow,
    /// Config sheds a part of the cluster's requests.
    Shed,
    /// The endpoint reset the stream, or refused it.
    StreamReset,
    /// Nothing moved for too long.
    StreamIdle,
    /// The exchange lasted longer than it may.
    StreamDuration,
    /// The exchange with the endpoint lasted longer than it may.
    UpstreamDuration,
    /// A field by which the request says how it wants to be forwarded has no valid value.
    InvalidField,
    /// The downstream did not send its whole request in time.
    RequestTimeout,
    /// The downstream took nothing of the answer for too long.
    SlowReader,
    /// The downstream sends frames of HTTP/2 that ask for nothing, more than anybody needs.
    Flood,
    /// The downstream left before the answer was complete.
    DownstreamGone,
    /// The route answers directly.
    DirectResponse,
    /// The connection was meant for an address that nobody is taken to.
    Destination,
    /// The request has no valid token.
    Unauthenticated,
    /// There are no keys to judge the request's token by.
    NoTokenKeys,
    /// A fault on purpose.
    Fault,
    /// The authorization service refused the request.
    RefusedExternally,
    /// The authorization service could not be asked.
    AuthorizationFailed,
    /// The request is over a rate limit.
    RateLimited,
    /// The rate limit service could not be asked.
    RateLimitFailed,
    /// The request's body is longer than a filter takes.
    BodyTooLarge,
    /// The proxy, or what stands behind it, is not healthy.
    Unhealthy,
    /// The caller is revoked, or not trusted any more.
    Untrusted,
    /// The proxy is at one of its limits and sheds load.
    Overload,
}

/// Everything that is said of a [`Reason`].
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Stable code.
    pub code: &'static str,
    /// Envoy's response flag for the same event; empty where it has none.
    pub flag: &'static str,
    /// HTTP status of the answer that the proxy makes.
    pub status: u16,
    /// gRPC status code of the answer that the proxy makes. Source: grpc `statuscodes.md`.
    pub grpc_status: u8,
    /// What happened, one sentence.
    pub what: &'static str,
    /// What to do about it, one sentence.
    pub fix: &'static str,
}

macro_rules! words {
    ($($reason:ident $code:literal $flag:literal $status:literal $grpc:literal $what:literal $fix:literal;)*) => {
        /// Every reason, in the order of its code.
        pub const ALL: &[Reason] = &[$(Reason::$reason),*];

        impl Reason {
            /// Everything that is said of this reason.
            pub const fn words(self) -> Words {
                match self {
                    $(Reason::$reason => Words {
                        code: $code, flag: $flag, status: $status, grpc_status: $grpc, what: $what, fix: $fix,
                    },)*
                }
            }
        }
    };
}

words! {
    BadRequest "MW0101" "DPE" 400 13 "The request is not valid HTTP, so it was not forwarded."
        "Correct the client; the sidecar's log names the rule that the message broke.";
    HeadTooLarge "MW0102" "DPE" 431 13 "The request's header section is over the proxy's limit."
        "Send fewer or smaller headers (cookies are the usual cause).";
    RequestTimeout "MW0103" "DT" 408 4 "The client did not send its whole request in time."
        "Look at the client, or at the network between it and its sidecar.";
    DownstreamGone "MW0104" "DC" 499 1 "The client closed its connection before the answer was complete."
        "Compare the client's time-out with the service's latency.";
    Unsupported "MW0105" "DPE" 501 12 "The request asks for something that the proxy does not forward (CONNECT, or this upgrade)."
        "Send an ordinary request; WebSocket works where both sides speak HTTP/1.1.";
    SlowReader "MW0106" "SI" 408 4 "The client took nothing of the answer for too long, so it was broken off."
        "Look at the client: it asks for more than it reads.";
    UpgradeRefused "MW0107" "" 403 7 "The request asks to switch to a protocol that the proxy's config does not carry."
        "Name it in the listener's upgrade_configs.";
    Version "MW0108" "DPE" 426 12 "The client speaks HTTP/1.0, which the proxy's config does not accept."
        "Use HTTP/1.1, or set accept_http_10.";
    Flood "MW0109" "DPE" 429 8 "The client flooded its HTTP/2 connection with frames that ask for nothing, so it was ended."
        "Look at the client: it sends PING, SETTINGS, RST_STREAM or the like without pause.";
    NoRoute "MW0201" "NR" 404 12 "No route of the called service matches the request."
        "Add a rule to the service's HTTPRoute or GRPCRoute, or correct the path.";
    NoCluster "MW0202" "NC" 503 14 "The route leads to a service that the proxy does not know."
        "Check the route's backendRefs; `meshwork validate` names those that lead nowhere.";
    DirectResponse "MW0203" "" 200 12 "The route answers by itself." "Nothing: it is configured so.";
    NoEndpoint "MW0301" "UH" 503 14 "The called service has no workload that is connected to the mesh."
        "Start a workload whose labels match the service's selector; `meshwork diagram` shows those there are.";
    ConnectFailed "MW0302" "UF" 503 14 "No connection to the called workload's proxy could be opened."
        "See whether that workload and its sidecar are running.";
    UpstreamIdentity "MW0303" "UF" 503 14 "The called workload did not prove the identity that was expected of it, or refused the caller's certificate."
        "See `meshwork ca revocations`, and which identity its sidecar was enrolled with; the caller's log names the cause.";
    UpstreamReset "MW0304" "UC" 503 14 "The called workload closed the connection before its answer was complete."
        "Look at the called application's log: it crashed, or it closes connections that it should keep.";
    BadResponse "MW0305" "UPE" 502 13 "The called workload's answer is not valid HTTP."
        "Correct the called application; the sidecar's log names the rule that the message broke.";
    Timeout "MW0306" "UT" 504 14 "The called workload did not answer in time."
        "Look at its latency, or raise the route's time-out.";
    UpstreamOverflow "MW0307" "UO" 503 14 "As many requests or connections as allowed are under way to the called service."
        "Find out why it is slow, or raise the thresholds of the cluster's circuit breakers.";
    Shed "MW0308" "DO" 503 14 "The control plane has a part of the called service's requests shed."
        "Wait: it does that while the service is overloaded.";
    StreamReset "MW0310" "UR" 503 14 "The called workload reset the stream before its answer was complete."
        "Look at the called application's log: it gave the request up, or refuses more at the same time.";
    StreamIdle "MW0311" "SI" 504 14 "Nothing moved on the request or its answer for too long."
        "Look at whoever was silent, or raise the idle time-out of the route or the connection.";
    StreamDuration "MW0312" "" 504 4 "The request and its answer took longer than they may."
        "Raise `max_stream_duration`, or the caller's own deadline where the route believes it.";
    UpstreamDuration "MW0313" "UMSDR" 504 14 "The called workload's answer took longer than it may."
        "Raise the `max_stream_duration` of the cluster.";
    InvalidField "MW0314" "IH" 400 13 "A field by which the request says how it wants to be forwarded has no valid value."
        "Correct the x-envoy- field; the sidecar's log names it.";
    Denied "MW0401" "" 403 7 "An AuthorizationPolicy refused the request."
        "Allow the caller's identity, method and path in an AuthorizationPolicy on the called workload.";
    Destination "MW0402" "NR" 403 7 "The connection was meant for an address that a workload is not taken to, such as the host's own."
        "Call the service by its name in the mesh; loopback, link-local and the host's own addresses are never reached.";
    Unauthenticated "MW0403" "" 401 16 "The request has no token of a known issuer that is valid here."
        "Send a token of one of the issuers that the proxy's jwt_authn filter names, for its audience, and not expired.";
    Fault "MW0404" "FI" 503 14 "A fault filter answered on purpose."
        "Nothing, if the fault is wanted; else take it out of the route's config.";
    RefusedExternally "MW0405" "UAEX" 403 7 "The authorization service refused the request."
        "Ask whoever runs the authorization service why.";
    AuthorizationFailed "MW0406" "UAEX" 403 7 "The authorization service could not be asked, so the request was refused."
        "See whether the authorization service is running, and answers in time.";
    RateLimited "MW0407" "RL" 429 14 "The request is over a rate limit."
        "Send less, or raise the limit.";
    RateLimitFailed "MW0408" "RLSE" 500 13 "The rate limit service could not be asked, so the request was refused."
        "See whether the rate limit service is running, and answers in time.";
    BodyTooLarge "MW0409" "" 413 8 "The request's body is longer than the proxy keeps."
        "Send less, or raise the filter's limit.";
    Unhealthy "MW0410" "LH" 503 14 "The proxy, or what stands behind it, is not healthy."
        "See which of the services behind it have no healthy endpoint.";
    Untrusted "MW0411" "" 403 7 "The caller's identity or certificate is revoked, or the mesh does not trust it any more, so its connection was ended."
        "See `meshwork ca revocations`: a workload that is to go on is enrolled anew, or taken off that list.";
    NoTokenKeys "MW0412" "" 401 16 "There are no keys to judge the request's token by, so it was refused."
        "See whether the address in `jwksUri` answers with a set of keys; the sidecar's log says why it has none.";
    Overload "MW0501" "OM" 503 14 "The proxy is at one of its limits and shed the request."
        "Raise the limit, or send less.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let codes: HashSet<_> = ALL.iter().map(|r| r.words().code).collect();
        assert_eq!(codes.len(), ALL.len());
        assert!(codes.iter().all(|c| c.len() == 6 && c.starts_with("MW")));
    }
}

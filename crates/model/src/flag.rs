//! Response flags: why a request ended as it did, in the words of Envoy's access log.
//!
//! A request may have several. Source: Envoy `RESPONSE_FLAGS`, `RESPONSE_FLAGS_LONG`, `ResponseFlagFilter`.

use crate::reason::Reason;

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

/// One flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flag {
    /// `LH`: the local service failed its health check.
    FailedLocalHealthCheck,
    /// `UH`: no endpoint is healthy.
    NoHealthyUpstream,
    /// `UT`: the endpoint did not answer in time.
    UpstreamRequestTimeout,
    /// `LR`: the proxy reset the stream.
    LocalReset,
    /// `UR`: the endpoint reset the stream.
    UpstreamRemoteReset,
    /// `UF`: no connection to the endpoint.
    UpstreamConnectionFailure,
    /// `UC`: the endpoint closed the connection.
    UpstreamConnectionTermination,
    /// `UO`: a circuit breaker is open.
    UpstreamOverflow,
    /// `NR`: no route, or no filter chain.
    NoRouteFound,
    /// `DI`: the request was delayed on purpose.
    DelayInjected,
    /// `FI`: the request was failed on purpose.
    FaultInjected,
    /// `RL`: a rate limit.
    RateLimited,
    /// `UAEX`: the authorization service refused.
    UnauthorizedExternalService,
    /// `RLSE`: the rate limit service failed.
    RateLimitServiceError,
    /// `DC`: the client left.
    DownstreamConnectionTermination,
    /// `URX`: no further try was left.
    UpstreamRetryLimitExceeded,
    /// `SI`: nothing moved for too long.
    StreamIdleTimeout,
    /// `IH`: an `x-envoy-` field has no valid value.
    InvalidEnvoyRequestHeaders,
    /// `DPE`: the client broke a rule of HTTP.
    DownstreamProtocolError,
    /// `UMSDR`: the stream to the endpoint lasted too long.
    UpstreamMaxStreamDurationReached,
    /// `RFCF`: the response came from a cache.
    ResponseFromCacheFilter,
    /// `NFCF`: a filter's config is missing.
    NoFilterConfigFound,
    /// `DT`: the request, or connection, lasted too long.
    DurationTimeout,
    /// `UPE`: the endpoint broke a rule of HTTP.
    UpstreamProtocolError,
    /// `NC`: the route's cluster is not known.
    NoClusterFound,
    /// `OM`: the proxy shed the request.
    OverloadManager,
    /// `DF`: a name could not be looked up.
    DnsResolutionFailed,
    /// `DO`: the cluster's config drops a share of requests.
    DropOverLoad,
    /// `DR`: the client reset the stream.
    DownstreamRemoteReset,
    /// `UDO`: the cluster's config drops all requests.
    UnconditionalDropOverload,
}

macro_rules! names {
    ($($flag:ident $short:literal)*) => {
        impl Flag {
            /// Every flag, in the order in which several are written.
            pub const ALL: &[Self] = &[$(Self::$flag),*];

            /// The name in `RESPONSE_FLAGS`.
            pub const fn short(self) -> &'static str {
                match self { $(Self::$flag => $short),* }
            }

            /// The name in `RESPONSE_FLAGS_LONG`.
            pub const fn long(self) -> &'static str {
                match self { $(Self::$flag => stringify!($flag)),* }
            }
        }
    };
}

names! {
    FailedLocalHealthCheck "LH"
    NoHealthyUpstream "UH"
    UpstreamRequestTimeout "UT"
    LocalReset "LR"
    UpstreamRemoteReset "UR"
    UpstreamConnectionFailure "UF"
    UpstreamConnectionTermination "UC"
    UpstreamOverflow "UO"
    NoRouteFound "NR"
    DelayInjected "DI"
    FaultInjected "FI"
    RateLimited "RL"
    UnauthorizedExternalService "UAEX"
    RateLimitServiceError "RLSE"
    DownstreamConnectionTermination "DC"
    UpstreamRetryLimitExceeded "URX"
    StreamIdleTimeout "SI"
    InvalidEnvoyRequestHeaders "IH"
    DownstreamProtocolError "DPE"
    UpstreamMaxStreamDurationReached "UMSDR"
    ResponseFromCacheFilter "RFCF"
    NoFilterConfigFound "NFCF"
    DurationTimeout "DT"
    UpstreamProtocolError "UPE"
    NoClusterFound "NC"
    OverloadManager "OM"
    DnsResolutionFailed "DF"
    DropOverLoad "DO"
    DownstreamRemoteReset "DR"
    UnconditionalDropOverload "UDO"
}

impl Flag {
    /// The flag with a short name.
    pub fn of_short(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flag| flag.short() == name)
    }
}

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);

    /// Adds one.
    pub fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    /// These and others.
    #[must_use]
    pub fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether it is one of them.
    pub fn contains(self, flag: Flag) -> bool {
        self.0 & 1 << flag as u8 != 0
    }

    /// Whether any of `others` is one of them.
    pub fn intersects(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in Envoy's order.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.iter().copied().filter(move |flag| self.contains(*flag))
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Self {
        Self(1 << flag as u8)
    }
}

impl FromIterator<Flag> for Flags {
    fn from_iter<I: IntoIterator<Item = Flag>>(flags: I) -> Self {
        flags.into_iter().fold(Self::NONE, |all, flag| all.union(flag.into()))
    }
}

impl From<Reason> for Flags {
    /// The flag that Envoy has for the same event.
    fn from(reason: Reason) -> Self {
        Flag::of_short(reason.words().flag).map_or(Self::NONE, Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason;

    #[test]
    fn every_reason_names_a_flag_that_there_is() {
        for reason in reason::ALL {
            let name = reason.words().flag;
            assert_eq!(Flags::from(*reason).iter().map(Flag::short).collect::<String>(), name, "{reason:?}");
        }
    }

    #[test]
    fn a_set_is_told_in_order() {
        let set: Flags =
            [Flag::UpstreamRetryLimitExceeded, Flag::UpstreamConnectionFailure].into_iter().collect();
        assert_eq!(set.iter().map(Flag::short).collect::<Vec<_>>(), ["UF", "URX"]);
        assert!(set.intersects(Flag::UpstreamConnectionFailure.into()) && !set.contains(Flag::DelayInjected));
        assert!(Flags::NONE.is_empty() && Flags::NONE.iter().next().is_none());
    }
}

//! What went wrong with a request, in the letters that Istio's dashboards and people know (Envoy's response flags).

/// The one flag of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flag {
    /// Nothing: the workload answered, or a rule did (redirect, preflight, denial by policy).
    #[default]
    None,
    /// The client went away before the end of the answer.
    ClientGone,
    /// The client's request is not valid HTTP.
    ClientProtocol,
    /// No route matches.
    NoRoute,
    /// The route leads to a backend that is not usable.
    NoBackend,
    /// The backend has no endpoint that may be used.
    NoHealthyUpstream,
    /// No connection to the endpoint came about.
    ConnectFailed,
    /// The endpoint ended the connection before its answer.
    UpstreamReset,
    /// The endpoint answered with something that is not valid HTTP.
    UpstreamProtocol,
    /// Every attempt failed.
    RetriesExhausted,
    /// The time that the route allows was over.
    TimedOut,
    /// A limit of the backend is reached (connections, requests).
    Overflow,
    /// The retry budget was used up.
    RetryBudget,
    /// A rate limit refused it.
    RateLimited,
    /// The external authorization service refused it or did not answer.
    ExternalAuth,
    /// A fault was injected.
    FaultInjected,
    /// The waypoint was drained.
    Drained,
}

impl Flag {
    /// The letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::ClientGone => "DC",
            Self::ClientProtocol => "DPE",
            Self::NoRoute => "NR",
            Self::NoBackend => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::ConnectFailed => "UF",
            Self::UpstreamReset => "UC",
            Self::UpstreamProtocol => "UPE",
            Self::RetriesExhausted => "URX",
            Self::TimedOut => "UT",
            Self::Overflow | Self::RetryBudget => "UO",
            Self::RateLimited => "RL",
            Self::ExternalAuth => "UAEX",
            Self::FaultInjected => "FI",
            Self::Drained => "OM",
        }
    }
}

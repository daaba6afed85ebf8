//! What is set up from the sections of [`settings`](crate::settings), for programs' `main`.

use std::net::SocketAddr;
use std::sync::Arc;

use chassis::{Router, Server};
use identity::channel::ChannelConfig;
use identity::{GrpcSigner, GrpcSignerConfig, Manager};
use telemetry::logging::LogError;
use telemetry::otlp::TracingError;
use telemetry::{
    AccessLog, LineWriter, LogConfig, LogFormat, LogHandle, Sampler, Telemetry, Tracing, TracingConfig, init_logging,
};

use crate::settings::{self, Authority, Log, Otlp};

/// A peer can make h2 warn as often as it likes (a PING acknowledgement that nobody asked for), so only its errors show.
const DEFAULT_LEVEL: &str = "info,h2=error";

/// Why something cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No log.
    #[error("`log`: {0}")]
    Log(#[from] LogError),
    /// No thread for the log.
    #[error("no thread for the log: {0}")]
    Writer(#[source] std::io::Error),
    /// No traces.
    #[error("traces: {0}")]
    Tracing(#[from] TracingError),
    /// No way to the authority.
    #[error("`ca`: {0}")]
    Signer(#[from] identity::channel::ChannelError),
    /// A port of the program itself cannot be had.
    #[error(transparent)]
    Bind(#[from] chassis::admin::BindError),
    /// A server of the program itself failed.
    #[error("admin servers: {0}")]
    Serve(#[source] std::io::Error),
}

/// What the configuration says of traces.
pub fn tracing_config(otlp: &Otlp, service: &str) -> TracingConfig {
    let mut tracing = TracingConfig::new(&otlp.endpoint, service);
    tracing.sampler = Sampler::ParentRatio(otlp.sampling);
    if otlp.access_log { tracing.with_access() } else { tracing }
}

/// Starts the exporter of spans, if one is wanted. `resource` is what the spans say of this program; what the settings
/// (`OTEL_RESOURCE_ATTRIBUTES`) say of the same key wins.
///
/// # Errors
/// When the exporter cannot be made.
pub fn tracing(config: Option<TracingConfig>, resource: &[(&str, &str)]) -> Result<Option<Tracing>, SetupError> {
    let Some(mut config) = config else { return Ok(None) };
    for (key, value) in resource.iter().filter(|(_, value)| !value.is_empty()) {
        if !config.resource.iter().any(|(k, _)| k == key) {
            config.attribute(key, *value);
        }
    }
    Ok(Some(Tracing::start(&config, None)?))
}

/// Installs the program's log on standard output.
///
/// # Errors
/// When the levels cannot be read, or a log is installed already.
pub fn log(settings: &Log, tracing: Option<&Tracing>) -> Result<LogHandle, SetupError> {
    let writer = LineWriter::stdout().map_err(SetupError::Writer)?;
    let format = match settings.format {
        settings::LogFormat::Json => LogFormat::Json,
        settings::LogFormat::Text => LogFormat::Plain,
    };
    let level = settings.level.clone().unwrap_or_else(|| DEFAULT_LEVEL.to_owned());
    Ok(init_logging(&LogConfig { level, format }, writer, tracing)?)
}

/// Where records go, with the metrics that every program has.
pub fn telemetry(
    settings: &Log,
    log: &LogHandle,
    tracing: Option<Tracing>,
    component: &str,
    version: &str,
) -> Telemetry {
    let telemetry = Telemetry::new(telemetry::Config {
        access: Some(AccessLog::new(log)),
        tracing,
        policy_info: settings.policy_info,
        ..telemetry::Config::default()
    });
    telemetry.metrics().build_info(component, version);
    telemetry.metrics().process();
    telemetry
}

/// Who keeps our certificates. With `impersonate` they are those of the workloads that we speak for, else our own.
///
/// # Errors
/// When the authority's address or whom to trust cannot be used.
pub fn identities(ca: &Authority, cluster: &str, impersonate: bool) -> Result<Manager, SetupError> {
    let channel = ChannelConfig { alt_name: ca.alt_name.clone(), ..ChannelConfig::new(&ca.address, ca.roots()) };
    let signer = GrpcSigner::new(GrpcSignerConfig {
        channel,
        token_file: Some(ca.token_file.clone()),
        cluster_id: cluster.to_owned(),
        headers: ca.headers.clone().into_iter().collect(),
        impersonate,
    })?;
    let config = identity::Config { ttl: ca.certificate_lifetime.0, ..identity::Config::default() };
    Ok(Manager::new(config, Arc::new(signer)))
}

/// The servers of the program itself.
pub struct Ports {
    admin: Server,
    metrics: Server,
    ready: Server,
}

impl Ports {
    /// Listens on all, so that a port which is taken stops the program before it does anything else.
    ///
    /// # Errors
    /// When one cannot be had.
    pub fn bind(admin: SocketAddr, metrics: SocketAddr, ready: SocketAddr) -> Result<Self, SetupError> {
        Ok(Self {
            admin: Server::bind("admin", admin)?,
            metrics: Server::bind("metrics", metrics)?,
            ready: Server::bind("readiness", ready)?,
        })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn serve(self, admin: Router, metrics: Router, ready: Router) -> Result<(), SetupError> {
        let never = std::future::pending::<()>;
        let all = async {
            tokio::try_join!(
                self.admin.serve(admin, never()),
                self.metrics.serve(metrics, never()),
                self.ready.serve(ready, never()),
            )
        };
        all.await.map(drop).map_err(SetupError::Serve)
    }
}

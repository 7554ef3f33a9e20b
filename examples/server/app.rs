//! The server put together: store, envelope, issuers, modules, runtime, listeners.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use certlib_core::clock::SystemClock;
use certlib_core::module::ModuleRegistry;
use certlib_core::runtime::{IssuerRegistry, RunningRuntime, Runtime};
use certlib_core::secret::{LocalEnvelope, SecretString};
use certlib_core::{Client, Error, Result};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::challenge::Http01Responder;
use certlib_issuers::challenge::http01::serve;
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_modules::file::FileModule;
use certlib_modules::ssh::SshModule;
use certlib_modules::webhook::Webhook;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::api::{self, AppState};
use crate::auth::{self, ALL_PROJECTS, TokenRole};
use crate::config::Config;
use crate::{kek, telemetry};

/// certlib put together, and the store to close in the end.
pub(crate) struct Composed {
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<SqliteStore>,
}

/// Opens the store and the envelope of `config` and puts a runtime on them. Starts nothing.
pub(crate) async fn compose(config: &Config, kek: Option<SecretString>) -> Result<Composed> {
    make_data_dir(config)?;
    let keyring = kek::keyring(config, kek)?;
    let clock = SystemClock::shared();
    let options = SqliteOptions::new().with_clock(clock.clone());
    let store = Arc::new(SqliteStore::open(config.database(), options).await?);
    let envelope = Arc::new(LocalEnvelope::new(keyring));
    kek::check_database(&*store, &*envelope).await?;
    let mut modules = ModuleRegistry::new().register(SshModule::new())?.register(Webhook::new())?;
    if config.file_root().is_some() {
        modules = modules.register(FileModule::new())?;
    }
    let issuers = IssuerRegistry::new().register(LocalCaFactory::new())?.register(AcmeFactory::new())?;
    let runtime = Runtime::builder(store.clone(), envelope)
        .clock(clock)
        .modules(modules)
        .issuers(issuers)
        .settings(|settings| settings.state_dir = Some(config.data_dir.join("state")))
        .build()?;
    Ok(Composed { runtime, store })
}

/// A server that listens but does not serve yet.
pub(crate) struct Server {
    runtime: RunningRuntime,
    store: Arc<SqliteStore>,
    router: axum::Router,
    listener: TcpListener,
    http01: Option<(TcpListener, Http01Responder)>,
    stop: CancellationToken,
    config: Config,
    first_token: Option<SecretString>,
}

impl Server {
    /// Opens everything, listens, and starts the runtime.
    pub(crate) async fn start(config: Config, kek: Option<SecretString>) -> Result<Self> {
        let metrics = telemetry::recorder()?;
        let Composed { runtime, store } = compose(&config, kek).await?;
        let listener = listen("listen", config.listen).await?;
        let http01 = match config.http01_listen {
            Some(address) => Some(listen("http01_listen", address).await?),
            None => None,
        };
        let client = runtime.client();
        let first_token = first_token(&client).await?;
        let stop = CancellationToken::new();
        let responder = Http01Responder::new(client.store().clone());
        let state = AppState {
            client,
            responder: responder.clone(),
            metrics: metrics.clone(),
            admission: Arc::new(Admission::new(&config)),
            stopping: stop.clone(),
            streams: Arc::new(Semaphore::new(api::STREAMS_MAX)),
        };
        tokio::spawn(telemetry::upkeep(metrics, stop.clone()));
        let (router, _) = api::router(state);
        let http01 = http01.map(|listener| (listener, responder));
        Ok(Self { runtime: runtime.start(), store, router, listener, http01, stop, config, first_token })
    }

    /// Where the API listens.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| io("server.listen", error))
    }

    /// Where HTTP-01 challenges are answered, if anywhere but on the API's own address.
    pub(crate) fn http01_address(&self) -> Option<SocketAddr> {
        self.http01.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The admin token, if this was the first start. It can be taken once.
    pub(crate) fn take_first_token(&mut self) -> Option<SecretString> {
        self.first_token.take()
    }

    /// Cancel it to stop.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until it is told to stop; then lets running requests end, and hands unfinished jobs back.
    pub(crate) async fn run(self) -> Result<()> {
        let Self { runtime, store, router, listener, http01, stop, config, .. } = self;
        let tasks = TaskTracker::new();
        if let Some((listener, responder)) = http01 {
            tasks.spawn(serve(listener, responder, stop.clone()));
        }
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(config.shutdown_grace()).await;
        };
        let served = tokio::select! {
            served = serving.into_future() => served.map_err(|error| io("server.serve", error)),
            () = late => {
                tracing::warn!("some requests did not end in time");
                Ok(())
            }
        };
        stop.cancel();
        tasks.close();
        runtime.shutdown().await;
        tasks.wait().await;
        store.close().await;
        served
    }
}

async fn first_token(client: &Client) -> Result<Option<SecretString>> {
    let store = client.store();
    if !auth::no_tokens(&**store).await? {
        return Ok(None);
    }
    let (_, token) = auth::create_token(&**store, ALL_PROJECTS, TokenRole::Admin, client.clock().now()).await?;
    Ok(Some(token))
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io("server.listen", error).with("setting", setting).with("address", address))
}

/// The data directory, for its owner alone.
fn make_data_dir(config: &Config) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .map_err(|error| io("server.data_dir", error).with("path", config.data_dir.display()))
}

fn io(operation: &'static str, error: std::io::Error) -> Error {
    Error::permanent(operation, "io_failed", error.to_string()).with_source(error)
}

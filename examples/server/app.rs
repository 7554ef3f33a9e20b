//! The server put together: store, envelope, issuers, modules, runtime, listeners.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::SystemClock;
use certlib_core::module::ModuleRegistry;
use certlib_core::runtime::{IssuerRegistry, RunningRuntime, Runtime, Settings};
use certlib_core::secret::{Keyring, KeyringEnvelope, SecretString};
use certlib_core::store::RecordKinds;
use certlib_core::{Client, Error, Result};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::challenge::Http01Responder;
use certlib_issuers::challenge::http01::serve;
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_modules::f5::F5;
use certlib_modules::file::FileModule;
use certlib_modules::huawei::HuaweiCloud;
use certlib_modules::iis::IisModule;
use certlib_modules::kubernetes::Kubernetes;
use certlib_modules::netscaler::NetScaler;
use certlib_modules::smtp::Smtp;
use certlib_modules::ssh::SshModule;
use certlib_modules::vault::VaultModule;
use certlib_modules::webhook::Webhook;
use certlib_modules::winrm::WinRmModule;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::api::{self, AppState};
use crate::auth::{self, ALL_PROJECTS, ApiToken, TokenRole};
use crate::config::Config;
use crate::database::{Database, Location};
use crate::kek::Sources;
use crate::kek::reload::Reload;
use crate::secrets::Secrets;
use crate::telemetry;

/// certlib put together, and what belongs to it.
pub(crate) struct Composed {
    pub(crate) runtime: Runtime,
    pub(crate) database: Database,
    pub(crate) envelope: Arc<KeyringEnvelope>,
    pub(crate) sources: Sources,
}

/// Opens the database and the envelope of `config` and puts a runtime on them. Makes what a first start needs, and
/// starts nothing.
///
/// # Errors
/// What is wrong with the keys, the database, or the two together: `kek_missing`, `kek_orphaned`.
pub(crate) async fn compose(config: &Config, secrets: Secrets) -> Result<Composed> {
    make_data_dir(config)?;
    let location = Location::of(config, secrets.database_url)?;
    let sources = Sources::new(config, secrets.kek);
    let keyring = sources.keyring_to_start(location.is_fresh()).await?;
    let database = location.open(SystemClock::shared()).await?;
    let composed = put_together(config, database, sources, keyring, |settings| {
        settings.state_dir = Some(config.data_dir.join("state"));
        settings.node_heartbeat = Duration::from_secs(config.node_heartbeat_seconds);
        settings.sweep_interval = Duration::from_secs(config.sweep_interval_seconds);
    });
    let composed = composed.await?;
    match check_keys(&composed.runtime.client()).await {
        Ok(()) => Ok(composed),
        Err(error) => {
            composed.database.close().await;
            Err(error)
        }
    }
}

/// Fails while a restore is unfinished, and unless this node has the keys that the database needs: those under which there is something, the one that
/// seals, and the one that will when a rotation goes on. A database that is new is told which one that is.
async fn check_keys(client: &Client) -> Result<()> {
    client.check_restored().await?;
    client.check_keyring().await?;
    let status = client.keyring().await?;
    let next = status.state.rotation.map(|rotation| rotation.to);
    for kek in [status.state.primary].into_iter().chain(next) {
        if !status.keks.iter().any(|key| key.kek.id == kek.id && key.at_hand) {
            let why =
                "this server lacks the key that seals, or will seal; give it the keys that belong to this database";
            return Err(Error::validation("server.keys", "kek_missing", why).with("kek", kek));
        }
    }
    Ok(())
}

/// The same database and keys for a command beside the server: without any role, without making what is missing, and
/// without demanding keys that the command may not need.
///
/// # Errors
/// What is wrong with the keys or the database.
pub(crate) async fn attach(config: &Config, secrets: Secrets) -> Result<Composed> {
    let location = Location::of(config, secrets.database_url)?;
    let sources = Sources::new(config, secrets.kek);
    let keyring = sources.keyring().await?;
    let database = location.open_existing(SystemClock::shared()).await?;
    put_together(config, database, sources, keyring, |settings| settings.roles = Vec::new()).await
}

/// As [`attach`], for a command that fills an empty database: makes its tables, its file and the data directory, if they
/// are missing, but never a key.
///
/// # Errors
/// What is wrong with the keys or the database.
pub(crate) async fn attach_to_new(config: &Config, secrets: Secrets) -> Result<Composed> {
    let location = Location::of(config, secrets.database_url)?;
    let sources = Sources::new(config, secrets.kek);
    let keyring = sources.keyring_to_start(false).await?;
    make_data_dir(config)?;
    let database = location.open(SystemClock::shared()).await?;
    put_together(config, database, sources, keyring, |settings| settings.roles = Vec::new()).await
}

/// The keys of `config` alone.
///
/// # Errors
/// As [`Sources::keyring`].
pub(crate) async fn envelope(config: &Config, secrets: Secrets) -> Result<KeyringEnvelope> {
    Ok(KeyringEnvelope::new(Sources::new(config, secrets.kek).keyring().await?))
}

/// All kinds of records that the server's database holds: certlib's and its own.
pub(crate) fn record_kinds() -> RecordKinds {
    certlib_core::model::record_kinds().with::<ApiToken>()
}

async fn put_together(
    config: &Config,
    database: Database,
    sources: Sources,
    keyring: Keyring,
    settings: impl FnOnce(&mut Settings),
) -> Result<Composed> {
    let envelope = Arc::new(KeyringEnvelope::new(keyring));
    let built = || {
        let mut modules = ModuleRegistry::new()
            .register(SshModule::new())?
            .register(WinRmModule::new())?
            .register(IisModule::new())?
            .register(Kubernetes::new())?
            .register(F5::new())?
            .register(NetScaler::new())?
            .register(VaultModule::new())?
            .register(HuaweiCloud::new())?
            .register(Webhook::new())?
            .register(Smtp::new())?;
        if config.file_root().is_some() {
            modules = modules.register(FileModule::new())?;
        }
        let issuers = IssuerRegistry::new().register(LocalCaFactory::new())?.register(AcmeFactory::new())?;
        Runtime::builder(database.store.clone(), envelope.clone())
            .modules(modules)
            .issuers(issuers)
            .record::<ApiToken>()
            .settings(settings)
            .build()
    };
    match built() {
        Ok(runtime) => Ok(Composed { runtime, database, envelope, sources }),
        Err(error) => {
            database.close().await;
            Err(error)
        }
    }
}

/// A server that listens but does not serve yet.
pub(crate) struct Server {
    runtime: RunningRuntime,
    database: Database,
    reload: Reload,
    reload_now: Arc<Notify>,
    router: axum::Router,
    listener: TcpListener,
    http01: Option<(TcpListener, Http01Responder)>,
    stop: CancellationToken,
    config: Config,
    first_token: Option<SecretString>,
}

impl Server {
    /// Opens everything, listens, and starts the runtime.
    pub(crate) async fn start(config: Config, secrets: Secrets) -> Result<Self> {
        let metrics = telemetry::recorder()?;
        let Composed { runtime, database, envelope, sources } = compose(&config, secrets).await?;
        let reload = Reload { sources, envelope, store: database.store.clone() };
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
        let (runtime, reload_now) = (runtime.start(), Arc::default());
        Ok(Self { runtime, database, reload, reload_now, router, listener, http01, stop, config, first_token })
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

    /// Notify it to have the keys read again.
    pub(crate) fn reload_now(&self) -> Arc<Notify> {
        self.reload_now.clone()
    }

    /// Cancel it to stop.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until it is told to stop; then lets running requests end, and hands unfinished jobs back.
    pub(crate) async fn run(self) -> Result<()> {
        let Self { runtime, database, reload, reload_now, router, listener, http01, stop, config, .. } = self;
        let tasks = TaskTracker::new();
        tasks.spawn(reload.run(config.kek_reload(), reload_now, stop.clone()));
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
        database.close().await;
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

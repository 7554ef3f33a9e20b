//! Configuration: a TOML file, then `CERTLIB_*` environment variables, nothing else.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use certlib_core::{Error, Result};
use config::{Environment, File, FileFormat};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::database;
use crate::kek::providers;
use crate::secrets::is_secret;

const OPERATION: &str = "server.config";

/// Variables with the prefix of the configuration that are not part of it, beside secrets.
const NOT_SETTINGS: [&str; 2] = ["CERTLIB_CONFIG", "CERTLIB_INSTANCE_NAME"];

/// The longest that anything may be waited for that is set in seconds: a day.
const SECONDS_MAX: u64 = 86_400;

/// The server's settings. Each can also be given as `CERTLIB_` and its name in upper case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the API listens. It speaks plain HTTP: beyond this host, put a proxy in front that speaks TLS.
    pub(crate) listen: SocketAddr,
    /// Where HTTP-01 challenges are answered, and nothing else; usually port 80 of all addresses.
    pub(crate) http01_listen: Option<SocketAddr>,
    /// The directory of the database and the key file.
    pub(crate) data_dir: PathBuf,
    /// The database, such as `sqlite:FILE` or `postgres://HOST/NAME`; `certlib.db` in the data directory by default. One
    /// with a password goes into `CERTLIB_DATABASE_URL`, which wins.
    pub(crate) database: Option<String>,
    /// The file of the key-encryption keys; `kek` in the data directory by default.
    pub(crate) kek_file: Option<PathBuf>,
    /// Keys that are kept elsewhere: `[kek.pkcs11]`, `[kek.vault_transit]`.
    pub(crate) kek: providers::Settings,
    /// How often the keys are read again, in seconds. SIGHUP has them read at once.
    pub(crate) kek_reload_seconds: u64,
    /// How often this process tells the others that it lives, and which keys it has, in seconds.
    pub(crate) node_heartbeat_seconds: u64,
    /// How often the leader looks what is due, in seconds.
    pub(crate) sweep_interval_seconds: u64,
    /// Admits targets on this machine, below `file_module_root`.
    pub(crate) enable_file_module: bool,
    /// The directory that targets on this machine cannot leave.
    pub(crate) file_module_root: Option<PathBuf>,
    /// Lets targets on this machine run commands, as the server's user.
    pub(crate) file_module_commands: bool,
    /// Lets targets name internal addresses to be called.
    pub(crate) targets_allow_internal: bool,
    /// How long running requests may take to end after a signal to stop, in seconds.
    pub(crate) shutdown_grace_seconds: u64,
    /// What is logged, such as `info` or `warn,certlib_core=debug`.
    pub(crate) log: String,
    /// Logs JSON, one object a line.
    pub(crate) log_json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            http01_listen: None,
            data_dir: PathBuf::from("certlib-data"),
            database: None,
            kek_file: None,
            kek: providers::Settings::default(),
            kek_reload_seconds: 30,
            node_heartbeat_seconds: 30,
            sweep_interval_seconds: 60,
            enable_file_module: false,
            file_module_root: None,
            file_module_commands: false,
            targets_allow_internal: false,
            shutdown_grace_seconds: 20,
            log: "info".to_owned(),
            log_json: false,
        }
    }
}

impl Config {
    /// Reads `file`, if one is given, and then `variables`, which win. Fails on whatever it does not know.
    pub(crate) fn load(file: Option<&Path>, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            builder = builder.add_source(File::from(file).format(FileFormat::Toml));
        }
        let variables: HashMap<_, _> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("CERTLIB_") && !NOT_SETTINGS.contains(&&**name) && !is_secret(name))
            .collect();
        let environment = Environment::with_prefix("CERTLIB").try_parsing(true).ignore_empty(true);
        let config: Self = builder
            .add_source(environment.source(Some(variables)))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| {
                let what = "the configuration cannot be used";
                let error = Error::validation(OPERATION, "config_invalid", format!("{what}: {error}"));
                match file {
                    Some(file) => error.with("file", file.display()),
                    None => error,
                }
            })?;
        config.check()?;
        Ok(config)
    }

    /// Fails unless the settings make sense together.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid =
            |key: &str, why: &str| Err(Error::validation(OPERATION, "config_invalid", why.to_owned()).with("key", key));
        if self.data_dir.as_os_str().is_empty() {
            return invalid("data_dir", "the data directory needs a name");
        }
        if let Some(Err(why)) = self.database.as_deref().map(database::check) {
            return invalid("database", &why);
        }
        for (key, seconds) in [
            ("kek_reload_seconds", self.kek_reload_seconds),
            ("node_heartbeat_seconds", self.node_heartbeat_seconds),
            ("sweep_interval_seconds", self.sweep_interval_seconds),
        ] {
            if !(1..=SECONDS_MAX).contains(&seconds) {
                return invalid(key, "from 1 to 86400 seconds");
            }
        }
        if self.enable_file_module != self.file_module_root.is_some() {
            return invalid("file_module_root", "`enable_file_module` and `file_module_root` go together");
        }
        if self.file_module_root.as_deref().is_some_and(|root| !root.is_absolute() || !root.is_dir()) {
            return invalid("file_module_root", "not an absolute path of a directory");
        }
        if self.file_module_commands && !self.enable_file_module {
            return invalid("file_module_commands", "needs `enable_file_module`");
        }
        if let Err(error) = EnvFilter::try_new(&self.log) {
            return invalid("log", &error.to_string());
        }
        Ok(())
    }

    /// The key file.
    pub(crate) fn kek_file(&self) -> PathBuf {
        self.kek_file.clone().unwrap_or_else(|| self.data_dir.join("kek"))
    }

    /// The directory that targets on this machine cannot leave, if there may be such targets.
    pub(crate) fn file_root(&self) -> Option<&Path> {
        self.file_module_root.as_deref().filter(|_| self.enable_file_module)
    }

    /// How often the keys are read again.
    pub(crate) fn kek_reload(&self) -> Duration {
        Duration::from_secs(self.kek_reload_seconds)
    }

    /// How long running requests may take to end.
    pub(crate) fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server.toml");
        std::fs::write(&file, toml).unwrap();
        Config::load(Some(&file), variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let config = load("listen = \"127.0.0.1:1\"\nlog_json = true", &[("CERTLIB_LISTEN", "127.0.0.1:2")]).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert!(config.log_json);
        assert_eq!(config.data_dir, Config::default().data_dir);
        assert_eq!(Config::load(None, []).unwrap(), Config::default());
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        assert_eq!(load(include_str!("server.toml"), &[]).unwrap(), Config::default());
    }

    #[test]
    fn what_is_not_a_setting_is_left_alone() {
        let kek = "11".repeat(32);
        let variables = [
            ("CERTLIB_KEK", &*kek),
            ("CERTLIB_KEK_V2", &kek),
            ("CERTLIB_DATABASE_URL", "postgres://a:b@c/d"),
            ("CERTLIBRARY", "x"),
            ("PATH", "/"),
        ];
        assert_eq!(load("", &variables).unwrap(), Config::default());
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        type Variables = &'static [(&'static str, &'static str)];
        let cases: [(&str, Variables, &str); 14] = [
            ("lisen = \"127.0.0.1:1\"", &[], "lisen"),
            ("kek = \"00\"", &[], "kek"),
            ("log = \"info\"\nlog = \"warn\"", &[], "log"),
            ("listen = \"nowhere\"", &[], "listen"),
            ("enable_file_module = true", &[], "file_module_root"),
            ("file_module_root = \"/\"", &[], "file_module_root"),
            ("enable_file_module = true\nfile_module_root = \"relative\"", &[], "file_module_root"),
            ("file_module_commands = true", &[], "file_module_commands"),
            ("", &[("CERTLIB_LISEN", "127.0.0.1:1")], "lisen"),
            ("database = \"redis://db\"", &[], "database"),
            ("database = \"postgres://user:word@db/certlib\"", &[], "CERTLIB_DATABASE_URL"),
            ("database_url = \"postgres://db/certlib\"", &[], "database_url"),
            ("kek_reload_seconds = 0", &[], "kek_reload_seconds"),
            ("", &[("CERTLIB_KEK_V0", "ab")], "kek_v0"),
        ];
        for (toml, variables, key) in cases {
            let error = load(toml, variables).unwrap_err();
            assert_eq!(error.code(), "config_invalid");
            assert!(error.to_string().contains(key), "{toml}: {error}");
        }
    }
}

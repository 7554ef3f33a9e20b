use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{Hidden, temporary_folder, write};
use crate::{Error, Result, locate::locate, process::run};

/// The environment variable with the path of the library, for machines that keep it elsewhere.
const MODULE: &str = "CERTLIB_SOFTHSM2_MODULE";

/// Where packages put the library.
const MODULES: [&str; 7] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

/// The environment variable that tells the library where its configuration is.
const CONFIGURATION: &str = "SOFTHSM2_CONF";

/// A token of SoftHSM2, an HSM in software with a PKCS#11 library, in a folder of its own.
///
/// The library reads its configuration from an environment variable when it is loaded, and keeps one state per process.
/// So it has to be used in a process that was started with [`SoftHsm::environment`].
#[derive(Debug)]
pub struct SoftHsm {
    module: PathBuf,
    label: String,
    pin: Hidden,
    folder: TempDir,
}

impl SoftHsm {
    /// Makes a token called `label`, with a random PIN and no keys.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`] when the token cannot be made.
    pub async fn start(label: &str) -> Result<SoftHsm> {
        SoftHsm::with_mechanisms(label, "ALL").await
    }

    /// The same, with some mechanisms only: a list such as `CKM_AES_KEY_GEN,CKM_AES_GCM`. (SoftHSM2 has a way to list
    /// those that are missing, too; version 2.6.1 overlooks the first of them.)
    ///
    /// # Errors
    ///
    /// As [`SoftHsm::start`].
    pub async fn with_mechanisms(label: &str, mechanisms: &str) -> Result<SoftHsm> {
        let program = locate("softhsm2-util").await?;
        let folder = temporary_folder("softhsm")?;
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens).map_err(Error::file("creating", &tokens))?;
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n\
             slots.mechanisms = {mechanisms}\n",
            tokens.display()
        );
        write(&folder.path().join("softhsm2.conf"), configuration)?;
        let pin = Hidden(rand::random_range(10_000_000..100_000_000).to_string());
        let hsm = SoftHsm { module: module()?, label: label.to_owned(), pin, folder };
        // The PIN is an argument for a moment: there is no other way, and it guards nothing but this test.
        let mut command = Command::new(program);
        command.args(["--init-token", "--free", "--label", label, "--pin", hsm.pin(), "--so-pin", hsm.pin()]);
        hsm.run(command).await?;
        Ok(hsm)
    }

    /// The PKCS#11 library.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The label of the token.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The PIN of its user, and of its security officer.
    pub fn pin(&self) -> &str {
        &self.pin.0
    }

    /// The folder with its configuration and tokens.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The variable that a process which uses the library has to be started with, and its value.
    pub fn environment(&self) -> (&'static str, PathBuf) {
        (CONFIGURATION, self.folder.path().join("softhsm2.conf"))
    }

    /// The objects of the token and their attributes, as `pkcs11-tool` of OpenSC prints them after a log-in.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`] when it fails.
    pub async fn objects(&self) -> Result<String> {
        self.tool(&["--list-objects"]).await
    }

    /// Runs `pkcs11-tool` of OpenSC on the token, logged in, and gives what it prints.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`] when it fails.
    pub async fn tool(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(locate("pkcs11-tool").await?);
        command.arg("--module").arg(&self.module);
        command.args(["--token-label", &self.label, "--login", "--pin", self.pin()]).args(arguments);
        self.run(command).await
    }

    async fn run(&self, mut command: Command) -> Result<String> {
        let (variable, configuration) = self.environment();
        command.env(variable, configuration);
        run(command, b"").await.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn module() -> Result<PathBuf> {
    let given = env::var_os(MODULE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let known = MODULES.iter().map(PathBuf::from);
    given.into_iter().chain(known).find(|path| path.exists()).ok_or_else(|| Error::Missing {
        program: "libsofthsm2.so",
        remedy: format!("install it (`apt-get install softhsm2`), or set {MODULE} to its path"),
    })
}

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{is_root, write};
use crate::{Error, Result, locate::locate, process::run};

/// Where `sudo` reads additional rules from.
const RULES: &str = "/etc/sudoers.d";

/// A user of this machine that may do nothing, except, where asked for, run `/bin/sh` as root by `sudo` without a
/// password. It has no password; an [`Sshd`](super::Sshd) started by root lets it in with the fixture's keys.
///
/// Dropping it removes the user and its rule. A rule that a killed test leaves behind ends by itself after an hour.
#[derive(Debug)]
pub struct SudoUser {
    name: String,
    rule: Option<PathBuf>,
}

impl SudoUser {
    /// Creates a user; `trusted` is whether `sudo` lets it become root.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Missing`] unless the test runs as root, who alone can create users.
    pub async fn create(trusted: bool) -> Result<SudoUser> {
        locate("sudo").await?;
        if !is_root() {
            let remedy = "run the tests as root, or leave it out with `--without sudo`".to_owned();
            return Err(Error::Missing { program: "sudo", remedy });
        }
        let name = format!("certlib-{:08x}", rand::random::<u32>());
        let mut add = Command::new("useradd");
        // An asterisk is no password and, unlike the default, does not lock the account.
        add.args(["--system", "--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", "--password", "*", &name]);
        run(add, b"").await?;
        let mut user = SudoUser { name, rule: None };
        if trusted {
            let mut date = Command::new("date");
            date.args(["-u", "-d", "+1 hour", "+%Y%m%d%H%M%SZ"]);
            let end = String::from_utf8_lossy(&run(date, b"").await?.stdout).trim().to_owned();
            let text = format!("{} ALL=(root) NOTAFTER={end} NOPASSWD: /bin/sh\n", user.name);
            user.rule = Some(put_rule(&user.name, &text)?);
        }
        Ok(user)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `sudo` reads all files but those with a dot in their names, and complains about rules that are half written.
fn put_rule(name: &str, text: &str) -> Result<PathBuf> {
    let path = Path::new(RULES).join(name);
    let half = path.with_extension("new");
    write(&half, text)?;
    fs::set_permissions(&half, fs::Permissions::from_mode(0o440)).map_err(Error::file("writing", &half))?;
    fs::rename(&half, &path).map_err(Error::file("writing", &path))?;
    Ok(path)
}

impl Drop for SudoUser {
    fn drop(&mut self) {
        if let Some(rule) = &self.rule {
            let _ = fs::remove_file(rule);
        }
        // Its last session may not have ended yet.
        let mut delete = Command::new("userdel");
        let _ = delete.args(["--force", &self.name]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

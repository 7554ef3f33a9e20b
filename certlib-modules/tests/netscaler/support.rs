//! An appliance, certificates for it, and a module at work on it.

use std::net::SocketAddr;
use std::sync::Arc;

use certlib_core::module::{
    ApprovedPlan, ErasedModule, Facts, JournalSink, MemoryJournal, Plan, RollbackOutcome, TargetSpec, Validation,
};
use certlib_core::{CertificateBundle, Context, Result, Secret};
use certlib_modules::netscaler::NetScaler;
use certlib_testkit::netscaler::{AdminCall, NetscalerSim, NetscalerSimBuilder};
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::tls;
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

pub(crate) const NAME: &str = "shop.example";
pub(crate) const PASSWORD: &str = "nsroot-password";

/// A root, one authority below it, and two below that.
pub(crate) struct Pki {
    pub(crate) root: TestCa,
    pub(crate) upper: TestCa,
    pub(crate) a: TestCa,
    pub(crate) b: TestCa,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let root = TestCa::new("root").unwrap();
        let upper = root.intermediate("upper").unwrap();
        let (a, b) = (upper.intermediate("lower A").unwrap(), upper.intermediate("lower B").unwrap());
        Self { root, upper, a, b }
    }

    /// A certificate by A, with its chain up to the root, which is left out.
    pub(crate) fn by_a(&self) -> Delivered {
        self.by(&self.a)
    }

    /// The same by B.
    pub(crate) fn by_b(&self) -> Delivered {
        self.by(&self.b)
    }

    fn by(&self, issuer: &TestCa) -> Delivered {
        Delivered::new(issuer.issue(&[NAME]).unwrap(), &[issuer, &self.upper])
    }
}

/// What is delivered.
pub(crate) struct Delivered {
    pub(crate) issued: Issued,
    pem: String,
}

impl Delivered {
    pub(crate) fn new(issued: Issued, chain: &[&TestCa]) -> Self {
        let chain: String = chain.iter().map(|ca| ca.certificate_pem()).collect();
        let pem = format!("{}{chain}{}", issued.certificate_pem, issued.key_pem);
        Self { issued, pem }
    }

    pub(crate) fn bundle(&self) -> CertificateBundle {
        CertificateBundle::from_pem(self.pem.as_bytes()).unwrap()
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.issued.fingerprint
    }
}

/// An appliance with the pair `shop`, by A, bound to the virtual server `web`.
pub(crate) struct Shop {
    pub(crate) sim: NetscalerSim,
    pub(crate) pki: Pki,
    pub(crate) former: Delivered,
    pub(crate) partition: String,
}

impl Shop {
    pub(crate) async fn new() -> Self {
        Self::build(NetscalerSim::builder(), "").await
    }

    /// In a partition, on whatever `builder` describes besides.
    pub(crate) async fn build(builder: NetscalerSimBuilder, partition: &str) -> Self {
        let builder = if partition.is_empty() { builder } else { builder.partition(partition) };
        let sim = builder.vserver(partition, "web").start().await.unwrap();
        let pki = Pki::new();
        let former = pki.by_a();
        sim.put_authority(partition, "upper-ca", pki.upper.certificate_pem()).unwrap();
        sim.put_authority(partition, "lower-a", pki.a.certificate_pem()).unwrap();
        sim.link(partition, "lower-a", "upper-ca").unwrap();
        sim.put_pair(partition, "shop", &former.issued.certificate_pem, &former.issued.key_pem).unwrap();
        sim.link(partition, "shop", "lower-a").unwrap();
        sim.bind(partition, "web", "shop", false).unwrap();
        Self { sim, pki, former, partition: partition.to_owned() }
    }

    pub(crate) fn web(&self) -> SocketAddr {
        self.sim.vserver(&self.partition, "web").unwrap()
    }

    /// The target, with more settings.
    pub(crate) fn target(&self, settings: Value) -> TargetSpec {
        let mut config = config(&self.sim);
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let location = json!({ "url": self.sim.url(), "certkey": "shop" });
        TargetSpec::new("t-1", "shop on the ADC", config, location, login("nsroot", PASSWORD))
    }

    /// The module at work on [`Shop::target`].
    pub(crate) fn work(&self, settings: Value) -> Work {
        let mut target = self.target(settings);
        if !self.partition.is_empty() {
            target.location["partition"] = json!(self.partition);
        }
        Work::new(target)
    }

    pub(crate) fn pair(&self, name: &str) -> Value {
        self.sim.read(&self.partition, &format!("sslcertkey/{name}")).unwrap()
    }

    pub(crate) fn link_of(&self, name: &str) -> Option<String> {
        self.pair(name)["linkcertkeyname"].as_str().map(str::to_owned)
    }

    /// The fingerprint of what `web` serves, by whichever name it is asked for.
    pub(crate) async fn serves(&self, name: &str) -> String {
        tls::leaf_fingerprint(self.web(), name).await.unwrap()
    }

    /// Whether a client that knows nothing but the root accepts what `web` serves: the chain is there, whole.
    pub(crate) async fn is_trusted(&self) -> bool {
        is_trusted(self.web(), NAME, self.pki.root.certificate_pem()).await
    }

    /// Somebody else's pair with its own chain, as it is updated by hand.
    pub(crate) fn meddle(&self) {
        let theirs = TestCa::new("theirs").unwrap().issue(&[NAME]).unwrap();
        self.sim.put_file(&self.partition, "theirs.cer", theirs.certificate_pem.as_bytes());
        self.sim.put_file(&self.partition, "theirs.key", theirs.key_pem.as_bytes());
        self.sim.call(&self.partition, &take_theirs()).unwrap();
    }
}

/// Another administrator's update of the pair `shop`, with the files of [`Shop::meddle`].
pub(crate) fn take_theirs() -> AdminCall {
    let fields = json!({ "certkey": "shop", "cert": "theirs.cer", "key": "theirs.key", "nodomaincheck": true });
    AdminCall::post("sslcertkey?action=update", fields)
}

pub(crate) fn config(sim: &NetscalerSim) -> Value {
    json!({
        "connection": { "addresses": { "allow_loopback": true }, "tls": { "ca_pem": sim.ca_pem() } },
    })
}

pub(crate) fn login(user: &str, password: &str) -> Option<Secret<String>> {
    Some(Secret::new(json!({ "username": user, "password": password }).to_string()))
}

pub(crate) fn endpoint(addr: SocketAddr, name: &str) -> Value {
    json!({ "host": addr.ip().to_string(), "port": addr.port(), "server_name": name, "tries": 1, "delay_ms": 0 })
}

pub(crate) async fn is_trusted(addr: SocketAddr, name: &str, root_pem: &str) -> bool {
    let config = Arc::new(tls::client_config(root_pem).unwrap());
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await.is_ok()
}

/// A module with a target, as the engine holds them.
pub(crate) struct Work {
    module: NetScaler,
    pub(crate) target: TargetSpec,
    pub(crate) cx: Context,
    pub(crate) journal: MemoryJournal,
}

impl Work {
    pub(crate) fn new(target: TargetSpec) -> Self {
        Self { module: NetScaler::new(), target, cx: Context::new("operation"), journal: MemoryJournal::new() }
    }

    pub(crate) async fn plan(&self, bundle: &CertificateBundle) -> Result<Plan> {
        ErasedModule::dry_run(&self.module, &self.cx, &self.target, bundle).await
    }

    /// With the journal as it is: a first attempt, or another one.
    pub(crate) async fn execute(&self, bundle: &CertificateBundle, plan: &Plan) -> Result<Facts> {
        let plan = ApprovedPlan::assertion(plan.clone());
        ErasedModule::execute(&self.module, &self.cx, &self.target, bundle, &plan, &self.journal).await
    }

    /// Dry run and delivery, with a new journal.
    pub(crate) async fn deliver(&mut self, bundle: &CertificateBundle) -> Result<Facts> {
        self.journal = MemoryJournal::new();
        let plan = self.plan(bundle).await?;
        self.execute(bundle, &plan).await
    }

    pub(crate) async fn validate(&self, bundle: &CertificateBundle) -> Validation {
        ErasedModule::validate(&self.module, &self.cx, &self.target, bundle).await.unwrap()
    }

    pub(crate) async fn rollback(&self) -> Result<RollbackOutcome> {
        let entries = self.journal.entries().await?;
        ErasedModule::rollback(&self.module, &self.cx, &self.target, &entries).await
    }
}

pub(crate) fn served(validation: &Validation) -> bool {
    matches!(validation, Validation::Served { .. })
}

#[track_caller]
pub(crate) fn refused(outcome: RollbackOutcome) -> String {
    match outcome {
        RollbackOutcome::Refused { code, .. } => code,
        outcome => panic!("{outcome:?}"),
    }
}

//! A CA that counts its orders: slow, busy, strict or away, as chance has it.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::bundle::CertificateBundle;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, RenewalInfo, RenewalWindow,
};
use certlib_core::model::{Order, OrderStage};
use certlib_core::poll::PollSchedule;
use certlib_core::queue::JobState;
use certlib_core::store::{StoreExt as _, TypedQuery};
use certlib_core::{Context, Effect, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair, SerialNumber,
};
use serde_json::{Value, json};

use crate::backend::{Backend, at_once};
use crate::clock::START;
use crate::history::demand;
use crate::network::Node;

/// How long its certificates live.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How much earlier than now they begin: clocks differ.
const BACKDATED: Duration = Duration::from_secs(2 * 3600);

pub struct Ca {
    pub backend: Arc<Backend>,
    pub orders: Mutex<Vec<CaOrder>>,
    /// When people asked for a certificate: then a poll that waits for its time is made at once.
    pub asked: Mutex<Vec<Duration>>,
    /// How often a request to it fails.
    pub failures: f64,
    /// How often it refuses an order for good.
    pub strict: f64,
    /// How often an order is asked about before it is ready, at most.
    pub slow: u64,
    /// Whether it says when to ask again.
    pub asks_to_wait: bool,
}

/// One order, as the CA sees it.
#[derive(Debug)]
pub struct CaOrder {
    pub certificate: String,
    pub version: u32,
    pending: u64,
    pub rejected: bool,
    polls: Vec<Duration>,
    chain_pem: Option<String>,
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

/// One root for all runs: what it signs is no matter of chance.
fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "simulated ca");
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Root { issuer: Issuer::new(params, key), der }
    })
}

/// The CA as a node reaches it.
#[derive(Clone)]
pub struct SimIssuer {
    ca: Arc<Ca>,
    node: Arc<Node>,
}

impl std::fmt::Debug for SimIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimIssuer").field("node", &self.node.name).finish_non_exhaustive()
    }
}

impl SimIssuer {
    async fn travel(&self) {
        tokio::time::sleep(self.node.stage.millis(1..=40)).await;
    }

    fn fails(&self) -> Option<Error> {
        let stage = &self.node.stage;
        if stage.is_healed() || !stage.happens(self.ca.failures) {
            return None;
        }
        Some(if stage.happens(0.5) {
            Error::network("ca", "connect_refused", "nobody there")
        } else {
            let after = Duration::from_secs(stage.draw(1..=90));
            Error::transient("ca", "rate_limited", "too many requests").with_retry_after(Some(after))
        })
    }

    /// An order for material that another order is on the way to, and that the node could have known about, is one too
    /// many.
    fn check_need(&self, cx: &Context) {
        let query = TypedQuery::<Order>::new().equal("open", &*cx.subject.certificate_id);
        let open = at_once(self.ca.backend.memory.list_all(query)).unwrap();
        let placed = open.iter().any(|order| order.stage == OrderStage::Placed);
        let own = {
            let ledger = self.ca.backend.ledger.lock().unwrap();
            let job = ledger.jobs.get(&cx.operation_id);
            job.is_some_and(|job| {
                job.state == JobState::InProgress && Some(&*job.worker) == self.node.engine().as_deref()
            })
        };
        self.node.stage.judge(demand(!placed || !own, "G18", || {
            format!("{} orders version {} again", cx.subject.certificate_id, cx.subject.version)
        }));
    }
}

#[async_trait]
impl AsyncIssuer for SimIssuer {
    fn recovery(&self) -> Recovery<'_> {
        Recovery::Repeat
    }

    async fn submit(&self, cx: &Context, _: &IssueRequest) -> Result<OrderHandle> {
        self.travel().await;
        if let Some(error) = self.fails() {
            self.node.gate().await;
            return Err(error);
        }
        self.check_need(cx);
        let stage = &self.node.stage;
        let healed = stage.is_healed();
        let number = {
            let mut orders = self.ca.orders.lock().unwrap();
            orders.push(CaOrder {
                certificate: cx.subject.certificate_id.clone(),
                version: cx.subject.version,
                pending: if healed { 0 } else { stage.draw(0..=self.ca.slow) },
                rejected: !healed && stage.happens(self.ca.strict),
                polls: Vec::new(),
                chain_pem: None,
            });
            orders.len() - 1
        };
        stage.note(&self.node.name, format!("ca: order {number} for version {}", cx.subject.version));
        self.travel().await;
        let lost = !healed && stage.happens(self.ca.failures / 4.0);
        self.node.gate().await;
        if lost {
            return Err(Error::network("ca", "reset", "the answer was lost").with_effect(Effect::Possible));
        }
        OrderHandle::encode(&number)
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        self.travel().await;
        let state = match self.fails() {
            Some(error) => Err(error),
            None => self.answer(cx, handle),
        };
        self.travel().await;
        self.node.gate().await;
        state
    }

    fn poll_schedule(&self) -> PollSchedule {
        PollSchedule::default()
    }

    fn renewal_info(&self) -> Option<&dyn RenewalInfo> {
        Some(self)
    }
}

impl SimIssuer {
    fn answer(&self, _: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let number: usize = handle.decode()?;
        let stage = &self.node.stage;
        let mut orders = self.ca.orders.lock().unwrap();
        let order = &mut orders[number];
        let now = stage.now();
        order.polls.push(now);
        if order.rejected {
            return Ok(OrderState::Rejected { reason: Error::validation("ca", "rejected", "the CA says no") });
        }
        if order.pending > 0 && !stage.is_healed() {
            order.pending -= 1;
            let retry_after =
                (self.ca.asks_to_wait && stage.happens(0.2)).then(|| Duration::from_secs(stage.draw(1..=60)));
            return Ok(OrderState::Pending { retry_after });
        }
        let csr = || {
            let query = TypedQuery::<Order>::new().equal("certificate", &*order.certificate);
            let kept = at_once(self.ca.backend.memory.list_all(query)).unwrap();
            kept.into_iter().find(|kept| kept.handle.as_ref() == Some(handle)).map(|kept| kept.record.request.csr)
        };
        if order.chain_pem.is_none() {
            // Who polls has kept the handle first.
            let csr = csr().ok_or_else(|| Error::permanent("ca", "unknown_order", "nobody kept this order"))?;
            order.chain_pem = Some(issue(&csr, number, now));
        }
        stage.note(&self.node.name, format!("ca: order {number} is issued"));
        Ok(OrderState::Issued { chain_pem: order.chain_pem.clone().unwrap_or_default() })
    }
}

fn issue(csr: &[u8], number: usize, now: Duration) -> String {
    let root = root();
    let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
    csr.params.not_before = START + now - BACKDATED;
    csr.params.not_after = START + now + LIFETIME;
    csr.params.serial_number = Some(SerialNumber::from(u64::try_from(number).unwrap() + 1));
    let leaf = csr.signed_by(&root.issuer).unwrap();
    CertificateBundle::new(vec![leaf.der().to_vec(), root.der.clone()], None).unwrap().fullchain_pem()
}

#[async_trait]
impl RenewalInfo for SimIssuer {
    async fn renewal_window(&self, _: &Context, bundle: &CertificateBundle) -> Result<Option<RenewalWindow>> {
        self.travel().await;
        self.node.gate().await;
        if let Some(error) = self.fails() {
            return Err(error);
        }
        let leaf = bundle.leaf();
        let length = leaf.not_after - leaf.not_before;
        RenewalWindow::new(leaf.not_before + length * 0.5, leaf.not_before + length * 0.6).map(Some)
    }
}

impl Ca {
    /// What must hold of its orders at the end of a run without any fault: one order for each version.
    pub fn check_calm(&self) -> crate::history::Verdict {
        let orders = self.orders.lock().unwrap();
        for (number, order) in orders.iter().enumerate() {
            let twin = orders[..number].iter().any(|former| {
                former.certificate == order.certificate && former.version == order.version && !former.rejected
            });
            demand(!twin, "G18", || format!("version {} was ordered twice without need", order.version))?;
            for first in &order.polls {
                let calls = order.polls.iter().filter(|at| **at >= *first && **at < *first + Duration::from_secs(600));
                let asked = self.asked.lock().unwrap();
                let asked =
                    asked.iter().filter(|at| **at >= *first && **at < *first + Duration::from_secs(600)).count();
                let calls = calls.count();
                demand(calls <= 8 + asked, "G31", || format!("order {number} was polled {calls} times in 10 minutes"))?;
            }
        }
        Ok(())
    }
}

pub struct SimFactory {
    pub ca: Arc<Ca>,
    pub node: Arc<Node>,
}

impl std::fmt::Debug for SimFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimFactory").field("node", &self.node.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl IssuerFactory for SimFactory {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn check(&self, _: &Value) -> Result<()> {
        Ok(())
    }

    async fn build(&self, _: &Context, _: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        Ok(Arc::new(SimIssuer { ca: self.ca.clone(), node: self.node.clone() }))
    }
}

/// The configuration of the CA.
pub fn config() -> Value {
    json!({})
}

//! `issue_certificate` and `renew_certificate`: from intent to checked, kept, and on its way to the targets.

use std::sync::Arc;

use async_trait::async_trait;
use rand::RngExt as _;
use serde_json::json;
use time::OffsetDateTime;

use super::order::{Begun, catch_up, find_or_begin, open_key, place, save};
use super::rate::Limited;
use super::{CertificatePayload, ISSUE, ORDER_UNCLEAR, RENEW, RENEWAL_FAILED, payload};
use crate::backoff::Jitter;
use crate::bundle::{CertificateBundle, Expected, check_issued};
use crate::context::{Context, Subject};
use crate::distribution::{self, LOOK_AFTER};
use crate::error::{Error, ErrorClass, Result, codes};
use crate::issuer::{OrderState, Recovery};
use crate::model::{
    Certificate, CertificateState, CertificateVersion, Distribution, Event, ExpiryWatch, LogLevel, Order, OrderStage,
    Severity, Trigger, VersionState,
};
use crate::policy;
use crate::poll::NextPoll;
use crate::queue::{Claim, Job, Lane, Outcome, RetryPolicy, after_failure, later};
use crate::random;
use crate::runtime::{Engine, Handled, JobContext, JobHandler};
use crate::store::{Condition, StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// Gets a version of a certificate.
#[derive(Debug)]
pub(crate) struct IssuanceHandler {
    engine: Arc<Engine>,
    kind: &'static str,
}

impl IssuanceHandler {
    /// For the first version.
    pub(crate) fn first(engine: Arc<Engine>) -> Self {
        Self { engine, kind: ISSUE }
    }

    /// For further versions, with a longer ladder.
    pub(crate) fn renewal(engine: Arc<Engine>) -> Self {
        Self { engine, kind: RENEW }
    }
}

#[async_trait]
impl JobHandler for IssuanceHandler {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn lane(&self) -> Lane {
        Lane::Issuance
    }

    fn retry_policy(&self) -> Option<RetryPolicy> {
        (self.kind == RENEW).then(|| self.engine.settings.renewal_retry.clone())
    }

    async fn run(&self, job: &Job, context: &JobContext) -> Result<Handled> {
        match self.work(job, context).await {
            Err(error) if self.kind == RENEW && error.class().is_retryable() && !is_stopping(context) => {
                self.retry_in_time(job, error).await
            }
            result => result,
        }
    }
}

impl IssuanceHandler {
    async fn work(&self, job: &Job, context: &JobContext) -> Result<Handled> {
        let CertificatePayload { certificate_id, version } = payload(job)?;
        let mut certificate = self.engine.store.load::<Certificate>(&certificate_id).await?;
        if certificate.latest_version >= version {
            return Ok(Handled::Succeeded);
        }
        context.cx.check_cancelled("issue")?;
        let subject = Subject::certificate(&certificate.project, &certificate.id, certificate.latest_version + 1);
        let cx = context.cx.clone().about(subject);
        let work = Work { engine: &self.engine, job, context, claim: &context.claim, cx };
        let mut order = match find_or_begin(&self.engine, &context.claim, &mut certificate).await {
            Ok(Begun::Order(order)) => *order,
            Ok(Begun::Limited(Limited { wait, batch })) => {
                return Ok(Handled::Commit { batch, outcome: Outcome::Snooze { delay: wait } });
            }
            // A second job of this certificate was faster; its order is found next time.
            Err(error) if error.is_conflict() => {
                return Err(
                    Error::transient("issue.begin", "busy", "the certificate is being changed").with_source(error)
                );
            }
            Err(error) => return Err(error),
        };
        let is_new = order.handle.is_none();
        match place(&self.engine, &work.cx, &context.claim, &mut order).await {
            Ok(()) if is_new => {
                context.log(LogLevel::Info, format!("order {} placed at issuer {}", order.id, order.issuer_id));
                work.poll(&mut certificate, &mut order).await
            }
            Ok(()) => work.poll(&mut certificate, &mut order).await,
            Err(error) => {
                // What was not sent, or was refused, can be begun anew; of anything else the CA may have an order.
                let ends = order.stage == OrderStage::Intended && error.class() == ErrorClass::Validation;
                Err(work.note_failure(&mut certificate, &mut order, error, ends).await)
            }
        }
    }

    /// Has a failed renewal tried again on its ladder, but not later than the certificate's end allows.
    async fn retry_in_time(&self, job: &Job, error: Error) -> Result<Handled> {
        let policy = &self.engine.settings.renewal_retry;
        let Outcome::Retry { error: record, delay } = after_failure(policy, job.attempt, &error, Jitter::random())
        else {
            return Err(error);
        };
        let Ok(CertificatePayload { certificate_id, .. }) = payload(job) else { return Err(error) };
        let Ok(Some(certificate)) = self.engine.store.find::<Certificate>(&certificate_id).await else {
            return Err(error);
        };
        let Some(watch) = &certificate.expiry else { return Err(error) };
        let now = self.engine.clock.now();
        let delay = policy::bound_retry(delay, error.retry_after(), watch.not_before, watch.not_after, now);
        tracing::warn!(%error, ?delay, "the renewal failed and is tried again");
        let outcome = Outcome::Retry { error: record, delay };
        Ok(Handled::Commit { batch: Box::new(WriteBatch::new()), outcome })
    }
}

/// Whether the job was asked to stop, or belongs to somebody else: then its failure is none.
fn is_stopping(context: &JobContext) -> bool {
    context.cx.cancel.is_cancelled() || context.lost.is_cancelled()
}

/// One attempt at one order.
struct Work<'a> {
    engine: &'a Engine,
    job: &'a Job,
    context: &'a JobContext,
    claim: &'a Claim,
    cx: Context,
}

impl Work<'_> {
    /// Asks the CA once and acts on the answer.
    async fn poll(&self, certificate: &mut Versioned<Certificate>, order: &mut Versioned<Order>) -> Result<Handled> {
        let issuer = match self.engine.issuer(&self.cx, &order.issuer_id).await {
            Ok(issuer) => issuer,
            Err(error) => return Err(self.note_failure(certificate, order, error, false).await),
        };
        let handle = order.handle.clone().ok_or_else(|| {
            Error::permanent("issue.poll", "handle_invalid", "the order is placed but its handle is missing")
        })?;
        let retry_after = match issuer.poll(&self.cx, &handle).await {
            Ok(OrderState::Issued { chain_pem }) => return self.accept(certificate, order, &chain_pem).await,
            Ok(OrderState::Pending { retry_after }) => retry_after,
            Ok(OrderState::Rejected { reason }) => {
                return Err(self.close(certificate, order, OrderStage::Rejected, reason).await);
            }
            // The CA is away or busy: the order stands as it did.
            Err(error) if error.class().is_retryable() => {
                tracing::info!(%error, "the CA does not answer; the order stays pending");
                self.context.log(LogLevel::Warn, format!("the CA does not answer; the order stays pending: {error}"));
                error.retry_after()
            }
            // An order that the CA does not know is over. After anything else the CA may still have it: once the
            // credentials, or what stands in between, are mended, it is taken up again. One that costs nothing is not
            // worth the wait.
            Err(error) => {
                let ends = match error.class() {
                    ErrorClass::Validation => true,
                    ErrorClass::IoPermanent => matches!(issuer.recovery(), Recovery::Repeat),
                    _ => false,
                };
                return Err(self.note_failure(certificate, order, error, ends).await);
            }
        };
        let now = self.engine.clock.now();
        let next = issuer.poll_schedule().next(order.polls, order.round_started_at, now, retry_after, Jitter::random());
        let wait = match next {
            NextPoll::After(wait) => {
                order.polls += 1;
                wait
            }
            NextPoll::StillPending => {
                let rest = self.engine.settings.order_rest;
                tracing::info!(order = %order.id, "still pending at the CA; resting");
                order.polls = 0;
                let rest = rest.max(retry_after.unwrap_or_default());
                order.round_started_at = now + rest;
                rest
            }
        };
        save(self.engine, self.claim, order).await?;
        self.context.log(LogLevel::Info, format!("order {} is pending at the CA", order.id));
        Ok(Handled::Snooze(wait))
    }

    /// Checks what the CA issued, keeps it, and sends it on its way: one commit.
    async fn accept(
        &self,
        certificate: &mut Versioned<Certificate>,
        order: &mut Versioned<Order>,
        chain_pem: &str,
    ) -> Result<Handled> {
        let key = open_key(self.engine, order).await?;
        let now = self.engine.clock.now();
        let checked = CertificateBundle::from_pem(chain_pem.as_bytes()).and_then(|bundle| {
            check_issued(&bundle, &Expected::new(&order.request.names, key.public_key(), now))?;
            Ok(bundle)
        });
        let bundle = match checked {
            Ok(bundle) => bundle,
            Err(error) => return Err(self.close(certificate, order, OrderStage::Quarantined, error).await),
        };
        let number = certificate.latest_version + 1;
        let id = CertificateVersion::id_of(&certificate.id, number);
        let aad = CertificateVersion::aad(&certificate.project, &id);
        let version = CertificateVersion {
            key: self.engine.sealer.seal(key.pkcs8().expose(), &aad).await?,
            id,
            certificate_id: certificate.id.clone(),
            project: certificate.project.clone(),
            version: number,
            chain_pem: bundle.fullchain_pem(),
            leaf: bundle.leaf().clone(),
            issuer_id: order.issuer_id.clone(),
            order_id: order.id.clone(),
            state: VersionState::Issued,
            created_at: now,
        };
        order.stage = OrderStage::Issued;
        certificate.latest_version = number;
        certificate.held_version = None;
        let draw = random::with(|rng| rng.random_range(0.0..1.0));
        certificate.renew_at = policy::renew_at(bundle.leaf(), &certificate.renewal, draw);
        certificate.hint = None;
        certificate.hint_check_at = (certificate.renewal.automatic && certificate.renewal.follow_hint).then_some(now);
        certificate.last_error = None;
        certificate.updated_at = now;
        let data = json!({
            "version": number,
            "fingerprint": version.leaf.fingerprint,
            "not_after": version.leaf.not_after.unix_timestamp(),
        });
        let event = Event::new(&certificate.project, "certificate.issued", &certificate.id, data, now);
        let mut batch = WriteBatch::new().update(order)?.insert(&version)?.insert(&event)?;
        let thresholds = &self.engine.settings.expiry_thresholds;
        certificate.distribution_check_at = Some(now + LOOK_AFTER);
        let distributions = self.automatic_distributions(&certificate.id).await?;
        if distributions.is_empty() {
            policy::goes_live(certificate, number, bundle.leaf(), thresholds);
            certificate.state = CertificateState::Active;
        } else {
            certificate.state = CertificateState::Distributing;
            if certificate.active_version.is_none() {
                certificate.expiry = Some(policy::watch(number, bundle.leaf(), thresholds));
            }
        }
        for distribution in &distributions {
            let run = distribution::new_run(distribution, number, now);
            batch = batch.insert(&run)?.enqueue(distribution::job(&run));
        }
        let not_after = bundle.leaf().not_after;
        self.context.log(LogLevel::Info, format!("version {number} was issued, valid until {not_after}"));
        // Should the commit meet another, nothing is lost: the order is found again, and the CA still has its answer.
        Ok(Handled::success(batch.update(certificate)?))
    }

    async fn automatic_distributions(&self, certificate_id: &str) -> Result<Vec<Distribution>> {
        let query = TypedQuery::<Distribution>::new().equal("certificate", certificate_id);
        let mut records: Vec<_> =
            self.engine.store.list_all(query).await?.into_iter().map(|record| record.record).collect();
        records.retain(|record| record.trigger == Trigger::Automatic && !record.targets.is_empty());
        Ok(records)
    }

    /// Ends an order without a certificate, and gives the error back.
    async fn close(
        &self,
        certificate: &mut Versioned<Certificate>,
        order: &mut Versioned<Order>,
        stage: OrderStage,
        error: Error,
    ) -> Error {
        order.stage = stage;
        order.error = Some(error.to_record());
        let kind = match stage {
            OrderStage::Quarantined => "certificate.quarantined",
            _ => failure_kind(certificate),
        };
        match self.record_failure(certificate, order, kind, &error).await {
            Ok(()) if error.class().is_retryable() => {
                // A rejected order cannot be mended by asking again, whatever the CA's reason was.
                Error::validation("issue", "order_rejected", "the CA ended the order").with_source(error)
            }
            Ok(()) => error,
            // What could not be written down, because somebody wrote the same, must not replace the cause.
            Err(store) if store.is_conflict() => error,
            Err(store) => store,
        }
    }

    /// Notes a failure, which leaves the order as it is unless it `ends` it.
    async fn note_failure(
        &self,
        certificate: &mut Versioned<Certificate>,
        order: &mut Versioned<Order>,
        error: Error,
        ends: bool,
    ) -> Error {
        if error.is_conflict() {
            // The order may be at the CA already, and is found again.
            return Error::transient("issue.save", "busy", "the order is being changed").with_source(error);
        }
        if ends {
            return self.close(certificate, order, OrderStage::Rejected, error).await;
        }
        let is_unclear = error.code() == codes::ORDER_UNCLEAR;
        let kind = if is_unclear { ORDER_UNCLEAR } else { failure_kind(certificate) };
        match self.record_failure(certificate, order, kind, &error).await {
            Ok(()) => error,
            Err(store) if store.is_conflict() => error,
            Err(store) => store,
        }
    }

    async fn record_failure(
        &self,
        certificate: &mut Versioned<Certificate>,
        order: &mut Versioned<Order>,
        kind: &str,
        error: &Error,
    ) -> Result<()> {
        let now = self.engine.clock.now();
        let record = error.to_record();
        // While an older version is live, its state says more than the failed attempt to replace it.
        let over = !error.class().is_retryable() || !order.stage.is_open();
        if over && certificate.active_version.is_none() {
            certificate.state = CertificateState::IssueFailed;
        }
        certificate.last_error = Some(record.clone());
        certificate.updated_at = now;
        let severity = failure_severity(certificate, error, over, now);
        let data = json!({ "order": order.id, "attempt": self.job.attempt, "error": record, "severity": severity });
        let event = Event::new(&certificate.project, kind, &certificate.id, data, now);
        let batch = |order: &Versioned<Order>| {
            let batch = WriteBatch::new().require(Condition::Claim(self.claim.clone()));
            batch.update(order)?.update(certificate)?.insert(&event)
        };
        match self.engine.store.commit(batch(order)?).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() && catch_up(self.engine, order).await? => {
                self.engine.store.commit(batch(order)?).await?;
            }
            Err(error) => return Err(error),
        }
        order.revision += 1;
        certificate.revision += 1;
        Ok(())
    }
}

/// What the failure of an attempt is called: for renewals it has a name of its own.
fn failure_kind(certificate: &Certificate) -> &'static str {
    if certificate.latest_version == 0 { "certificate.issue_failed" } else { RENEWAL_FAILED }
}

/// How urgent a failed attempt is: from the last call before the end on, or when the next try cannot be made before
/// it, it is critical.
fn failure_severity(certificate: &Certificate, error: &Error, over: bool, now: OffsetDateTime) -> Severity {
    let next = later(now, error.retry_after().unwrap_or_default());
    let late = |watch: &ExpiryWatch| next >= policy::last_call(watch.not_before, watch.not_after);
    if certificate.latest_version > 0 && certificate.expiry.as_ref().is_some_and(late) {
        Severity::Critical
    } else if over {
        Severity::Error
    } else {
        Severity::Warning
    }
}

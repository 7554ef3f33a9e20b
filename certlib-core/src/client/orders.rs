//! Orders at CAs: looking at them, and deciding about those of which it is unclear whether the CA has them.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Client;
use crate::error::{Error, Result};
use crate::issuance::{self, IssueReason};
use crate::issuer::OrderHandle;
use crate::model::{Certificate, Event, Order, OrderStage};
use crate::store::{StoreExt as _, TypedQuery, WriteBatch};

/// What becomes of an open order that somebody looked for at the CA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OrderResolution {
    /// The CA does not have it: it is placed again.
    Repeat,
    /// The CA has it, and it is found there by this handle, as the issuer's documentation describes.
    Adopt(OrderHandle),
    /// It is given up; the next attempt begins a new one.
    Abandon,
}

impl Client {
    /// All orders of a certificate, oldest first, open and closed. Their keys stay sealed.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn orders(&self, project: &str, certificate: &str) -> Result<Vec<Order>> {
        self.owned::<Certificate>(project, certificate).await?;
        let orders = self.engine.store.list_all(TypedQuery::<Order>::new().equal("certificate", certificate)).await?;
        Ok(orders.into_iter().map(|order| order.record).collect())
    }

    /// Decides about an order of which it is unclear whether the CA has it, or gives up any other open one; unless it is
    /// given up, work on it goes on at once.
    ///
    /// # Errors
    /// `not_found`; `order_closed`; `order_placed` when an order that the CA has is to be placed again; `conflict` when
    /// it was changed meanwhile.
    pub async fn resolve_order(&self, project: &str, order: &str, resolution: OrderResolution) -> Result<()> {
        const OPERATION: &str = "order.resolve";
        let mut order = self.owned::<Order>(project, order).await?;
        let certificate = self.owned::<Certificate>(project, &order.certificate_id).await?;
        if !order.stage.is_open() {
            return Err(Error::validation(OPERATION, "order_closed", "the order has ended").with("order", &order.id));
        }
        let data = json!({ "order": order.id, "from": order.stage, "resolution": resolution });
        match resolution {
            OrderResolution::Repeat if order.stage == OrderStage::Placed => {
                let why = "the CA has this order; abandon it if it leads nowhere";
                return Err(Error::validation(OPERATION, "order_placed", why).with("order", &order.id));
            }
            OrderResolution::Repeat => order.stage = OrderStage::Intended,
            OrderResolution::Adopt(handle) => {
                order.handle = Some(handle);
                order.stage = OrderStage::Placed;
                order.polls = 0;
                order.round_started_at = self.engine.clock.now();
            }
            OrderResolution::Abandon => {
                order.stage = OrderStage::Rejected;
                let why = "somebody gave the order up";
                order.error = Some(Error::validation(OPERATION, "order_abandoned", why).to_record());
            }
        }
        order.decisions += 1;
        let event = Event::new(project, "certificate.order_resolved", &certificate.id, data, self.engine.clock.now());
        let mut batch = WriteBatch::new().update(&order)?.insert(&event)?;
        if order.stage.is_open() {
            batch = batch.enqueue(issuance::job(&certificate, IssueReason::Requested));
        }
        self.engine.store.commit(batch).await.map(drop)
    }
}

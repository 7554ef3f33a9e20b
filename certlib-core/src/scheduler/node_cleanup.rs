//! Forgets nodes that ended without saying so.

use std::time::Duration;

use async_trait::async_trait;

use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::Node;
use crate::store::{StoreExt as _, TypedQuery};

/// Deletes the records of nodes that were not heard of for a day. By wall clocks, those of the node and of the leader:
/// what is deleted too early comes back with the next heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct NodeSweep;

/// How long a silent node is shown, so that people can see that it is missing.
const KEPT: Duration = Duration::from_secs(24 * 3600);

#[async_trait]
impl Sweep for NodeSweep {
    fn name(&self) -> &'static str {
        "node_cleanup"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let until = cx.clock.now() - KEPT;
        let mut deleted = 0;
        while !cx.is_over() {
            let query = TypedQuery::<Node>::new().at_most("heartbeat_at", until).order_by("heartbeat_at").limit(100);
            let page = cx.store.list(query).await?;
            if page.records.is_empty() {
                break;
            }
            deleted += page.records.len();
            cx.commit(page.records.iter().fold(cx.batch(), |batch, node| batch.delete::<Node>(&node.id))).await?;
        }
        Ok(deleted)
    }
}

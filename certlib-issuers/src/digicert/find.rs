//! Orders whose answer was lost, found again.

use certlib_core::error::codes;
use certlib_core::issuer::{IssueRequest, OrderHandle};
use certlib_core::{Context, Error, Result};
use serde::Deserialize;
use time::OffsetDateTime;

use super::DigiCert;
use super::client::{self, Certificate, Listed, OPERATION, refused};
use super::config::Renew;
use super::order::{Handle, common_name, reissue_pending};
use crate::paging::Pages;
use crate::{keys, triage};

/// How many orders are listed at once.
const PAGE: usize = 100;

/// How many orders with the same common name are looked at, at most.
const SEARCHED: usize = 500;

#[derive(Deserialize)]
struct List {
    orders: Vec<Listed>,
    page: Option<Page>,
}

#[derive(Deserialize)]
struct Page {
    total: Option<usize>,
}

impl DigiCert {
    /// The order with the key of `request`, if there is one.
    pub(super) async fn search(
        &self,
        cx: &Context,
        request: &IssueRequest,
        since: OffsetDateTime,
    ) -> Result<Option<OrderHandle>> {
        let public_key = keys::of_request(&request.csr)?;
        let common_name = common_name(request)?;
        let may_be_reissue = request.replaces.is_some() && self.config.renew == Renew::Reissue;
        let former = match &request.replaces {
            Some(leaf) if may_be_reissue => self.order_of(cx, leaf).await?,
            _ => None,
        };
        // A lost reissue is one of the order that shows the certificate to be replaced, however old that is.
        let mut found = Vec::new();
        if let Some(former) = &former {
            found.extend(self.recognize(cx, request, &public_key, former.id, may_be_reissue).await?);
            if found.is_empty() && self.waits_for_reissue(former) {
                return Err(reissue_pending());
            }
        }
        let mut pages = Pages::new(OPERATION, PAGE);
        'pages: loop {
            let (orders, total) = self.list(cx, common_name, pages.count()).await?;
            let goes_on = pages.goes_on(orders.iter().map(|listed| listed.id.to_string()), total)?;
            for listed in orders {
                let created = listed.date_created.as_deref().and_then(client::moment);
                let is_older = created.is_some_and(|created| created < since);
                // A reissue belongs to an order that is older than itself. What is over cannot have one.
                let status = listed.status.as_deref().unwrap_or_default();
                if is_older && (!may_be_reissue || former.is_some()) {
                    break 'pages;
                }
                let is_over = is_older && matches!(status, "rejected" | "canceled" | "revoked" | "expired");
                if is_over || former.as_ref().is_some_and(|former| former.id == listed.id) {
                    continue;
                }
                found.extend(self.recognize(cx, request, &public_key, listed.id, may_be_reissue).await?);
            }
            if !goes_on {
                break;
            }
            if pages.count() >= SEARCHED {
                // What was not looked at must not be taken for absent.
                let why = "too many orders at the CA have this common name to look at each; look for it there";
                return Err(Error::permanent(OPERATION, "search_too_wide", why).with("most", SEARCHED));
            }
        }
        match found.as_slice() {
            [] => Ok(None),
            [handle] => OrderHandle::encode(handle).map(Some),
            _ => {
                let why = "more than one order at the CA is for this key; cancel all but one there";
                Err(Error::validation(OPERATION, codes::ORDER_AMBIGUOUS, why).with("orders", found.len()))
            }
        }
    }

    /// The handle of the order with this id, if it, or a reissue of it, was placed by `request`.
    async fn recognize(
        &self,
        cx: &Context,
        request: &IssueRequest,
        public_key: &[u8],
        id: u64,
        may_be_reissue: bool,
    ) -> Result<Option<Handle>> {
        let Some(order) = self.order(cx, &id.to_string()).await? else { return Ok(None) };
        let has_key = |certificate: &Certificate| {
            certificate.csr.as_deref().and_then(keys::of_request_pem).as_deref() == Some(public_key)
        };
        let wish = order.requests.iter().find(|wish| {
            !request.reference.is_empty()
                && wish.comments.as_deref().is_some_and(|comments| comments.contains(&request.reference))
        });
        let is_primary = has_key(&order.certificate);
        let is_ours =
            is_primary || wish.is_some() || (may_be_reissue && self.reissues(cx, id).await?.iter().any(has_key));
        Ok(is_ours.then(|| Handle {
            order: id,
            certificate: None,
            request: wish.map(|wish| wish.id),
            reissue: !is_primary && may_be_reissue,
            public_key: public_key.to_vec(),
            submitted: cx.clock.now(),
        }))
    }

    /// A page of the orders with this common name, newest first, and how many there are in all.
    async fn list(&self, cx: &Context, common_name: &str, offset: usize) -> Result<(Vec<Listed>, Option<usize>)> {
        let (limit, offset) = (PAGE.to_string(), offset.to_string());
        let query = [
            ("filters[common_name]", common_name),
            ("sort", "-date_created"),
            ("limit", limit.as_str()),
            ("offset", offset.as_str()),
        ];
        let answer = self.client.get(cx, &["order", "certificate"], &query).await?;
        match answer.status() {
            // No order at all.
            204 => Ok((Vec::new(), None)),
            _ if answer.is_success() => {
                let list: List = triage::read(&answer)?;
                Ok((list.orders, list.page.and_then(|page| page.total)))
            }
            _ => Err(refused(&answer)),
        }
    }
}

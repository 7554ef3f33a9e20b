//! Orders by the web enrolment pages.

use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{Context, Error, Result};

use super::ces::{REFERENCE, another, stands};
use super::client::no_answer;
use super::pages::{self, Page};
use super::{Adcs, Enrolment, Handle, OPERATION, hresult, pending, pkcs7, rejected};
use crate::{keys, triage};

impl Adcs {
    /// Places an order.
    pub(super) async fn place_by_page(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let template = self.config.template(request.profile.as_deref())?;
        let url = self.config.certsrv_url.as_deref();
        let url = url.ok_or_else(|| Error::validation(OPERATION, "config_invalid", "certsrv_url: it is needed"))?;
        let form = [
            ("Mode", "newreq"),
            ("CertRequest", &request_pem(&request.csr)),
            ("CertAttrib", &attributes(template, &request.reference)),
            ("FriendlyType", "Saved-Request Certificate"),
            ("TargetStoreFlags", "0"),
            ("SaveCert", "yes"),
        ];
        let answer = self.client.post(cx, url, "certfnsh.asp", &form).await?;
        if !answer.is_success() {
            return Err(answer.refused());
        }
        let request_id = match pages::read(answer.body()) {
            Page::Issued(id) | Page::Waits(id) => id,
            Page::Refused(Some(code)) => return Err(hresult::refusal(code, false)),
            Page::Refused(None) => {
                return Err(Error::validation(OPERATION, "order_rejected", "the CA refuses the request"));
            }
            // The CA may have it.
            Page::Unknown => return Err(no_answer(&answer)),
        };
        OrderHandle::encode(&Handle {
            enrolment: Enrolment::Certsrv,
            request_id,
            url: url.to_owned(),
            authority: None,
            template: template.to_owned(),
            template_version: None,
            submitted: cx.clock.now(),
        })
    }

    /// Asks how an order stands.
    pub(super) async fn look_by_page(&self, cx: &Context, handle: &Handle) -> Result<OrderState> {
        let id = handle.request_id.to_string();
        // What the list of pending requests asks by: the page is the same as that of a new request.
        let form = [
            ("Mode", "chkpnd"),
            ("ReqID", id.as_str()),
            ("FriendlyType", "Saved-Request Certificate"),
            ("TargetStoreFlags", "0"),
            ("SaveCert", "yes"),
        ];
        let answer = self.client.post(cx, &handle.url, "certfnsh.asp", &form).await.map_err(triage::unanswered)?;
        if !answer.is_success() {
            return triage::refused(&answer, handle.submitted, cx.clock.now());
        }
        match pages::read(answer.body()) {
            Page::Issued(of) if of == handle.request_id => self.collect(cx, handle).await,
            Page::Waits(of) if of == handle.request_id => Ok(pending()),
            Page::Issued(_) | Page::Waits(_) => Err(another(&answer)),
            Page::Refused(Some(code)) => stands(code, false, handle, cx),
            Page::Refused(None) => Ok(rejected(None)),
            Page::Unknown => Err(no_answer(&answer)),
        }
    }

    /// The certificate with its chain.
    async fn collect(&self, cx: &Context, handle: &Handle) -> Result<OrderState> {
        let query = [("ReqID", handle.request_id.to_string()), ("Enc", "bin".to_owned())];
        let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = self.client.get(cx, &handle.url, "certnew.p7b", &query).await.map_err(triage::unanswered)?;
        if !answer.is_success() {
            return triage::refused(&answer, handle.submitted, cx.clock.now());
        }
        let message = pkcs7::unarmoured(answer.body());
        match message.and_then(|message| pkcs7::certificates(&message)) {
            Some(certificates) => Ok(OrderState::Issued { chain_pem: pkcs7::chain(None, &certificates)? }),
            // A page in place of the certificate.
            None => match pages::read(answer.body()) {
                Page::Refused(Some(code)) => stands(code, false, handle, cx),
                Page::Unknown => Err(no_answer(&answer)),
                _ => Ok(pending()),
            },
        }
    }
}

/// Request attributes, one on a line. Names and values are single lines: see [`AdcsConfig`](super::AdcsConfig).
fn attributes(template: &str, reference: &str) -> String {
    let mut lines = format!("CertificateTemplate:{template}\r\n");
    if !reference.is_empty() && !reference.contains(char::is_control) {
        lines.push_str(&format!("{REFERENCE}:{reference}\r\n"));
    }
    lines
}

/// With the line ends of a form.
fn request_pem(der: &[u8]) -> String {
    keys::request_pem(der).replace('\n', "\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_lines() {
        assert_eq!(attributes("WebServer", "o-1"), "CertificateTemplate:WebServer\r\ncertlib-order:o-1\r\n");
        assert_eq!(attributes("WebServer", "o\r\nSAN:dns=b"), "CertificateTemplate:WebServer\r\n");
    }

    #[test]
    fn requests_are_armoured() {
        let pem = request_pem(&[7; 100]);
        assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
        assert_eq!(pkcs7::unarmoured(pem.as_bytes()).unwrap(), [7; 100]);
    }
}

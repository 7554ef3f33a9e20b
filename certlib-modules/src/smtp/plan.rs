//! What a delivery will be, as people see it before they approve.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Error, Result};
use certlib_core::module::{DistributionModule, Plan, Step, Verb};
use serde::Serialize;

use super::deliver::Relay;
use super::template::{self, Values};
use super::{OPERATION, Smtp, contents};
use crate::certificate::Certificate;

/// What stands in a plan for values that exist only when the message is sent.
const WHEN_SENT: &str = "(set when sent)";

/// A message as a plan shows it.
#[derive(Serialize)]
struct Shown {
    from: String,
    to: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cc: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bcc: Vec<String>,
    subject: String,
    text: String,
}

/// The plan, which needs no look at the relay: there is nothing to see. The first step is the message, and one more
/// follows for each attachment.
pub(super) fn plan(cx: &Context, relay: &Relay<'_>, bundle: &CertificateBundle) -> Result<Plan> {
    let unwritable = |_| Error::validation(OPERATION, "config_invalid", "the settings cannot be written as JSON");
    let (config, checked) = (relay.config, &relay.checked);
    let certificate = Certificate::new(cx, bundle.leaf());
    let values = Values { certificate: &certificate, target: relay.target_name, message_id: WHEN_SENT };
    let show = |list: &[super::address::Mailbox]| list.iter().map(ToString::to_string).collect();
    let shown = Shown {
        from: checked.from.to_string(),
        to: show(&checked.to),
        cc: show(&checked.cc),
        bcc: show(&checked.bcc),
        subject: template::render(&config.subject, &values),
        text: template::render(&config.body, &values),
    };
    let security = relay.location.security.as_str();
    let subject = format!("message via {} ({security})", relay.label());
    let message = Step::new(Verb::Call, subject).after(serde_json::to_string(&shown).map_err(unwritable)?);
    let attachments = config.attachments.iter().map(|attachment| {
        let (name, what) = contents::describe(attachment, bundle);
        Step::new(Verb::Create, format!("attachment {name}")).after(what)
    });
    let mut steps: Vec<Step> = std::iter::once(message).chain(attachments).collect();
    if !config.notify_rollback {
        steps = steps.into_iter().map(Step::irreversible).collect();
    }
    let settings = serde_json::to_vec(&(relay.location, config)).map_err(unwritable)?;
    let base: String = digest(&SHA256, &settings).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Plan::new(Smtp::KIND, relay.target_name, base, steps))
}

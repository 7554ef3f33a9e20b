//! Whose Secret is it? Two owners of one Secret overwrite each other for ever, so the second one must not begin.

use certlib_core::error::{Error, Result};

use super::cluster::Place;
use super::config::{CERTIFICATE, KubernetesConfig};
use super::desired::Fields;
use super::found::Found;
use super::{MARKER_FINGERPRINT, OPERATION};

/// Annotations by which programs mark the Secrets that they keep writing, the code for it, and whether a Secret can be
/// taken over from them: not while they watch it.
const MARKS: [(&str, &str, &str, bool); 7] = [
    ("cert-manager.io/certificate-name", "cert-manager", "owned_by_cert_manager", false),
    ("cert-manager.io/issuer-name", "cert-manager", "owned_by_cert_manager", false),
    ("reconcile.external-secrets.io/data-hash", "External Secrets", "owned_by_controller", false),
    ("sealedsecrets.bitnami.com/managed", "Sealed Secrets", "owned_by_controller", false),
    ("argocd.argoproj.io/tracking-id", "Argo CD", "owned_by_deployer", true),
    ("kustomize.toolkit.fluxcd.io/name", "Flux", "owned_by_deployer", true),
    ("meta.helm.sh/release-name", "Helm", "owned_by_deployer", true),
];

/// Fails unless the Secret can be changed, and is ours to change.
///
/// # Errors
/// `IoTransient` `being_deleted`. `Validation`: `secret_immutable`, `wrong_type`, `owned_by_cert_manager`,
/// `owned_by_controller`; and unless fields are to be taken over, `owned_by_deployer`, `foreign_manager`.
pub(super) fn check(found: &Found, fields: &Fields, config: &KubernetesConfig, place: &Place) -> Result<()> {
    let refused = |code: &'static str, why: &str| Error::validation(OPERATION, code, why).with("secret", place);
    if found.is_being_deleted() {
        let why = "the Secret is being deleted and waits for its finalizers";
        return Err(Error::transient(OPERATION, "being_deleted", why).with("secret", place));
    }
    if found.is_immutable() {
        let why = "the Secret is immutable; delete it or deliver under another name";
        return Err(refused("secret_immutable", why));
    }
    let found_type = found.secret_type.as_deref().unwrap_or("Opaque");
    if found_type != fields.secret_type {
        let why = "the Secret has another type, which never changes; set `secret_type`, or delete the Secret, or deliver \
                   under another name";
        return Err(refused("wrong_type", why)
            .with("found", found_type.escape_debug())
            .with("wanted", fields.secret_type.escape_debug()));
    }
    for (annotation, owner, code, can_be_taken_over) in MARKS {
        if found.annotation(annotation).is_some() && !(can_be_taken_over && config.take_over) {
            let why = if can_be_taken_over {
                "the Secret is deployed by another tool, which would put its own back; `take_over` if it will not"
            } else {
                "the Secret is kept by a controller, which would put its own back; deliver under another name, or remove \
                 it from the controller together with this annotation"
            };
            return Err(refused(code, why).with("owner", owner).with("annotation", annotation));
        }
    }
    if let Some(owner) = found.owner() {
        let why = "the Secret belongs to another object, whose controller would put its own back; deliver under another \
                   name, or remove the owner reference";
        return Err(refused("owned_by_controller", why).with("owner", owner.escape_debug()));
    }
    if config.take_over {
        return Ok(());
    }
    match others(found, fields).as_slice() {
        [] => Ok(()),
        others => {
            let why =
                "another field manager owns what is to be delivered; if it will not write it again, set `take_over`";
            Err(refused("foreign_manager", why).with("managers", others.join(", ").escape_debug()))
        }
    }
}

/// Who else owns data that `fields` would write: names of field managers, and `unknown` for content that nobody admits
/// to, although it is not what we put there.
pub(super) fn others(found: &Found, fields: &Fields) -> Vec<String> {
    let us = fields.manager.as_str();
    let mut others: Vec<String> = Vec::new();
    for key in fields.data.keys().filter(|key| found.data(key).is_some()) {
        let field = format!("f:{key}");
        others.extend(found.others_owning(us, &["f:data", &field]).into_iter().map(str::to_owned));
    }
    // An apply of `stringData` left no trace of ownership in `data` before 1.22. What we write, we mark.
    let marked = found.annotation(MARKER_FINGERPRINT).is_some_and(|marker| {
        found.leaf().is_some_and(|leaf| leaf.to_string() == marker)
            && found.applied_by(us, &["f:data"]).contains(CERTIFICATE)
    });
    if others.is_empty() && found.data(CERTIFICATE).is_some() && !marked {
        others.push("unknown".to_owned());
    }
    others.sort();
    others.dedup();
    others
}

//! Plans: what `execute` will do, as data that people can read and approve.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, codes};

/// What `execute` will do to one target, in order.
///
/// `Display` prints one line a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// The version of this encoding.
    pub version: u32,
    /// The module that made it.
    pub module: String,
    /// The target it is for.
    pub target: String,
    /// A digest of what the target looked like; changes whenever the target does.
    pub base: String,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// What is done.
    pub verb: Verb,
    /// To what: a path, an object, a command.
    pub subject: String,
    /// How it is now, if that is known.
    pub before: Option<String>,
    /// How it will be.
    pub after: Option<String>,
    /// Whether rollback undoes it.
    pub reversible: bool,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verb {
    /// Makes something new.
    Create,
    /// Puts something in the place of something else.
    Replace,
    /// Leaves something as it is, because it is right already.
    Keep,
    /// Removes something.
    Delete,
    /// Runs a command that only looks.
    Test,
    /// Runs a command that makes a service take the new certificate.
    Reload,
    /// Sends a request.
    Call,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Keep => "keep",
            Self::Delete => "delete",
            Self::Test => "test",
            Self::Reload => "reload",
            Self::Call => "call",
        })
    }
}

impl Step {
    /// A reversible step.
    pub fn new(verb: Verb, subject: impl Into<String>) -> Self {
        Self { verb, subject: subject.into(), before: None, after: None, reversible: true }
    }

    /// Sets how it is now.
    #[must_use]
    pub fn before(mut self, before: impl Into<String>) -> Self {
        self.before = Some(before.into());
        self
    }

    /// Sets how it will be.
    #[must_use]
    pub fn after(mut self, after: impl Into<String>) -> Self {
        self.after = Some(after.into());
        self
    }

    /// Marks it as something that rollback cannot undo.
    #[must_use]
    pub fn irreversible(mut self) -> Self {
        self.reversible = false;
        self
    }
}

impl Plan {
    /// A plan of the module `module` for the target `target`, made while the target looked like `base`.
    pub fn new(module: &str, target: &str, base: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { version: 1, module: module.to_owned(), target: target.to_owned(), base: base.into(), steps }
    }

    /// SHA-256 of the plan, lower-case hex: what an approver approves.
    pub fn digest(&self) -> String {
        // A struct of strings, numbers and booleans always encodes, and always in the same order.
        let json = serde_json::to_vec(self).unwrap_or_default();
        digest(&SHA256, &json).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether executing it would change anything.
    pub fn changes_anything(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step.verb, Verb::Keep | Verb::Test))
    }

    /// What is not as in `other`, a plan for the same target: a line for each step that one of them has and the other has
    /// not, or has differently. Empty when both do the same; a target may still look different in what no step shows.
    pub fn differs_from(&self, other: &Self) -> Vec<String> {
        let same = |one: &Step, two: &Step| (one.verb, &one.subject) == (two.verb, &two.subject);
        let mut lines = Vec::new();
        for step in &self.steps {
            match other.steps.iter().find(|former| same(step, former)) {
                None => lines.push(format!("now also: {} {}", step.verb, step.subject.escape_debug())),
                Some(former) if former != step => {
                    let text =
                        |value: &Option<String>| value.as_deref().unwrap_or("nothing").escape_debug().to_string();
                    let (was, is) = if former.before == step.before {
                        (text(&former.after), text(&step.after))
                    } else {
                        (text(&former.before), text(&step.before))
                    };
                    lines.push(format!("{} {}: was {was}, is {is}", step.verb, step.subject.escape_debug()));
                }
                Some(_) => {}
            }
        }
        let gone = other.steps.iter().filter(|former| !self.steps.iter().any(|step| same(step, former)));
        lines.extend(gone.map(|step| format!("no longer: {} {}", step.verb, step.subject.escape_debug())));
        if lines.is_empty() && self.base != other.base {
            lines.push("what the target holds is not what the plan was made for".to_owned());
        }
        lines
    }

    /// The plan, approved by whoever saw the digest `approved`.
    ///
    /// # Errors
    /// `Validation` `plan_stale` when the digest is that of another plan.
    pub fn approve(self, approved: &str) -> Result<ApprovedPlan> {
        let digest = self.digest();
        if digest != approved {
            return Err(Error::validation(
                "plan.approve",
                codes::PLAN_STALE,
                "another plan was approved than this one",
            )
            .with("approved", approved)
            .with("actual", digest));
        }
        Ok(ApprovedPlan(self))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} via {}", self.target, self.module)?;
        for (index, step) in self.steps.iter().enumerate() {
            write!(f, "  {}. {} {}", index + 1, step.verb, step.subject.escape_debug())?;
            match (&step.before, &step.after) {
                (Some(before), Some(after)) => write!(f, ": {} -> {}", before.escape_debug(), after.escape_debug())?,
                (None, Some(after)) => write!(f, ": {}", after.escape_debug())?,
                (Some(before), None) => write!(f, ": was {}", before.escape_debug())?,
                (None, None) => {}
            }
            writeln!(f, "{}", if step.reversible { "" } else { " (cannot be undone)" })?;
        }
        Ok(())
    }
}

/// A plan that may be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedPlan(Plan);

impl ApprovedPlan {
    /// Claims that nobody needs to approve `plan`. The engine does so where no approval is required.
    pub fn assertion(plan: Plan) -> Self {
        Self(plan)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let steps = vec![
            Step::new(Verb::Replace, "/etc/tls/site.pem").before("sha256:aa").after("sha256:bb"),
            Step::new(Verb::Reload, "nginx -s reload").irreversible(),
        ];
        Plan::new("file", "web-01", "base", steps)
    }

    #[test]
    fn reads_well() {
        let text = "web-01 via file\n  1. replace /etc/tls/site.pem: sha256:aa -> sha256:bb\n  \
                    2. reload nginx -s reload (cannot be undone)\n";
        assert_eq!(plan().to_string(), text);
    }

    #[test]
    fn differences_are_told_step_by_step() {
        let mut now = plan();
        assert!(now.differs_from(&plan()).is_empty());
        now.base = "other".to_owned();
        assert_eq!(now.differs_from(&plan()).len(), 1);
        now.steps[0].before = Some("sha256:cc".to_owned());
        now.steps[1] = Step::new(Verb::Reload, "systemctl reload nginx");
        let expected = [
            "replace /etc/tls/site.pem: was sha256:aa, is sha256:cc",
            "now also: reload systemctl reload nginx",
            "no longer: reload nginx -s reload",
        ];
        assert_eq!(now.differs_from(&plan()), expected);
    }

    #[test]
    fn approval_binds_to_the_digest() {
        let digest = plan().digest();
        assert!(plan().approve(&digest).is_ok());
        let mut other = plan();
        other.steps.pop();
        assert_eq!(other.approve(&digest).unwrap_err().code(), codes::PLAN_STALE);
    }
}

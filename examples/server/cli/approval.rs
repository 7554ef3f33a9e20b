//! `server approval …`: what waits for others to agree, exactly what would be done, and the decision.

use std::fmt::Write as _;
use std::io::Write;

use certlib_core::client::PlannedTarget;
use certlib_core::distribution::RUN_SUBJECT;
use certlib_core::model::{ApprovalRequest, ApprovalState};
use certlib_core::{Client, Result};
use clap::{Args, Subcommand};
use time::format_description::well_known::Rfc3339;

use super::{print, tell};
use crate::app::{self, Composed};
use crate::config::Config;
use crate::secrets::Secrets;

#[derive(Debug, Subcommand)]
pub(super) enum ApprovalCommand {
    /// Lists the requests that nobody has decided yet.
    List {
        /// The project.
        #[arg(long)]
        project: String,
    },
    /// Shows a request: what would be done to every target, step by step.
    Show {
        #[command(flatten)]
        which: Which,
        /// Prints JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Agrees.
    Approve(Decision),
    /// Does not agree: one rejection ends the request.
    Reject(Decision),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The project.
    #[arg(long)]
    project: String,
    /// The request's id, as `list` shows it.
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct Decision {
    #[command(flatten)]
    which: Which,
    /// Who decides. Whoever asked cannot.
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why.
    #[arg(long, default_value = "")]
    comment: String,
}

/// Does what `command` says.
pub(super) async fn run(
    config: &Config,
    secrets: Secrets,
    command: ApprovalCommand,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let Composed { runtime, database, .. } = app::attach(config, secrets).await?;
    let client = runtime.client();
    let done = match command {
        ApprovalCommand::List { project } => list(&client, &project, out).await,
        ApprovalCommand::Show { which, json } => show(&client, which, json, out).await,
        ApprovalCommand::Approve(decision) => decide(&client, decision, true, out).await,
        ApprovalCommand::Reject(decision) => decide(&client, decision, false, out).await,
    };
    database.close().await;
    done
}

async fn list(client: &Client, project: &str, out: &mut (dyn Write + Send)) -> Result<()> {
    client.project(project).await?;
    let mut after = None;
    let mut none = true;
    loop {
        let page = client.approvals(project, Some(ApprovalState::Pending), after, 100).await?;
        for request in &page.records {
            none = false;
            print(out, &line(request))?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if none {
        tell("nothing waits for approval");
    }
    Ok(())
}

fn line(request: &ApprovalRequest) -> String {
    let until = request.expires_at.format(&Rfc3339).unwrap_or_default();
    format!(
        "{}  {} {}  asked by {}  {} of {} agreed  until {until}",
        request.id,
        request.subject_kind,
        request.subject_id,
        request.requested_by.escape_debug(),
        request.approvals(),
        request.needed,
    )
}

async fn show(client: &Client, which: Which, json: bool, out: &mut (dyn Write + Send)) -> Result<()> {
    let request = client.approval(&which.project, &which.id).await?;
    let plans = match &*request.subject_kind {
        RUN_SUBJECT => client.approval_plans(&which.project, &which.id).await?,
        _ => Vec::new(),
    };
    if json {
        let targets: Vec<_> = plans.iter().map(as_json).collect();
        let all = serde_json::json!({ "request": request, "targets": targets });
        return print(out, &serde_json::to_string_pretty(&all).unwrap_or_default());
    }
    let mut text = format!("{}\n{}\n", line(&request), request.state.as_str());
    for decision in &request.decisions {
        let word = if decision.approve { "agreed" } else { "did not agree" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {} {word}: {}", decision.by.escape_debug(), decision.comment.escape_debug());
    }
    for target in &plans {
        let _ = match &target.plan {
            Ok(plan) => write!(text, "{plan}"),
            Err(error) => {
                let (name, why) = (target.target_name.escape_debug(), error.message.escape_debug());
                writeln!(text, "{name}: no plan, so it is left alone: {why}")
            }
        };
    }
    print(out, text.trim_end())
}

fn as_json(target: &PlannedTarget) -> serde_json::Value {
    let (plan, error) = match &target.plan {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(error)),
    };
    let digest = plan.map(certlib_core::module::Plan::digest);
    serde_json::json!({ "target": target.target_name, "plan": plan, "digest": digest, "error": error })
}

async fn decide(client: &Client, decision: Decision, approve: bool, out: &mut (dyn Write + Send)) -> Result<()> {
    let Decision { which: Which { project, id }, by, comment } = decision;
    let request = client.decide_approval(&project, &id, &by, approve, &comment).await?;
    print(out, &format!("{}: {} of {} agreed", request.state.as_str(), request.approvals(), request.needed))
}

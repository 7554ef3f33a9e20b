//! Projects, credentials, issuers, targets.

use serde_json::Value;

use super::{Client, TargetRules};
use crate::error::{Error, Result};
use crate::issuance::rate::check_limit;
use crate::model::{Credential, Event, IssuanceLimit, Issuer, Project, Target, check_name, new_id};
use crate::module::TargetSpec;
use crate::secret::SecretString;
use crate::store::{StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// An issuer to configure.
#[derive(Debug, Clone, Default)]
pub struct NewIssuer {
    /// Its name, for people.
    pub name: String,
    /// Which factory makes it, such as `"acme"` or `"local-ca"`.
    pub kind: String,
    /// What the factory needs to know.
    pub config: Value,
    /// The credential it uses.
    pub credential_id: Option<String>,
}

/// A target to configure.
#[derive(Debug, Clone, Default)]
pub struct NewTarget {
    /// Its name, for people.
    pub name: String,
    /// Which module delivers to it, such as `"ssh"`.
    pub module: String,
    /// How to deliver.
    pub config: Value,
    /// Where.
    pub location: Value,
    /// The credential to log in with.
    pub credential_id: Option<String>,
    /// Who must agree before anything is delivered, and when it may be.
    pub rules: TargetRules,
}

impl NewIssuer {
    /// An issuer of `kind`, called `name`, without credential.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, config: Value) -> Self {
        Self { name: name.into(), kind: kind.into(), config, credential_id: None }
    }

    /// Sets the credential it uses.
    #[must_use]
    pub fn with_credential(mut self, id: impl Into<String>) -> Self {
        self.credential_id = Some(id.into());
        self
    }
}

impl NewTarget {
    /// A target for `module`, called `name`, at `location`, without configuration or credential.
    pub fn new(name: impl Into<String>, module: impl Into<String>, location: Value) -> Self {
        Self {
            name: name.into(),
            module: module.into(),
            config: Value::Null,
            location,
            credential_id: None,
            rules: TargetRules::default(),
        }
    }

    /// Sets how to deliver.
    #[must_use]
    pub fn with_config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Sets the credential to log in with.
    #[must_use]
    pub fn with_credential(mut self, id: impl Into<String>) -> Self {
        self.credential_id = Some(id.into());
        self
    }
}

impl Client {
    /// Creates a project.
    ///
    /// # Errors
    /// `project_invalid`; `conflict` when it exists.
    pub async fn create_project(&self, id: &str) -> Result<Project> {
        let project = Project::new(id, self.engine.clock.now())?;
        Ok(self.engine.store.insert(project).await?.record)
    }

    /// The project with `id`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn project(&self, id: &str) -> Result<Project> {
        Ok(self.engine.store.load::<Project>(id).await?.record)
    }

    /// Seals and keeps a credential: JSON in the form that the module or issuer documents.
    ///
    /// # Errors
    /// `name_invalid`, `credential_invalid`, `not_found` for an unknown project.
    pub async fn create_credential(&self, project: &str, name: &str, secret: &SecretString) -> Result<Credential> {
        check_name("the credential's name", name)?;
        self.project(project).await?;
        if serde_json::from_str::<serde::de::IgnoredAny>(secret.expose()).is_err() {
            return Err(Error::validation("credential.create", "credential_invalid", "the secret is not JSON"));
        }
        let id = new_id();
        let sealed = self.engine.sealer.seal(secret.expose().as_bytes(), &Credential::aad(project, &id)).await?;
        let credential = Credential {
            id,
            project: project.to_owned(),
            name: name.to_owned(),
            sealed,
            created_at: self.engine.clock.now(),
        };
        Ok(self.engine.store.insert(credential).await?.record)
    }

    /// The credentials of a project, oldest first. Their secrets stay sealed.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store).
    pub async fn credentials(&self, project: &str) -> Result<Vec<Credential>> {
        self.all(TypedQuery::new().equal("project", project)).await
    }

    /// Configures an issuer.
    ///
    /// # Errors
    /// `name_invalid`, `issuer_unknown`, `config_invalid`, `not_found`.
    pub async fn create_issuer(&self, project: &str, new: NewIssuer) -> Result<Issuer> {
        check_name("the issuer's name", &new.name)?;
        self.project(project).await?;
        self.engine.issuers.factory(&new.kind)?.check(&new.config)?;
        if let Some(credential) = &new.credential_id {
            self.owned::<Credential>(project, credential).await?;
        }
        let issuer = Issuer {
            id: new_id(),
            project: project.to_owned(),
            name: new.name,
            kind: new.kind,
            config: new.config,
            credential_id: new.credential_id,
            limit: None,
            created_at: self.engine.clock.now(),
        };
        Ok(self.engine.store.insert(issuer).await?.record)
    }

    /// The issuers of a project, oldest first.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store).
    pub async fn issuers(&self, project: &str) -> Result<Vec<Issuer>> {
        self.all(TypedQuery::new().equal("project", project)).await
    }

    /// The issuer with `id`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn issuer(&self, project: &str, id: &str) -> Result<Issuer> {
        Ok(self.owned::<Issuer>(project, id).await?.record)
    }

    /// Limits how many orders an issuer is given, or lifts its limit. Orders that were begun before count for limits of
    /// the same zones.
    ///
    /// # Errors
    /// `limit_invalid`, `not_found`; `conflict` when somebody else changes the issuer at the same moment.
    pub async fn limit_issuer(&self, project: &str, id: &str, limit: Option<IssuanceLimit>) -> Result<Issuer> {
        limit.as_ref().map_or(Ok(()), check_limit)?;
        let mut issuer = self.owned::<Issuer>(project, id).await?;
        issuer.limit = limit;
        self.engine.store.update(&mut issuer).await?;
        Ok(issuer.record)
    }

    /// Configures a target. Its parts, the credential included, are decoded and checked; the target is not contacted.
    ///
    /// # Errors
    /// `name_invalid`, `module_unknown`, `config_invalid`, `location_invalid`, `credentials_invalid`, the module's
    /// own, `approval_invalid`, `window_invalid`, `not_found`.
    pub async fn create_target(&self, project: &str, new: NewTarget) -> Result<Target> {
        check_name("the target's name", &new.name)?;
        new.rules.check()?;
        self.project(project).await?;
        let target = Target {
            id: new_id(),
            project: project.to_owned(),
            name: new.name,
            module: new.module,
            config: new.config,
            location: new.location,
            credential_id: new.credential_id,
            approval: new.rules.approval,
            window: new.rules.window,
            paused: new.rules.paused,
            created_at: self.engine.clock.now(),
        };
        let module = self.engine.modules.module(&target.module)?;
        let credentials = self.engine.open_credential(project, target.credential_id.as_deref()).await?;
        module.check(&TargetSpec::new(
            &*target.id,
            &*target.name,
            target.config.clone(),
            target.location.clone(),
            credentials,
        ))?;
        let now = target.created_at;
        let data = serde_json::json!({ "name": &target.name, "module": &target.module });
        let event = Event::new(project, "target.created", &target.id, data, now);
        self.engine.store.commit(WriteBatch::new().insert(&target)?.insert(&event)?).await?;
        Ok(target)
    }

    /// The targets of a project, oldest first.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store).
    pub async fn targets(&self, project: &str) -> Result<Vec<Target>> {
        self.all(TypedQuery::new().equal("project", project)).await
    }

    /// The target with `id`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn target(&self, project: &str, id: &str) -> Result<Target> {
        Ok(self.owned::<Target>(project, id).await?.record)
    }

    /// What happened in a project, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store).
    pub async fn events(&self, project: &str, subject: Option<&str>, limit: usize) -> Result<Vec<Event>> {
        let mut query = TypedQuery::new().equal("project", project).descending().limit(limit);
        if let Some(subject) = subject {
            query = query.equal("subject", subject);
        }
        let page = self.engine.store.list(query).await?;
        Ok(page.records.into_iter().map(|event: Versioned<Event>| event.record).collect())
    }

    async fn all<R: crate::store::Record>(&self, query: TypedQuery<R>) -> Result<Vec<R>> {
        Ok(self.engine.store.list_all(query).await?.into_iter().map(|versioned| versioned.record).collect())
    }
}

//! A real account, where one is given; the simulated one otherwise. Touches nothing but certificates that it makes.
//!
//! `HUAWEI_AK` and `HUAWEI_SK` are the access key; `HUAWEI_REGION` (default `cn-north-4`) and `HUAWEI_PROJECT` (looked up
//! when absent) say where. The key needs the permissions that the module's documentation lists for the certificate
//! manager and for the certificates of load balancers.

use std::env;

use certlib_core::module::RollbackOutcome;
use serde_json::{Value, json};

use crate::{Case, bundle, journal, served};

async fn account(resource: Value) -> Case {
    let mut case = Case::new(&["certlib-test.example.com"]).await.resource(resource);
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if let (Some(access_key), Some(secret_key)) = (variable("HUAWEI_AK"), variable("HUAWEI_SK")) {
        case.location("region", json!(variable("HUAWEI_REGION").unwrap_or_else(|| "cn-north-4".to_owned())));
        case.location("project_id", json!(variable("HUAWEI_PROJECT")));
        case.location("urls", json!({}));
        case.target.config = json!({"name_prefix": "certlib-test"});
        case.credentials(json!({"access_key": access_key, "secret_key": secret_key}));
    }
    case
}

#[tokio::test]
async fn certificates_come_and_go() {
    for resource in [json!({"service": "scm"}), json!({"service": "elb"})] {
        let case = account(resource).await;
        let new = bundle(&case.issue());
        let journal = journal();
        let plan = case.plan(&new).await.unwrap();
        assert!(plan.changes_anything());
        let delivered = case.execute(&new, plan, &journal).await;
        let shown = case.validate(&new).await;
        let taken_back = case.rollback(&journal).await;
        delivered.unwrap();
        assert!(served(&shown.unwrap()));
        assert_eq!(taken_back.unwrap(), RollbackOutcome::RolledBack);
        assert!(case.plan(&new).await.unwrap().changes_anything(), "it is gone again");
    }
}

//! Claims of domains.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use certlib_testkit::globalsign::{GlobalSignSim, Proof};
use serde_json::{Value, json};

use crate::support::{JSON, Session, body, now};

#[tokio::test]
async fn a_claim_is_made_asserted_and_deleted() {
    let ca = GlobalSignSim::builder().requiring_claims().start().await.unwrap();
    let mut session = Session::new(&ca).await;
    let request = || body(now(), &["shop.example.com"]).1;
    let (status, answer) = session.ask("POST", "certificates", request()).await;
    assert!(status == 422 && answer["description"].as_str().unwrap().contains("claim"), "{answer}");

    let answer = session.send("POST", "claims/domains/example.com", &Value::Null, JSON).await.unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let claim: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let (id, token) = (claim["id"].as_str().unwrap(), claim["token"].as_str().unwrap());
    assert_eq!(location, format!("{}/claims/domains/{id}", ca.url()));
    assert!((claim["assert_by"].as_i64().unwrap() - now() - 30 * 86_400).abs() < 60);
    assert_eq!(session.ask("POST", "claims/domains/example.com", Value::Null).await.0, 409);
    assert_eq!(session.ask("POST", "claims/domains/nonsense", Value::Null).await.0, 422);

    let path = format!("claims/domains/{id}");
    let dns = |domain: &str| json!({ "authorization_domain": domain });
    assert_eq!(session.ask("POST", &format!("{path}/dns"), dns("example.com")).await.0, 201, "not verified yet");
    assert_eq!(session.ask("POST", &format!("{path}/dns"), dns("other.com")).await.0, 422);
    assert_eq!(session.ask("POST", &format!("{path}/dns"), json!({})).await.0, 400);
    let (_, shown) = session.ask("GET", &path, Value::Null).await;
    assert_eq!((&shown["status"], &shown["log"][0]["status"]), (&json!("PENDING"), &json!("ERROR")));
    ca.publish(token);
    assert_eq!(session.ask("POST", &format!("{path}/dns"), dns("example.com")).await.0, 204);
    let (_, shown) = session.ask("GET", &path, Value::Null).await;
    assert_eq!((&shown["status"], &shown["log"][1]["status"]), (&json!("VERIFIED"), &json!("SUCCESS")));
    session.request(&request()).await;

    let other = session.ask("POST", "claims/domains/other.example.org", Value::Null).await.1;
    let list = async |session: &Session<'_>, query: &str| {
        let path = format!("claims/domains?{query}");
        let answer = session.send("GET", &path, &Value::Null, JSON).await.unwrap();
        let total = answer.headers()["total-count"].to_str().unwrap().to_owned();
        let claims: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (total, claims.as_array().unwrap().iter().map(|claim| claim["domain"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(list(&session, "status=VERIFIED").await, ("1".to_owned(), vec![json!("example.com")]));
    assert_eq!(list(&session, "status=PENDING").await, ("1".to_owned(), vec![json!("other.example.org")]));
    let (total, one) = list(&session, "page=1&per_page=1").await;
    assert_eq!((total.as_str(), one.len()), ("2", 1));

    let path = format!("claims/domains/{}", other["id"].as_str().unwrap());
    let (_, addresses) = session.ask("GET", &format!("{path}/email"), Value::Null).await;
    assert!(addresses["constructed"].as_array().unwrap().contains(&json!("admin@other.example.org")));
    ca.advance(Duration::from_secs(31 * 86_400));
    session.token = session.login().await;
    assert_eq!(session.ask("POST", &format!("{path}/dns"), dns("other.example.org")).await.0, 422, "too late");
    let (status, again) = session.ask("POST", &format!("{path}/reassert"), Value::Null).await;
    assert!(status == 200 && again["token"] != other["token"]);
    assert_eq!(session.ask("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(session.ask("GET", &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_witness_is_told_where_to_look() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    let seen = Arc::new(Mutex::new(Vec::<Proof>::new()));
    let kept = Arc::clone(&seen);
    ca.watch(move |proof| {
        kept.lock().unwrap().push(proof.clone());
        proof.method == "http"
    });
    let (_, claim) = session.ask("POST", "claims/domains/a.example.com", Value::Null).await;
    let path = format!("claims/domains/{}", claim["id"].as_str().unwrap());
    let domain = json!({ "authorization_domain": "example.com" });
    assert_eq!(session.ask("POST", &format!("{path}/dns"), domain.clone()).await.0, 201);
    assert_eq!(session.ask("POST", &format!("{path}/http"), domain).await.0, 422, "a scheme is needed");
    let address = json!({ "email_address": "admin@a.example.com" });
    assert_eq!(session.ask("POST", &format!("{path}/email"), address).await.0, 201);
    let domain = json!({ "authorization_domain": "a.example.com", "scheme": "https" });
    assert_eq!(session.ask("POST", &format!("{path}/http"), domain).await.0, 204);
    let seen: Vec<_> = seen.lock().unwrap().iter().map(|proof| (proof.method.clone(), proof.place.clone())).collect();
    let wanted = [("dns", "example.com"), ("email", "admin@a.example.com"), ("http", "a.example.com")];
    assert_eq!(seen, wanted.map(|(method, place)| (method.to_owned(), place.to_owned())));
}

#[tokio::test]
async fn a_verified_claim_ends() {
    let ca = GlobalSignSim::builder().requiring_claims().start().await.unwrap();
    let mut session = Session::new(&ca).await;
    ca.verify_domain("example.com");
    session.request(&body(now(), &["*.example.com"]).1).await;
    assert_eq!(session.ask("POST", "certificates", body(now(), &["example.org"]).1).await.0, 422);
    let days = 201 * 86_400;
    ca.advance(Duration::from_secs(days));
    session.token = session.login().await;
    let later = now() + i64::try_from(days).unwrap();
    assert_eq!(session.ask("POST", "certificates", body(later, &["a.example.com"]).1).await.0, 422);
}

//! Lists, filters, pages and status changes.

use std::time::Duration;

use certlib_testkit::digicert::{Course, DigiCertSim};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::{ask, code, place, read};

fn ids(answer: &Value) -> Vec<u64> {
    answer["orders"].as_array().unwrap().iter().map(|order| order["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn orders_are_found_by_name_and_date() {
    let start = OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap(); // 2030-03-17T17:46:40Z
    let ca = DigiCertSim::builder().plain_http().clock(move || start).start().await.unwrap();
    let mut placed = Vec::new();
    for name in ["a.example.com", "b.example.com", "a.example.com"] {
        placed.push(place(&ca, name).await.0);
        ca.advance(Duration::from_secs(60));
    }
    let list = async |query: &str| ids(&ask(&ca, "GET", &format!("order/certificate?{query}"), Value::Null).await.1);
    assert_eq!(list("").await, placed);
    assert_eq!(list("filters[common_name]=a.example.com").await, [placed[0], placed[2]]);
    assert_eq!(list("filters%5Bcommon_name%5D=%25b.example").await, [placed[1]]);
    assert_eq!(list("filters[date_created]=2030-03-17T17:47:00...2030-03-17T18:00:00").await, placed[1..]);
    assert_eq!(list("filters[date_created]=<2030-03-17").await, [0_u64; 0]);
    assert_eq!(list("filters[date_created]=%3E2030-03-16&filters[common_name]=b.example.com").await, [placed[1]]);
    assert_eq!(list("sort=-date_created").await, [placed[2], placed[1], placed[0]]);
    assert_eq!(list("sort=common_name,-order_id&limit=2").await, [placed[2], placed[0]]);
    assert_eq!(list("limit=1&offset=2").await, [placed[2]]);
    assert_eq!(list("filters[status]=pending").await, [0_u64; 0]);
    let (_, answer) = ask(&ca, "GET", "order/certificate?limit=2&offset=1", Value::Null).await;
    assert_eq!(answer["page"], json!({ "total": 3, "limit": 2, "offset": 1 }));
    assert_eq!(answer["orders"][0]["certificate"].get("csr"), None, "a list does not show requests");
    let refused = ask(&ca, "GET", "order/certificate?filters[colour]=red", Value::Null).await;
    assert_eq!(code(&refused), (400, "invalid_filter"));
}

#[tokio::test]
async fn changes_of_many_orders_are_seen_with_one_request() {
    let start = OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
    let ca = DigiCertSim::builder().plain_http().clock(move || start).start().await.unwrap();
    let (old, _) = place(&ca, "a.example.com").await;
    ca.advance(Duration::from_secs(3_600));
    ca.set_course(Course::default().pending(1));
    let (new, _) = place(&ca, "b.example.com").await;
    let path = "order/certificate/status-changes?filters[status_last_updated]=\
                2030-03-17+18:00:00...2030-03-17+19:00:00";
    let (status, first) = ask(&ca, "GET", path, Value::Null).await;
    assert_eq!((status, first["orders"].as_array().unwrap().len()), (200, 1));
    assert_eq!((&first["orders"][0]["order_id"], &first["orders"][0]["status"]), (&json!(new), &json!("pending")));
    let (_, second) = ask(&ca, "GET", path, Value::Null).await;
    assert_eq!(second["orders"][0]["status"], "issued");
    assert_eq!(second["orders"][0]["certificate_id"], read(&ca, new).await["certificate"]["id"]);
    assert!(ask(&ca, "GET", "order/certificate/status-changes", Value::Null).await.0 == 400 && old < new);
}

#[tokio::test]
async fn the_account_is_described() {
    let ca = DigiCertSim::builder().plain_http().organization(7, "Other", false).start().await.unwrap();
    let (_, me) = ask(&ca, "GET", "user/me", Value::Null).await;
    assert!(me["account"]["id"].is_u64() && me["access_roles"][0]["name"] == "Administrator");
    let (_, all) = ask(&ca, "GET", "organization", Value::Null).await;
    assert_eq!(all["organizations"].as_array().unwrap().len(), 2);
    let (_, one) = ask(&ca, "GET", "organization/7", Value::Null).await;
    assert_eq!((&one["name"], &one["status"]), (&json!("Other"), &json!("pending")));
    assert_eq!(code(&ask(&ca, "GET", "organization/8", Value::Null).await), (404, "not_found|organization"));
    let (_, validation) = ask(&ca, "GET", "organization/7/validation", Value::Null).await;
    assert_eq!(validation["validations"][0]["status"], "pending");
    assert_eq!(ask(&ca, "GET", "product", Value::Null).await.1["products"].as_array().unwrap().len(), 10);
    assert_eq!(code(&ask(&ca, "GET", "product/none", Value::Null).await), (404, "not_found|product"));
    assert_eq!(ask(&ca, "GET", "container", Value::Null).await.0, 200);
}

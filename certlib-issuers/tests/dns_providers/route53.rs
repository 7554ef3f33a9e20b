//! Amazon Route 53.

use certlib_core::secret::SecretString;
use certlib_net::signature::{Signed, sigv4};

use super::CANARY;
use super::by_set::url;
use super::fake::{Reply, Request, State, quoted, unquoted};

/// Zones have the id `ZNAME`, and a private one comes before each.
pub(crate) fn service(state: &mut State, request: &Request) -> Reply {
    let refusal = |status: u16, code: &str| {
        let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error>");
        Reply::new(
            status,
            format!("<?xml version=\"1.0\"?><ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"),
        )
    };
    let url = url(request);
    let headers = [("host", request.header("host")), ("x-amz-security-token", "session")];
    let signed = Signed { method: &request.method, url: &url, headers: &headers, body: request.body.as_bytes() };
    let secret = SecretString::new(CANARY.to_owned());
    let signer = sigv4::Signer { access_key: "AK", secret_key: &secret, region: "us-east-1", service: "route53" };
    let expected = sigv4::authorization(&signed, request.header("x-amz-date"), &signer);
    if request.header("authorization") != expected || request.header("x-amz-security-token") != "session" {
        return refusal(403, "SignatureDoesNotMatch");
    }
    let (method, path) = request.route();
    match path[..] {
        ["2013-04-01", "hostedzonesbyname"] if method == "GET" => {
            let zone = |name: &str, id: &str, private: bool| {
                format!(
                    "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}</Name><CallerReference>r</CallerReference>\
                     <Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>"
                )
            };
            let name = request.query("dnsname");
            let mut zones = String::new();
            if state.has_zone(name) {
                zones += &zone(name, "ZPRIVATE", true);
                zones += &zone(name, &format!("Z{}", name.trim_end_matches('.')), false);
            }
            // The list goes on with what comes next.
            zones += &zone("zzz.test.", "ZZZ", false);
            Reply::new(
                200,
                format!(
                    "<ListHostedZonesByNameResponse><HostedZones>{zones}</HostedZones></ListHostedZonesByNameResponse>"
                ),
            )
        }
        ["2013-04-01", "hostedzone", zone, "rrset"] if method == "GET" && request.query("type") == "TXT" => {
            let name = request.query("name");
            let values = state.values(zone.trim_start_matches('Z'), name);
            let (shown, values) =
                if values.is_empty() { ("zzz.test.", vec!["other".to_owned()]) } else { (name, values) };
            Reply::new(
                200,
                format!(
                    "<ListResourceRecordSetsResponse><ResourceRecordSets>{}</ResourceRecordSets>\
                     <IsTruncated>true</IsTruncated></ListResourceRecordSetsResponse>",
                    record_set(shown, &values)
                ),
            )
        }
        ["2013-04-01", "hostedzone", zone, "rrset", ""] if method == "POST" => {
            change_sets(state, zone.trim_start_matches('Z'), request)
        }
        _ => Reply::unexpected(request),
    }
}

fn record_set(name: &str, values: &[String]) -> String {
    let records: String = values
        .iter()
        .map(|value| {
            let value = quoted(value).replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>")
        })
        .collect();
    format!(
        "<ResourceRecordSet><Name>{name}</Name><Type>TXT</Type><TTL>60</TTL>\
         <ResourceRecords>{records}</ResourceRecords></ResourceRecordSet>"
    )
}

/// What stands between two marks, each time.
fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split(end).next())
}

fn change_sets(state: &mut State, zone: &str, request: &Request) -> Reply {
    let invalid = || {
        let messages = "<Messages><Message>no</Message></Messages>";
        Reply::new(
            400,
            format!(
                "<?xml version=\"1.0\"?><InvalidChangeBatch>{messages}<RequestId>1</RequestId></InvalidChangeBatch>"
            ),
        )
    };
    let (mut fqdn, mut after) = (String::new(), None);
    for change in between(&request.body, "<Change>", "</Change>") {
        let part = |start: &str, end: &str| between(change, start, end).next().unwrap_or_default().to_owned();
        let text = |value: &str| {
            value.replace("&quot;", "\"").replace("&apos;", "'").replace("&lt;", "<").replace("&amp;", "&")
        };
        let values = between(change, "<Value>", "</Value>").map(|value| unquoted(&text(value)));
        let Some(values) = values.collect::<Option<Vec<_>>>() else { return Reply::unexpected(request) };
        if part("<Type>", "</Type>") != "TXT" || part("<TTL>", "</TTL>") != "60" || values.is_empty() {
            return Reply::unexpected(request);
        }
        fqdn = part("<Name>", "</Name>");
        let there = after.take().unwrap_or_else(|| state.values(zone, &fqdn));
        match part("<Action>", "</Action>").as_str() {
            "DELETE" if there == values => after = Some(Vec::new()),
            "CREATE" if there.is_empty() => after = Some(values),
            "DELETE" | "CREATE" => return invalid(),
            _ => return Reply::unexpected(request),
        }
    }
    let Some(after) = after else { return Reply::unexpected(request) };
    state.replace(zone, &fqdn, &after);
    Reply::new(
        200,
        "<ChangeResourceRecordSetsResponse><ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status></ChangeInfo></ChangeResourceRecordSetsResponse>",
    )
}

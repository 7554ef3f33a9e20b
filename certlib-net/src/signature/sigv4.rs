//! AWS Signature Version 4.
//!
//! Checked against the vendor's published test suite and the example of its manual.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use aws_lc_rs::hmac;
use certlib_core::secret::SecretString;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{Signed, canonical_headers, canonical_query, encode, hex, moment, sha256_hex};

/// The name of the algorithm, as it stands in `Authorization`.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Who signs, and for which service.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// The id of the access key.
    pub access_key: &'a str,
    /// The secret access key.
    pub secret_key: &'a SecretString,
    /// The region, such as `us-east-1`.
    pub region: &'a str,
    /// The service, such as `route53`.
    pub service: &'a str,
}

/// The text for `X-Amz-Date`.
pub fn date(now: OffsetDateTime) -> String {
    moment(now)
}

/// The value of `Authorization` for a request that is sent with `x-amz-date: date`, as [`date`] writes it, and the
/// headers of `signed`; `host` has to be one of them, and a session's `x-amz-security-token` too.
pub fn authorization(signed: &Signed<'_>, date: &str, signer: &Signer<'_>) -> String {
    let mut headers = signed.headers.to_vec();
    headers.push(("x-amz-date", date));
    let (lines, names) = canonical_headers(&mut headers);
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{names}\n{}",
        signed.method,
        canonical_path(signed.url.path()),
        canonical_query(signed.url),
        sha256_hex(signed.body),
    );
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/{}/aws4_request", signer.region, signer.service);
    let text = format!("{ALGORITHM}\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let first = Zeroizing::new(format!("AWS4{}", signer.secret_key.expose()));
    let chain = [day, signer.region, signer.service, "aws4_request"];
    let key = chain.iter().fold(key(first.as_bytes()), |signing, part| key(mac(&signing, part).as_ref()));
    let signature = hex(mac(&key, &text).as_ref());
    format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", signer.access_key)
}

fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

fn mac(key: &hmac::Key, text: &str) -> hmac::Tag {
    hmac::sign(key, text.as_bytes())
}

/// The path as it is sent, each segment encoded once more.
fn canonical_path(path: &str) -> String {
    path.split('/').map(|segment| encode(segment.as_bytes())).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use url::Url;

    use super::*;

    /// The key, region, service and time of the vendor's test suite.
    fn signature(method: &str, url: &str, headers: &[(&str, &str)]) -> String {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned().into();
        let signer = Signer { access_key: "AKIDEXAMPLE", secret_key: &secret, region: "us-east-1", service: "service" };
        let url = Url::parse(url).unwrap();
        let signed = Signed { method, url: &url, headers, body: b"" };
        authorization(&signed, &date(datetime!(2015-08-30 12:36:00 UTC)), &signer)
    }

    #[test]
    fn the_vectors_of_the_vendor() {
        let host = [("host", "example.amazonaws.com")];
        for (method, url, expected) in [
            ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            let found = signature(method, &format!("https://example.amazonaws.com{url}"), &host);
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature={expected}"
            );
            assert_eq!(found, expected, "{method} {url}");
        }
    }

    #[test]
    fn the_example_of_the_manual() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned().into();
        let signer = Signer { access_key: "AKIDEXAMPLE", secret_key: &secret, region: "us-east-1", service: "iam" };
        let url = Url::parse("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08").unwrap();
        let headers =
            [("host", "iam.amazonaws.com"), ("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let signed = Signed { method: "GET", url: &url, headers: &headers, body: b"" };
        let found = authorization(&signed, "20150830T123600Z", &signer);
        let expected = "SignedHeaders=content-type;host;x-amz-date, \
                        Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert!(found.ends_with(expected), "{found}");
    }

    #[test]
    fn a_change_of_records() {
        let secret = "SECRET".to_owned().into();
        let signer = Signer { access_key: "AK", secret_key: &secret, region: "us-east-1", service: "route53" };
        let url = Url::parse("https://route53.amazonaws.com/2013-04-01/hostedzone/Z123/rrset/").unwrap();
        let headers = [("host", "route53.amazonaws.com")];
        let signed = Signed { method: "POST", url: &url, headers: &headers, body: b"<x/>" };
        let found = authorization(&signed, "20260101T000000Z", &signer);
        let expected = "a6629058d44ac4ce33a6a71f93388782546513816a1f472c33ac06450837a9b8";
        assert!(found.ends_with(expected), "{found}");
        assert!(!found.contains("SECRET"));
    }
}

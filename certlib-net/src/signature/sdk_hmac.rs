//! SDK-HMAC-SHA256, which Huawei Cloud asks for.
//!
//! Unlike its relatives there is no chain of derived keys: the secret key itself signs the time and the digest of the
//! canonical request. Checked against the vectors of the vendor's own signer.
//! <https://support.huaweicloud.com/intl/en-us/devg-apisign/api-sign-algorithm.html>

use aws_lc_rs::hmac;
use certlib_core::secret::SecretString;
use time::OffsetDateTime;

use super::{Signed, canonical_headers, canonical_query, decode, encode, hex, moment, sha256_hex};

/// The name of the algorithm, as it stands in `Authorization`.
const ALGORITHM: &str = "SDK-HMAC-SHA256";

/// The text for `X-Sdk-Date`.
pub fn date(now: OffsetDateTime) -> String {
    moment(now)
}

/// The value of `Authorization` for a request that is sent with `x-sdk-date: date` and the headers of `signed`, none of
/// which is `content-type` or has an underscore.
pub fn authorization(signed: &Signed<'_>, date: &str, access_key: &str, secret_key: &SecretString) -> String {
    let mut headers = signed.headers.to_vec();
    headers.push(("x-sdk-date", date));
    let (lines, names) = canonical_headers(&mut headers);
    let canonical = sha256_hex(canonical_request(signed, &lines, &names).as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret_key.expose().as_bytes());
    let signature = hmac::sign(&key, format!("{ALGORITHM}\n{date}\n{canonical}").as_bytes());
    format!("{ALGORITHM} Access={access_key}, SignedHeaders={names}, Signature={}", hex(signature.as_ref()))
}

fn canonical_request(signed: &Signed<'_>, lines: &str, names: &str) -> String {
    format!(
        "{}\n{}\n{}\n{lines}\n{names}\n{}",
        signed.method,
        canonical_path(signed.url.path()),
        canonical_query(signed.url),
        sha256_hex(signed.body),
    )
}

/// The path with each segment encoded anew, and a slash at its end.
fn canonical_path(path: &str) -> String {
    let mut canonical =
        path.split('/').map(|segment| encode(&decode(segment.as_bytes()))).collect::<Vec<_>>().join("/");
    if !canonical.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;
    use url::Url;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    /// The headers of the vectors: nothing but the date.
    fn vector(method: &str, path: &str, body: &str) -> (String, String) {
        let url = url(&format!("https://example.com{path}"));
        let signed = Signed { method, url: &url, headers: &[], body: body.as_bytes() };
        let date = date(datetime!(2006-01-02 15:04:05 UTC));
        let canonical = canonical_request(&signed, &format!("x-sdk-date:{date}\n"), "x-sdk-date");
        let digest = sha256_hex(canonical.as_bytes());
        (digest, authorization(&signed, &date, "AccessKey", &"SecretKey".to_owned().into()))
    }

    #[test]
    fn the_vectors_of_the_vendor() {
        let table = [
            (
                ("GET", "/path?limit=1", ""),
                "85c3b7730f308aee452b16138a42a914397e43a8f0d732dfa521c0ef2afa98a4",
                "5a2ce64c865e0e6046321c6f3d5a77ba8413eeaf355c3166c03d58d02ac79624",
            ),
            (
                ("POST", "/path?key=value", "{\"Name\":\"test\",\"Id\":1}\n"),
                "13f75ff5f5216199f986c7e7f2f77834d5e160ad9e46f37319816dc72ba7eeab",
                "cecc2af119b18ab70b4d094c0750f3b42c02f254903179a0fc2cc72fc9db4f59",
            ),
            (
                ("POST", "/path?key=value", "{\"Name\":\"test\",\"Id\":1}"),
                "6e54ea0472a0b6cad33180f0c0c1b412442e99df83db4f07c166850b9b002b1a",
                "83599e5230b5b31fb58837c5760b4c2d407542df1f9493834ead538696e17a35",
            ),
        ];
        for ((method, path, body), canonical, signature) in table {
            let (digest, authorization) = vector(method, path, body);
            assert_eq!(digest, canonical, "{method} {path}");
            let expected = format!("SDK-HMAC-SHA256 Access=AccessKey, SignedHeaders=x-sdk-date, Signature={signature}");
            assert_eq!(authorization, expected, "{method} {path}");
        }
    }

    #[test]
    fn the_query_of_the_vendor() {
        let mut url = url("https://example.com/");
        url.query_pairs_mut().extend_pairs([
            ("enable", "true"),
            ("limit", "1"),
            ("test", "一 (&=?!#%.*)"),
            ("path", "/tmp/123"),
            ("multi", "3"),
            ("multi", "1"),
            ("multi", "2"),
        ]);
        let expected = "enable=true&limit=1&multi=1&multi=2&multi=3&path=%2Ftmp%2F123&\
                        test=%E4%B8%80%20%28%26%3D%3F%21%23%25.%2A%29";
        assert_eq!(canonical_query(&url), expected);
    }

    #[test]
    fn paths() {
        for (path, canonical) in [
            ("/", "/"),
            ("/v3/scm", "/v3/scm/"),
            ("/v3/scm/", "/v3/scm/"),
            ("/a%2Fb/c%20d", "/a%2Fb/c%20d/"),
            ("/*.example.com/", "/%2A.example.com/"),
            ("/100%/%zz/%4", "/100%25/%25zz/%254/"),
        ] {
            assert_eq!(canonical_path(path), canonical);
        }
        assert_eq!(date(datetime!(2026-11-28 01:02:03 +01:00)), "20261128T000203Z");
    }

    #[test]
    fn headers_are_sorted_trimmed_and_named() {
        let url = url("https://example.com/p");
        let headers = [("x-project-id", " p "), ("host", "example.com")];
        let signed = Signed { method: "GET", url: &url, headers: &headers, body: b"" };
        let authorization = authorization(&signed, "20260101T000000Z", "ak", &"sk".to_owned().into());
        assert!(authorization.contains("SignedHeaders=host;x-project-id;x-sdk-date,"), "{authorization}");
        let (lines, names) = canonical_headers(&mut headers.to_vec());
        let canonical = canonical_request(&signed, &lines, &names);
        assert!(canonical.contains("\nhost:example.com\nx-project-id:p\n\nhost;x-project-id\n"), "{canonical}");
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_and_has_only_safe_characters(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let encoded = encode(&bytes);
            prop_assert_eq!(decode(encoded.as_bytes()), bytes);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte)));
        }

        #[test]
        fn the_canonical_path_is_the_same_however_it_was_encoded(
            segments in prop::collection::vec("[^/\t\n\r]{1,12}", 1..5),
        ) {
            let mut lax = url("https://example.com");
            lax.path_segments_mut().unwrap().extend(segments.iter().map(String::as_str));
            let strict: Vec<_> = segments.iter().map(|segment| encode(segment.as_bytes())).collect();
            // A URL's own rules swallow these dots, as they do tabs and line ends, before anything is signed or sent.
            prop_assume!(segments.iter().all(|segment| segment != "." && segment != ".."));
            let canonical = canonical_path(lax.path());
            prop_assert_eq!(&canonical, &format!("/{}/", strict.join("/")));
            prop_assert_eq!(canonical_path(&canonical), canonical);
        }

        #[test]
        fn the_canonical_query_does_not_depend_on_order(
            mut pairs in prop::collection::vec((".{0,8}", ".{0,8}"), 0..6),
            seed in any::<usize>(),
        ) {
            let write = |pairs: &[(String, String)]| {
                let mut url = url("https://example.com/");
                url.query_pairs_mut().extend_pairs(pairs);
                canonical_query(&url)
            };
            let first = write(&pairs);
            if !pairs.is_empty() {
                let by = seed % pairs.len();
                pairs.rotate_left(by);
            }
            prop_assert_eq!(write(&pairs), first);
        }

        #[test]
        fn every_part_is_signed(body in prop::collection::vec(any::<u8>(), 1..40), at in any::<prop::sample::Index>()) {
            let url = url("https://example.com/v3/scm/certificates");
            let sign = |method: &str, body: &[u8], date: &str, project: &str| {
                let headers = [("host", "example.com"), ("x-project-id", project)];
                let signed = Signed { method, url: &url, headers: &headers, body };
                authorization(&signed, date, "ak", &"sk".to_owned().into())
            };
            let original = sign("POST", &body, "20260101T000000Z", "p");
            let mut other = body.clone();
            other[at.index(body.len())] ^= 1;
            prop_assert_ne!(&sign("POST", &other, "20260101T000000Z", "p"), &original);
            prop_assert_ne!(&sign("PUT", &body, "20260101T000000Z", "p"), &original);
            prop_assert_ne!(&sign("POST", &body, "20260101T000001Z", "p"), &original);
            prop_assert_ne!(&sign("POST", &body, "20260101T000000Z", "q"), &original);
        }
    }
}

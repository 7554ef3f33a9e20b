//! Checking signatures as strictly as the gateway does.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
    hmac,
};
use bytes::Bytes;
use http::{Request, header};
use time::{Duration, OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::answer::Refusal;

/// How old or early a signature may be.
const SKEW: Duration = Duration::minutes(15);

/// What stands in `Authorization`.
#[derive(Debug)]
pub(super) struct Authorization {
    pub(super) access_key: String,
    signed: Vec<String>,
    signature: String,
}

impl Authorization {
    pub(super) fn read(request: &Request<Bytes>) -> Result<Self, Refusal> {
        let malformed =
            |why: &str| Refusal::gateway(401, "APIGW.0301", format!("Incorrect IAM authentication information: {why}"));
        let text =
            one_header(request, header::AUTHORIZATION.as_str()).ok_or_else(|| malformed("Authorization is missing"))?;
        let fields = text.strip_prefix("SDK-HMAC-SHA256 ").ok_or_else(|| malformed("unsupported algorithm"))?;
        let mut found = [None, None, None];
        for field in fields.split(", ") {
            let (name, value) = field.split_once('=').ok_or_else(|| malformed("Authorization format incorrect"))?;
            let at = ["Access", "SignedHeaders", "Signature"].iter().position(|known| *known == name);
            let place = at.and_then(|at| found.get_mut(at)).filter(|place| place.is_none());
            *place.ok_or_else(|| malformed("Authorization format incorrect"))? = Some(value.to_owned());
        }
        let [Some(access_key), Some(signed), Some(signature)] = found else {
            return Err(malformed("Authorization format incorrect"));
        };
        let signed: Vec<String> = signed.split(';').map(str::to_owned).collect();
        let sorted = signed.is_sorted() && signed.windows(2).all(|pair| pair[0] != pair[1]);
        let lower = signed.iter().all(|name| !name.is_empty() && *name == name.to_ascii_lowercase());
        if !(sorted && lower) {
            return Err(malformed("SignedHeaders are not sorted and in lower case"));
        }
        Ok(Self { access_key, signed, signature })
    }

    /// Whether a header is among those that are signed.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.signed.iter().any(|signed| signed == name)
    }

    /// Checks date and signature.
    pub(super) fn check(&self, request: &Request<Bytes>, secret: &str, now: OffsetDateTime) -> Result<(), Refusal> {
        let wrong = |why: String| {
            Refusal::gateway(401, "APIGW.0301", format!("Incorrect IAM authentication information: {why}"))
        };
        let date = one_header(request, "x-sdk-date").filter(|_| self.covers("x-sdk-date"));
        let date = date.ok_or_else(|| wrong("x-sdk-date is missing or not signed".to_owned()))?;
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let signed_at =
            PrimitiveDateTime::parse(date, format).map_err(|_| wrong("x-sdk-date format incorrect".to_owned()))?;
        if (signed_at.assume_utc() - now).abs() > SKEW {
            return Err(wrong(format!("x-sdk-date {date} is too far from the server's time")));
        }
        // What would change the meaning of a request must be signed if it is sent.
        for name in ["host", "x-project-id", "x-domain-id", "x-security-token"] {
            if request.headers().contains_key(name) && !self.covers(name) && name != "host" {
                return Err(wrong(format!("{name} is sent but not signed")));
            }
        }
        let canonical = self.canonical(request).ok_or_else(|| wrong("a signed header is not there".to_owned()))?;
        let to_sign = format!("SDK-HMAC-SHA256\n{date}\n{}", hex(digest(&SHA256, canonical.as_bytes()).as_ref()));
        let expected =
            hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), to_sign.as_bytes()).as_ref());
        if verify_slices_are_equal(expected.as_bytes(), self.signature.as_bytes()).is_err() {
            let shown = canonical.replace('\n', "|");
            return Err(wrong(format!("verify aksk signature fail, canonicalRequest:{shown}")));
        }
        Ok(())
    }

    fn canonical(&self, request: &Request<Bytes>) -> Option<String> {
        let mut headers = String::new();
        for name in &self.signed {
            let value = one_header(request, name)?;
            headers.push_str(&format!("{name}:{}\n", value.trim()));
        }
        let mut path = request.uri().path().split('/').map(recode).collect::<Vec<_>>().join("/");
        if !path.ends_with('/') {
            path.push('/');
        }
        let query = request.uri().query().unwrap_or_default();
        let mut pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (recode(&name.replace('+', "%20")), recode(&value.replace('+', "%20"))))
            .collect();
        pairs.sort_unstable();
        let query = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let method = request.method();
        let signed = self.signed.join(";");
        Some(format!("{method}\n{path}\n{query}\n{headers}\n{signed}\n{}", payload(request)))
    }
}

/// The digest of the body; only what is not JSON may go without.
fn payload(request: &Request<Bytes>) -> String {
    let content_type = one_header(request, header::CONTENT_TYPE.as_str()).unwrap_or("application/json");
    let is_json = content_type.starts_with("application/json") || content_type.starts_with("application/bson");
    match one_header(request, "x-sdk-content-sha256") {
        Some("UNSIGNED-PAYLOAD") if !is_json => "UNSIGNED-PAYLOAD".to_owned(),
        _ => hex(digest(&SHA256, request.body()).as_ref()),
    }
}

fn one_header<'r>(request: &'r Request<Bytes>, name: &str) -> Option<&'r str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Percent-encoding taken away and made anew, strictly.
fn recode(text: &str) -> String {
    decode(text).bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

/// Percent-encoding taken away.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| byte == b'%') {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn request(method: &str, uri: &str, authorization: &str, body: &'static str) -> Request<Bytes> {
        Request::builder()
            .method(method)
            .uri(uri)
            .header("x-sdk-date", "20060102T150405Z")
            .header("authorization", authorization)
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap()
    }

    fn verdict(
        method: &str,
        uri: &str,
        signature: &str,
        body: &'static str,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let text = format!("SDK-HMAC-SHA256 Access=AccessKey, SignedHeaders=x-sdk-date, Signature={signature}");
        let request = request(method, uri, &text, body);
        Authorization::read(&request)?.check(&request, "SecretKey", now)
    }

    #[test]
    fn the_vectors_of_the_vendor_pass_and_nothing_else() {
        let now = datetime!(2006-01-02 15:10 UTC);
        let get = "5a2ce64c865e0e6046321c6f3d5a77ba8413eeaf355c3166c03d58d02ac79624";
        assert!(verdict("GET", "/path?limit=1", get, "", now).is_ok());
        assert!(verdict("GET", "/path/?limit=1", get, "", now).is_ok(), "a slash at the end makes no difference");
        let post = "83599e5230b5b31fb58837c5760b4c2d407542df1f9493834ead538696e17a35";
        assert!(verdict("POST", "/path?key=value", post, r#"{"Name":"test","Id":1}"#, now).is_ok());
        for (method, uri, body, now) in [
            ("PUT", "/path?key=value", r#"{"Name":"test","Id":1}"#, now),
            ("POST", "/other?key=value", r#"{"Name":"test","Id":1}"#, now),
            ("POST", "/path?key=values", r#"{"Name":"test","Id":1}"#, now),
            ("POST", "/path?key=value", r#"{"Name":"test","Id":2}"#, now),
            ("POST", "/path?key=value", r#"{"Name":"test","Id":1}"#, datetime!(2006-01-02 15:20 UTC)),
            ("POST", "/path?key=value", r#"{"Name":"test","Id":1}"#, datetime!(2006-01-02 14:49 UTC)),
        ] {
            let refusal = verdict(method, uri, post, body, now).unwrap_err();
            assert_eq!((refusal.status, refusal.code.as_str()), (401, "APIGW.0301"), "{method} {uri}");
        }
    }

    #[test]
    fn a_wrong_signature_is_told_with_the_canonical_request() {
        let now = datetime!(2006-01-02 15:04:05 UTC);
        let refusal = verdict("GET", "/path?limit=1", "00", "", now).unwrap_err();
        assert!(refusal.message.contains("GET|/path/|limit=1|x-sdk-date:20060102T150405Z||x-sdk-date|e3b0c442"));
    }

    #[test]
    fn malformed_headers() {
        for text in [
            "Basic x",
            "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date",
            "SDK-HMAC-SHA256 Access=a, Access=b, SignedHeaders=x, Signature=y",
            "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date;host, Signature=y",
            "SDK-HMAC-SHA256 Access=a, SignedHeaders=X-Sdk-Date, Signature=y",
        ] {
            assert!(Authorization::read(&request("GET", "/", text, "")).is_err(), "{text}");
        }
    }
}

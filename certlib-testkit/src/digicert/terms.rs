//! What an order asks for, and whether it may.

use serde_json::Value;
use time::{Date, Duration, OffsetDateTime, macros::format_description};

use super::{answer::Refusal, product::Product};
use crate::pki::CertificateRequest;

/// What a certificate is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) common_name: String,
    /// All names, the common name first.
    pub(super) names: Vec<String>,
    pub(super) csr: String,
    pub(super) request: CertificateRequest,
    pub(super) till: OffsetDateTime,
    pub(super) order_till: OffsetDateTime,
    pub(super) signature_hash: String,
    pub(super) platform: i64,
}

/// Reads the body of an order.
pub(super) fn wanted(body: &Value, product: &Product, longest: i64, now: OffsetDateTime) -> Result<Wanted, Refusal> {
    let certificate = &body["certificate"];
    let (csr, request) = request_of(certificate)?;
    let common_name = certificate["common_name"].as_str().map(str::to_owned).or(request.common_name.clone());
    let common_name = common_name.filter(|name| !name.is_empty());
    let common_name = common_name.ok_or_else(|| Refusal::bad("missing_common_name", "There is no common name."))?;
    let names = names(&common_name, certificate, product)?;
    let legacy = serde_json::json!({
        "years": body["validity_years"],
        "custom_expiration_date": body["custom_expiration_date"],
    });
    let order_till = validity(&body["order_validity"], now)?.or(validity(&legacy, now)?);
    let own = validity(&certificate["cert_validity"], now)?;
    let order_till =
        order_till.or(own).ok_or_else(|| Refusal::bad("missing_validity", "There is no validity period."))?;
    if own.is_some_and(|own| own > order_till) {
        let message = "The certificate cannot be valid for longer than its order.";
        return Err(Refusal::bad("cert_validity_exceeds_order_validity", message));
    }
    let mut till = own.unwrap_or(order_till);
    if product.public {
        // An order may live for years; a public certificate is cut to what is allowed.
        till = till.min(now + Duration::days(longest));
    }
    Ok(Wanted {
        common_name,
        names,
        csr,
        request,
        till,
        order_till,
        signature_hash: hash(certificate)?,
        platform: certificate["server_platform"]["id"].as_i64().unwrap_or(-1),
    })
}

/// Reads the body of a reissue or duplicate: what it does not say stays as it was.
pub(super) fn changed(body: &Value, former: &Wanted, product: &Product, renames: bool) -> Result<Wanted, Refusal> {
    let certificate = &body["certificate"];
    let (csr, request) = request_of(certificate)?;
    let common_name = certificate["common_name"].as_str().unwrap_or(&former.common_name).to_owned();
    let names = match certificate["dns_names"].is_array() || certificate["common_name"].is_string() {
        true => names(&common_name, certificate, product)?,
        false => former.names.clone(),
    };
    let known = |name: &String| former.names.contains(name);
    if !renames && !names.iter().all(known) {
        return Err(Refusal::bad("invalid_dns_names", "A duplicate has no names that its order does not have."));
    }
    let (signature_hash, platform) = (hash(certificate)?, former.platform);
    Ok(Wanted { common_name, names, csr, request, signature_hash, platform, ..former.clone() })
}

fn request_of(certificate: &Value) -> Result<(String, CertificateRequest), Refusal> {
    let csr = certificate["csr"].as_str().ok_or_else(|| Refusal::bad("missing_csr", "There is no CSR."))?;
    let request =
        CertificateRequest::read(csr).map_err(|_| Refusal::bad("csr_invalid_cannot_parse", "The CSR is invalid."))?;
    let (algorithm, bits) = (request.key.algorithm, request.key.bits);
    match algorithm {
        "RSA" if bits >= 2048 => Ok((csr.to_owned(), request)),
        "ECDSA" if bits >= 256 => Ok((csr.to_owned(), request)),
        _ => Err(Refusal::bad("invalid_csr", format!("A key of {bits} bits ({algorithm}) is not accepted."))),
    }
}

fn names(common_name: &str, certificate: &Value, product: &Product) -> Result<Vec<String>, Refusal> {
    let mut names = vec![common_name.to_owned()];
    for name in certificate["dns_names"].as_array().into_iter().flatten() {
        let name = name.as_str().ok_or_else(|| Refusal::bad("invalid_dns_names", "A name is no text."))?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let wrong = |name: &&String| {
        let bare = name.strip_prefix("*.").unwrap_or(name);
        let label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        !bare.contains('.') || !bare.split('.').all(label) || (bare.len() < name.len() && !product.wildcards)
    };
    if let Some(name) = names.iter().find(wrong) {
        return Err(Refusal::bad("invalid_domain", format!("{name} is not a name for this product.")));
    }
    if names.len() > 1 && !product.more_names {
        return Err(Refusal::bad("invalid_dns_names", "This product has no additional names."));
    }
    Ok(names)
}

fn hash(certificate: &Value) -> Result<String, Refusal> {
    match certificate["signature_hash"].as_str().unwrap_or("sha256") {
        hash @ ("sha256" | "sha384" | "sha512") => Ok(hash.to_owned()),
        other => Err(Refusal::bad("invalid_signature_hash", format!("{other} is not offered."))),
    }
}

fn validity(value: &Value, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, Refusal> {
    let wrong = || Refusal::bad("invalid_validity", "The validity period is not offered.");
    if let Some(date) = value["custom_expiration_date"].as_str() {
        let date = Date::parse(date, format_description!("[year]-[month]-[day]")).map_err(|_| wrong())?;
        let till = date.with_hms(23, 59, 59).map_err(|_| wrong())?.assume_utc();
        return if till > now { Ok(Some(till)) } else { Err(wrong()) };
    }
    let days = match (value["days"].as_i64(), value["years"].as_i64()) {
        (Some(days), _) => days,
        (None, Some(years)) => years.saturating_mul(365),
        (None, None) => return Ok(None),
    };
    if (1..=1095).contains(&days) { Ok(Some(now + Duration::days(days))) } else { Err(wrong()) }
}

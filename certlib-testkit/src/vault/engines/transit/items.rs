//! Encrypting and decrypting, one text or a batch of them.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    super::{
        super::{
            answer::{Answer, Outcome, Refusal},
            call::{Body, Call},
        },
        Settings,
    },
    key::Key,
};

/// What an operation does to one item.
pub(super) type OnItem<'a> = &'a dyn Fn(&Body) -> Result<Map<String, Value>, Refusal>;

/// Applies `on_item` to the request itself or, if there is one, to each item of its batch. `strict`: a batch with a
/// bad item is `400` as a whole, with the results of all of them, unless the request asks for another status.
pub(super) fn each(call: &Call, strict: bool, on_item: OnItem<'_>) -> Outcome {
    let Some(batch) = call.body.get("batch_input") else {
        return on_item(&call.body).map(|data| Answer::data(Value::Object(data)));
    };
    let items = batch.as_array().ok_or_else(|| Refusal::invalid("failed to parse batch input"))?;
    if items.is_empty() {
        return Err(Refusal::invalid("missing batch input to process"));
    }
    let (mut good, mut bad) = (false, false);
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        let Value::Object(fields) = item else {
            return Err(Refusal::invalid("failed to parse batch input: expected a map"));
        };
        let item = Body::from(fields.clone());
        let mut result = on_item(&item).unwrap_or_else(|refusal| {
            Map::from_iter([("error".to_owned(), json!(refusal.errors.first().cloned().unwrap_or_default()))])
        });
        if result.contains_key("error") {
            bad = true
        } else {
            good = true
        }
        result.insert("reference".to_owned(), json!(item.text("reference")?));
        results.push(Value::Object(result));
    }
    let answer = Answer::data(json!({ "batch_results": results }));
    if !bad || !strict {
        return Ok(answer);
    }
    let asked = call.body.number("partial_failure_response_code")?.and_then(|code| u16::try_from(code).ok());
    Ok(answer.status(asked.filter(|_| good).unwrap_or(400)))
}

/// One item to encrypt.
pub(super) fn encrypt(key: &Key, item: &Body, settings: &Settings) -> Result<Map<String, Value>, Refusal> {
    let plain = item.get("plaintext").ok_or_else(|| Refusal::invalid("missing plaintext to encrypt"))?;
    let plain = plain.as_str().ok_or_else(|| Refusal::invalid("plaintext is not a text"))?;
    let plain = STANDARD.decode(plain).map_err(|error| Refusal::invalid(format!("illegal base64 data: {error}")))?;
    sealed(key, &plain, item, &associated(item, settings)?)
}

/// One item to decrypt.
pub(super) fn decrypt(key: &Key, item: &Body, settings: &Settings) -> Result<Map<String, Value>, Refusal> {
    let plain = key.decrypt(ciphertext(item)?, &associated(item, settings)?, &context(item)?)?;
    Ok(Map::from_iter([("plaintext".to_owned(), json!(STANDARD.encode(plain)))]))
}

/// One item to encrypt anew. It knows of no associated data, as Vault does not.
pub(super) fn rewrap(key: &Key, item: &Body) -> Result<Map<String, Value>, Refusal> {
    let plain = key.decrypt(ciphertext(item)?, &[], &context(item)?)?;
    sealed(key, &plain, item, &[])
}

/// One item to make an HMAC of. `version` is checked already.
pub(super) fn hmac(
    key: &Key,
    version: u32,
    algorithm: hmac::Algorithm,
    item: &Body,
) -> Result<Map<String, Value>, Refusal> {
    let input = item.get("input").ok_or_else(|| Refusal::invalid("missing input for HMAC"))?;
    let input = input.as_str().and_then(|input| STANDARD.decode(input).ok());
    let input = input.ok_or_else(|| Refusal::invalid("unable to decode input as base64"))?;
    let text = STANDARD.encode(key.hmac(version, algorithm, &input)?);
    Ok(Map::from_iter([("hmac".to_owned(), json!(format!("vault:v{version}:{text}")))]))
}

/// One HMAC to verify.
pub(super) fn verify(key: &Key, algorithm: hmac::Algorithm, item: &Body) -> Result<Map<String, Value>, Refusal> {
    let input = STANDARD.decode(item.text("input")?);
    let input = input.map_err(|_| Refusal::invalid("unable to decode input as base64"))?;
    let rest = item.text("hmac")?.strip_prefix("vault:v");
    let rest = rest.ok_or_else(|| Refusal::invalid("invalid HMAC to verify: no prefix"))?;
    let (version, text) =
        rest.split_once(':').ok_or_else(|| Refusal::invalid("invalid HMAC: wrong number of fields"))?;
    let version: u32 =
        version.parse().map_err(|_| Refusal::invalid("invalid HMAC: version number could not be decoded"))?;
    let given = STANDARD.decode(text);
    let given = given.map_err(|_| Refusal::invalid("unable to decode verification HMAC as base64"))?;
    if version > key.latest() {
        return Err(Refusal::invalid("invalid HMAC: version is too new"));
    }
    if version < key.min_decryption {
        return Err(Refusal::invalid("cannot verify HMAC: version is too old (disallowed by policy)"));
    }
    Ok(Map::from_iter([("valid".to_owned(), json!(key.hmac(version, algorithm, &input)? == given))]))
}

/// The algorithm of an HMAC, by Vault's name for it.
pub(super) fn algorithm(name: &str) -> Result<hmac::Algorithm, Refusal> {
    Ok(match name {
        "sha2-224" => hmac::HMAC_SHA224,
        "" | "sha2-256" => hmac::HMAC_SHA256,
        "sha2-384" => hmac::HMAC_SHA384,
        "sha2-512" => hmac::HMAC_SHA512,
        _ => return Err(Refusal::invalid(format!("unsupported algorithm {name:?}"))),
    })
}

fn sealed(key: &Key, plain: &[u8], item: &Body, aad: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let version = key.version_for_use(item.number("key_version")?.unwrap_or(0), "encryption")?;
    let text = key.encrypt(version, plain, aad, &context(item)?)?;
    Ok(Map::from_iter([("ciphertext".to_owned(), json!(text)), ("key_version".to_owned(), json!(version))]))
}

fn ciphertext(item: &Body) -> Result<&str, Refusal> {
    let text = item.text("ciphertext")?;
    if text.is_empty() { Err(Refusal::invalid("missing ciphertext to decrypt")) } else { Ok(text) }
}

fn associated(item: &Body, settings: &Settings) -> Result<Vec<u8>, Refusal> {
    if settings.ignores_associated_data {
        return Ok(Vec::new());
    }
    // An internal error in Vault too: the text is decoded late.
    STANDARD.decode(item.text("associated_data")?).map_err(|_| Refusal::new(500, "unable to get associated_data"))
}

fn context(item: &Body) -> Result<Vec<u8>, Refusal> {
    STANDARD.decode(item.text("context")?).map_err(|error| Refusal::invalid(format!("illegal base64 data: {error}")))
}

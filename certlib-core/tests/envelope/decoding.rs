//! An error about a secret of the wrong form does not quote it: serde's own messages would.

use std::error::Error as _;
use std::fmt::Debug;

use certlib_core::model;
use certlib_core::secret::{DEK_LEN, Sealed, Secret, SecretBytes, SecretString};
use certlib_core::store::RawRecord;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Secrets that somebody put in the wrong form, as JSON; what must not be seen again is `canary` or 424242.
const WRONG: [&str; 9] = [
    "424242",
    "-424242",
    "424242.5",
    r#""canary, not base64!""#,
    r#"["canary"]"#,
    r#"{"canary": 1}"#,
    r#"{"value": "canary"}"#,
    r#"[424242, "canary"]"#,
    r#""canary\ud800""#,
];

/// The fields of certlib's records that hold a secret.
const FIELDS: [(&str, &str); 5] = [
    ("certificate_version", "key"),
    ("credential", "sealed"),
    ("issuer_secret", "sealed"),
    ("journal_entry", "sealed"),
    ("order", "key"),
];

/// All that an error shows of itself.
fn shown(error: &certlib_core::Error) -> String {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        shown += &format!(" {error} {error:?}");
        source = error.source();
    }
    shown
}

fn silent(shown: &str, of: &str) {
    for canary in ["canary", "424242"] {
        assert!(!shown.contains(canary), "{of}: {shown}");
    }
}

fn refuses<T: DeserializeOwned + Debug>(json: &str) -> String {
    let error = serde_json::from_str::<T>(json).unwrap_err();
    format!("{error} {error:?}")
}

#[test]
fn a_sealed_field_of_a_record_is_not_quoted() {
    let kinds = model::record_kinds();
    for (kind, field) in FIELDS {
        let kind = kinds.find(kind).unwrap();
        for wrong in WRONG {
            // The field comes first, so nothing else can be what is wrong.
            let body = format!(r#"{{"{field}": {wrong}}}"#);
            let raw = RawRecord { id: "c1".to_owned(), revision: 1, body: body.clone().into() };
            let Err(error) = kind.decode(&raw) else { panic!("{body} is no {}", kind.name()) };
            assert_eq!(error.code(), "record_unreadable");
            let shown = shown(&error);
            silent(&shown, &body);
            // An escape that is none is found before anybody asks what it stands for.
            assert!(
                shown.contains("a sealed secret") || wrong.contains("ud800"),
                "another field was at fault: {shown}"
            );
        }
    }
}

#[test]
fn the_same_error_of_another_field_is_quoted() {
    // So that the test above cannot succeed because nothing is ever quoted.
    #[derive(Debug, Deserialize)]
    struct Open {
        #[allow(dead_code)]
        sealed: String,
    }
    assert!(refuses::<Open>(r#"{"sealed": 424242}"#).contains("424242"));
}

#[test]
fn a_secret_of_any_type_is_not_quoted() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Login {
        #[serde(default)]
        password: Option<SecretString>,
        #[serde(default)]
        bytes: Option<SecretBytes>,
        #[serde(default)]
        key: Option<Secret<[u8; DEK_LEN]>>,
        #[serde(default)]
        sealed: Option<Sealed>,
    }
    for field in ["password", "bytes", "key", "sealed"] {
        for wrong in WRONG.into_iter().filter(|wrong| field != "password" || !wrong.contains("base64")) {
            let json = format!(r#"{{"{field}": {wrong}}}"#);
            silent(&refuses::<Login>(&json), &json);
        }
    }
    for wrong in WRONG.into_iter().filter(|wrong| !wrong.contains("base64")) {
        silent(&refuses::<SecretString>(wrong), wrong);
    }
}

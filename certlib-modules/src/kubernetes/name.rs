//! Names of namespaces, Secrets, keys and labels: templates, and what Kubernetes allows.

use certlib_core::bundle::LeafInfo;
use certlib_core::context::Subject;
use certlib_core::error::{Error, Result};

use super::OPERATION;

/// The longest label of a DNS name.
const LABEL_MAX: usize = 63;
/// The longest DNS name.
const NAME_MAX: usize = 253;

/// The variables a template may use. Nothing of a certificate but its first name is among them.
const VARIABLES: [&str; 4] = ["project", "certificate", "target", "name"];

/// What stands for the variables of a template.
pub(super) struct Values<'a> {
    pub(super) subject: &'a Subject,
    pub(super) target: &'a str,
    pub(super) leaf: &'a LeafInfo,
}

impl Values<'_> {
    fn value(&self, variable: &str) -> Option<String> {
        match variable {
            "project" => Some(self.subject.project.clone()),
            "certificate" => Some(self.subject.certificate_id.clone()),
            "target" => Some(self.target.to_owned()),
            // A wildcard is no part of a name here.
            "name" => self.leaf.names.first().map(|name| name.replacen("*.", "wildcard.", 1)),
            _ => None,
        }
    }
}

/// Text with variables in braces, such as `tls-{certificate}`.
pub(super) struct Template<'a> {
    field: &'static str,
    text: &'a str,
}

impl<'a> Template<'a> {
    /// Reads a template; `field` is what errors call it.
    ///
    /// # Errors
    /// `Validation` `name_invalid`: braces that do not match, a variable that does not exist, or, in a template without
    /// variables, a name that Kubernetes does not allow.
    pub(super) fn parse(field: &'static str, text: &'a str) -> Result<Self> {
        let template = Self { field, text };
        let mut has_variables = false;
        for part in template.parts() {
            let Part::Variable(variable) = part? else { continue };
            has_variables = true;
            if !VARIABLES.contains(&variable) {
                return Err(template
                    .invalid("the variables of a template are {project}, {certificate}, {target} and {name}")
                    .with("variable", variable.escape_debug()));
            }
        }
        if !has_variables {
            template.checked(text.to_owned())?;
        }
        Ok(template)
    }

    /// The name that the template stands for.
    ///
    /// # Errors
    /// `Validation` `name_invalid` when a variable has no value here, or one that cannot be part of a name.
    pub(super) fn render(&self, values: &Values<'_>) -> Result<String> {
        let mut name = String::new();
        for part in self.parts() {
            match part? {
                Part::Text(text) => name.push_str(text),
                Part::Variable(variable) => {
                    let value = values.value(variable).unwrap_or_default();
                    if !is_subdomain(&value) {
                        return Err(self
                            .invalid("the value of a variable cannot be part of a name")
                            .with("variable", variable)
                            .with("value", value.escape_debug()));
                    }
                    name.push_str(&value);
                }
            }
        }
        self.checked(name)
    }

    fn checked(&self, name: String) -> Result<String> {
        let allowed = if self.field == "namespace" { is_label(&name) } else { is_subdomain(&name) };
        if allowed {
            return Ok(name);
        }
        let why = if self.field == "namespace" {
            "a namespace is up to 63 lower-case letters, digits and '-', with a letter or digit at both ends"
        } else {
            "a name is up to 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part"
        };
        Err(self.invalid(why).with("value", name.escape_debug()))
    }

    fn invalid(&self, why: &str) -> Error {
        Error::validation(OPERATION, "name_invalid", why).with("field", self.field)
    }

    fn parts(&self) -> impl Iterator<Item = Result<Part<'a>>> {
        let mut rest = self.text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            if let Some(after) = rest.strip_prefix('{') {
                let Some((variable, after)) = after.split_once('}') else {
                    rest = "";
                    return Some(Err(self.invalid("a brace is not closed")));
                };
                rest = after;
                return Some(Ok(Part::Variable(variable)));
            }
            let end = rest.find('{').unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            rest = after;
            Some(Ok(Part::Text(text)))
        })
    }
}

enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// A label of a DNS name, as in RFC 1123.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_MAX).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS name, as in RFC 1123, whose labels may be longer than in DNS: Kubernetes looks at the whole length only.
fn is_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let part =
        |part: &str| !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-');
    (1..=NAME_MAX).contains(&text.len()) && text.split('.').all(part)
}

/// Whether a key of `data` may be called so.
pub(super) fn is_data_key(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(allowed) && text != "." && !text.starts_with("..")
}

/// Whether a label or annotation may be called so: `name` or `prefix/name`.
pub(super) fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_value(name) && !name.is_empty(),
        None => is_label_value(text) && !text.is_empty(),
    }
}

/// Whether a label may have this value.
pub(super) fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && ends(bytes.first())
        && ends(bytes.last())
}

/// Whether a field manager may be called so.
pub(super) fn is_manager(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use certlib_core::CertificateBundle;
    use certlib_testkit::pki::TestCa;

    use super::*;

    fn render(field: &'static str, text: &str, subject: &Subject) -> Result<String> {
        let issued = TestCa::new("root").unwrap().issue(&["*.shop.example.com", "b.example"]).unwrap();
        let bundle = CertificateBundle::from_pem(issued.full_chain().as_bytes()).unwrap();
        let values = Values { subject, target: "web-01", leaf: bundle.leaf() };
        Template::parse(field, text)?.render(&values)
    }

    #[test]
    fn variables_are_filled_in() {
        let subject = Subject::certificate("blue", "cert-7", 3);
        for (field, text, name) in [
            ("namespace", "apps", "apps"),
            ("namespace", "team-{project}", "team-blue"),
            ("name", "{certificate}", "cert-7"),
            ("name", "tls-{project}.{target}", "tls-blue.web-01"),
            ("name", "{name}-tls", "wildcard.shop.example.com-tls"),
        ] {
            assert_eq!(render(field, text, &subject).unwrap(), name);
        }
    }

    #[test]
    fn what_kubernetes_does_not_allow_is_refused() {
        let odd = [
            Subject::certificate("Blue", "", 1),
            Subject::certificate("a/b", "", 1),
            Subject::certificate("..", "", 1),
            Subject::certificate("", "", 1),
        ];
        for subject in &odd {
            assert_eq!(render("name", "tls-{project}", subject).unwrap_err().code(), "name_invalid", "{subject:?}");
        }
        let subject = Subject::certificate("blue", "cert-7", 3);
        let (long_label, long_name) = ("a".repeat(64), "a.".repeat(127) + "a");
        for (field, text) in [
            ("namespace", ""),
            ("namespace", "a.b"),
            ("namespace", "A"),
            ("namespace", "-a"),
            ("namespace", "a-"),
            ("namespace", "kube system"),
            ("namespace", "a/../b"),
            ("namespace", "{name}"),
            ("namespace", &long_label),
            ("name", ""),
            ("name", "a/b"),
            ("name", "a..b"),
            ("name", "a_b"),
            ("name", "a%2fb"),
            ("name", "ä"),
            ("name", "{certificate"),
            ("name", "certificate}"),
            ("name", "{issuer}"),
            ("name", "{}"),
            ("name", "{{name}}"),
            ("name", "-{name}"),
            ("name", &long_name),
        ] {
            let error = render(field, text, &subject).unwrap_err();
            assert_eq!(error.code(), "name_invalid", "{text}");
            assert!(error.context().any(|pair| pair == ("field", field)));
        }
    }

    #[test]
    fn keys_labels_and_managers() {
        for key in ["ca.crt", "tls-combined.pem", "_", "a..b"] {
            assert!(is_data_key(key), "{key}");
        }
        for key in ["", ".", "..", "..a", "a/b", "a b", "ä"] {
            assert!(!is_data_key(key), "{key}");
        }
        for label in ["app", "a/b", "app.kubernetes.io/name", "A_b"] {
            assert!(is_qualified(label), "{label}");
        }
        for label in ["", "/a", "a/", "a/b/c", "A.b/c", "a b", "-a", &"a".repeat(64)] {
            assert!(!is_qualified(label), "{label}");
        }
        assert!(is_label_value("") && is_label_value("a.B_c-1") && !is_label_value("-") && !is_label_value("a b"));
        assert!(is_manager("certlib") && !is_manager("") && !is_manager("a b") && !is_manager(&"a".repeat(129)));
    }
}

//! What the policy service (MS-XCEP) knows: templates, CAs, and where they are asked.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::Effect;
use certlib_core::{Context, Error, Result};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::client::{Client, no_answer};
use super::soap::{Content, ns};
use super::xml::Element;
use super::{OPERATION, client};

const ACTION: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy/IPolicy/GetPolicies";

/// How long an answer is good for.
const KEPT: Duration = Duration::from_secs(3600);

/// `CT_FLAG_ENROLLEE_SUPPLIES_SUBJECT` and `CT_FLAG_ENROLLEE_SUPPLIES_SUBJECT_ALT_NAME` (MS-CRTD): names come from the
/// request.
const NAMES_FROM_REQUEST: u32 = 0x1 | 0x1_0000;

/// The object identifiers of templates are in this group.
const TEMPLATES: &str = "9";

/// What the service said.
#[derive(Debug, Default)]
pub(super) struct Policies {
    templates: Vec<Template>,
    authorities: Vec<Authority>,
}

/// The last answer, and when it came by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<(Duration, Policies)>);

#[derive(Debug)]
struct Template {
    name: String,
    oid: Option<String>,
    /// Major and minor.
    version: (u32, u32),
    may_enrol: bool,
    /// Bits.
    shortest_key: u32,
    signatures: u32,
    name_flags: Option<u32>,
    authorities: Vec<String>,
}

#[derive(Debug)]
struct Authority {
    reference: String,
    name: Option<String>,
    may_enrol: bool,
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    authentication: u32,
    url: String,
    priority: u32,
    renewals_only: bool,
}

/// What to ask for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// The common name of the template.
    pub(super) template: String,
    /// Its object identifier and version, for whoever looks at the order.
    pub(super) template_version: Option<String>,
    /// The common name of the CA.
    pub(super) authority: Option<String>,
    /// Its enrolment service.
    pub(super) url: String,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The template's common name or object identifier.
    pub(super) template: &'a str,
    pub(super) authority: Option<&'a str>,
    /// PKCS#10, DER.
    pub(super) csr: &'a [u8],
    pub(super) authentication: u32,
    /// An enrolment service that is chosen already.
    pub(super) url: Option<&'a str>,
}

impl Kept {
    /// Chooses by what is known; asks when that is old, or does not have what is wanted.
    ///
    /// # Errors
    /// As [`Policies::choose`]; errors of asking, without effect.
    pub(super) async fn choose(
        &mut self,
        cx: &Context,
        client: &Client,
        url: &str,
        wanted: Wanted<'_>,
    ) -> Result<Choice> {
        let now = cx.clock.monotonic();
        if let Some((_, known)) = self.0.as_ref().filter(|(since, _)| now.saturating_sub(*since) < KEPT)
            && let Ok(choice) = known.choose(wanted)
        {
            return Ok(choice);
        }
        // Nothing at the CA depends on it.
        let policies = ask(cx, client, url).await.map_err(|error| error.with_effect(Effect::None))?;
        self.0.insert((now, policies)).1.choose(wanted)
    }
}

async fn ask(cx: &Context, client: &Client, url: &str) -> Result<Policies> {
    let body = format!(
        "<GetPolicies xmlns=\"{}\" xmlns:xsi=\"{}\"><client><lastUpdate xsi:nil=\"true\"/><preferredLanguage \
         xsi:nil=\"true\"/></client><requestFilter><policyOIDs xsi:nil=\"true\"/><clientVersion>0</clientVersion>\
         <serverVersion>0</serverVersion></requestFilter></GetPolicies>",
        ns::POLICY,
        ns::INSTANCE
    );
    let (answer, content) = client.ask(cx, url, ACTION, &body).await?;
    match content {
        Content::Body(body) => Policies::read(&body).ok_or_else(|| client::no_answer(&answer)),
        Content::Fault(fault) => Err(fault.refusal()),
        Content::None => Err(no_answer(&answer)),
    }
}

impl Policies {
    fn read(body: &Element) -> Option<Self> {
        let response = body.child(ns::POLICY, "GetPoliciesResponse")?;
        let templates = response.child(ns::POLICY, "response")?.child(ns::POLICY, "policies");
        let oids = response.child(ns::POLICY, "oIDs");
        let templates = templates.into_iter().flat_map(|policies| policies.children(ns::POLICY, "policy"));
        let authorities = response.child(ns::POLICY, "cAs");
        let authorities = authorities.into_iter().flat_map(|authorities| authorities.children(ns::POLICY, "cA"));
        Some(Self {
            templates: templates.filter_map(|policy| Template::read(policy, oids)).collect(),
            authorities: authorities.filter_map(Authority::read).collect(),
        })
    }

    /// What to ask for, and where.
    ///
    /// # Errors
    /// `Validation`: `template_unknown`, `template_needs_signatures`, `template_ignores_names`, `key_too_short`, `ca_unknown`,
    /// `login_not_offered`; `Auth` `template_denied`.
    fn choose(&self, wanted: Wanted<'_>) -> Result<Choice> {
        let is_wanted = |template: &&Template| {
            template.name.eq_ignore_ascii_case(wanted.template) || template.oid.as_deref() == Some(wanted.template)
        };
        let template = self.templates.iter().find(is_wanted).ok_or_else(|| {
            let why = "the policy service has no such template; templates are named by their common name";
            Error::validation(OPERATION, "template_unknown", why)
        })?;
        template.check(wanted.csr)?;
        let fits = |authority: &&Authority| {
            let has_name = |name: &str| authority.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name));
            authority.may_enrol
                && template.authorities.contains(&authority.reference)
                && wanted.authority.is_none_or(has_name)
        };
        let authorities: Vec<_> = self.authorities.iter().filter(fits).collect();
        let first = authorities.first().ok_or_else(|| {
            let why = "no CA that has the template takes requests of this account, or none has the configured name";
            Error::validation(OPERATION, "ca_unknown", why)
        })?;
        let choice = |authority: &Authority, url: &str| Choice {
            template: template.name.clone(),
            template_version: template.shown(),
            authority: authority.name.clone(),
            url: url.to_owned(),
        };
        if let Some(url) = wanted.url {
            return Ok(choice(first, url));
        }
        let places =
            authorities.iter().flat_map(|authority| authority.places.iter().map(move |place| (*authority, place)));
        let ours = places.filter(|(_, place)| place.authentication == wanted.authentication && !place.renewals_only);
        let (authority, place) = ours.min_by_key(|(_, place)| place.priority).ok_or_else(|| {
            let why = "no enrolment service of the CA takes our kind of login for new requests";
            Error::validation(OPERATION, "login_not_offered", why).with("authentication", wanted.authentication)
        })?;
        Ok(choice(authority, &place.url))
    }
}

impl Template {
    fn read(policy: &Element, oids: Option<&Element>) -> Option<Self> {
        let attributes = policy.child(ns::POLICY, "attributes")?;
        let number = |within: Option<&Element>, name| within?.text_of(ns::POLICY, name).and_then(number);
        let within = |name| attributes.child(ns::POLICY, name);
        let permission = within("permission").and_then(|permission| permission.text_of(ns::POLICY, "enroll"));
        let revision = within("revision");
        let authorities = policy.child(ns::POLICY, "cAs");
        let authorities = authorities.into_iter().flat_map(|all| all.children(ns::POLICY, "cAReference"));
        Some(Self {
            name: attributes.text_of(ns::POLICY, "commonName")?.to_owned(),
            oid: policy.text_of(ns::POLICY, "policyOIDReference").and_then(|reference| oid(oids?, reference)),
            version: (
                number(revision, "majorRevision").unwrap_or_default(),
                number(revision, "minorRevision").unwrap_or_default(),
            ),
            may_enrol: permission.is_none_or(is_true),
            shortest_key: number(within("privateKeyAttributes"), "minimalKeyLength").unwrap_or_default(),
            signatures: number(within("rARequirements"), "rASignatures").unwrap_or_default(),
            name_flags: number(Some(attributes), "subjectNameFlags"),
            authorities: authorities.map(|reference| reference.text().to_owned()).collect(),
        })
    }

    /// Fails when a request for this template would be refused, or answered with other names.
    fn check(&self, csr: &[u8]) -> Result<()> {
        if !self.may_enrol {
            let why = "the account may not enrol for the template";
            return Err(Error::auth(OPERATION, "template_denied", why));
        }
        if self.signatures > 0 {
            let why = "the template wants requests that an enrolment agent has signed, which certlib cannot do";
            return Err(Error::validation(OPERATION, "template_needs_signatures", why));
        }
        if self.name_flags.is_some_and(|flags| flags & NAMES_FROM_REQUEST == 0) {
            let why = "the template takes the names from the directory and not from the request";
            return Err(Error::validation(OPERATION, "template_ignores_names", why));
        }
        match rsa_bits(csr) {
            Some(bits) if bits < self.shortest_key => {
                Err(Error::validation(OPERATION, "key_too_short", "the template wants a longer key")
                    .with("bits", bits)
                    .with("at_least", self.shortest_key))
            }
            _ => Ok(()),
        }
    }

    fn shown(&self) -> Option<String> {
        let (major, minor) = self.version;
        self.oid.as_ref().map(|oid| format!("{oid} {major}.{minor}"))
    }
}

impl Authority {
    fn read(authority: &Element) -> Option<Self> {
        let places = authority.child(ns::POLICY, "uris");
        let places = places.into_iter().flat_map(|places| places.children(ns::POLICY, "cAURI"));
        Some(Self {
            reference: authority.text_of(ns::POLICY, "cAReferenceID")?.to_owned(),
            name: authority.text_of(ns::POLICY, "certificate").and_then(common_name),
            may_enrol: authority.text_of(ns::POLICY, "enrollPermission").is_some_and(is_true),
            places: places.filter_map(Place::read).collect(),
        })
    }
}

impl Place {
    fn read(place: &Element) -> Option<Self> {
        let text = |name| place.text_of(ns::POLICY, name);
        Some(Self {
            authentication: text("clientAuthentication").and_then(number)?,
            url: text("uri")?.to_owned(),
            // Without a number it comes last.
            priority: text("priority").and_then(number).unwrap_or(u32::MAX),
            renewals_only: text("renewalOnly").is_some_and(is_true),
        })
    }
}

/// The object identifier with this reference, among those of templates.
fn oid(oids: &Element, reference: &str) -> Option<String> {
    let mut all = oids.children(ns::POLICY, "oID");
    let found = all.find(|oid| {
        oid.text_of(ns::POLICY, "oIDReferenceID") == Some(reference)
            && oid.text_of(ns::POLICY, "group") == Some(TEMPLATES)
    })?;
    found.text_of(ns::POLICY, "value").map(str::to_owned)
}

/// A number; flags are written with a sign by some.
fn number(text: &str) -> Option<u32> {
    text.parse().or_else(|_| text.parse::<i32>().map(i32::cast_unsigned)).ok()
}

fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1")
}

fn common_name(base64: &str) -> Option<String> {
    let digits: String = base64.chars().filter(|character| !character.is_whitespace()).collect();
    let der = STANDARD.decode(digits).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// How long an RSA key is. Keys on curves are what they are: their length says nothing to a template.
fn rsa_bits(csr: &[u8]) -> Option<u32> {
    let (_, request) = X509CertificationRequest::from_der(csr).ok()?;
    match request.certification_request_info.subject_pki.parsed().ok()? {
        PublicKey::RSA(key) => u32::try_from(key.key_size()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use certlib_core::bundle::{KeyType, PrivateKey};

    use super::*;

    fn template(name: &str, authorities: &[&str]) -> Template {
        Template {
            name: name.to_owned(),
            oid: Some("1.3.6.1.4.1.311.21.8.1".to_owned()),
            version: (100, 4),
            may_enrol: true,
            shortest_key: 3072,
            signatures: 0,
            name_flags: Some(1),
            authorities: authorities.iter().map(|reference| (*reference).to_owned()).collect(),
        }
    }

    fn authority(reference: &str, name: &str, places: &[(u32, &str, u32, bool)]) -> Authority {
        let place = |&(authentication, url, priority, renewals_only): &(u32, &str, u32, bool)| Place {
            authentication,
            url: url.to_owned(),
            priority,
            renewals_only,
        };
        let places = places.iter().map(place).collect();
        Authority { reference: reference.to_owned(), name: Some(name.to_owned()), may_enrol: true, places }
    }

    fn wanted(csr: &[u8]) -> Wanted<'_> {
        Wanted { template: "webserver", authority: None, csr, authentication: 4, url: None }
    }

    #[test]
    fn the_lowest_priority_of_our_login_is_chosen() {
        let policies = Policies {
            templates: vec![template("WebServer", &["0", "1"])],
            authorities: vec![
                authority("0", "One", &[(2, "kerberos", 1, false), (4, "renewals", 1, true), (4, "one", 9, false)]),
                authority("1", "Two", &[(4, "two", 2, false), (4, "last", u32::MAX, false)]),
                authority("2", "Other", &[(4, "other", 0, false)]),
            ],
        };
        let url = |wanted| policies.choose(wanted).map(|choice| choice.url);
        let all = wanted(b"");
        assert_eq!(url(all).unwrap(), "two");
        assert_eq!(url(Wanted { authority: Some("one"), ..all }).unwrap(), "one");
        assert_eq!(url(Wanted { authentication: 2, ..all }).unwrap(), "kerberos");
        assert_eq!(url(Wanted { url: Some("mine"), ..all }).unwrap(), "mine");
        let choice = policies.choose(Wanted { template: "1.3.6.1.4.1.311.21.8.1", ..all }).unwrap();
        assert_eq!((choice.template.as_str(), choice.authority.as_deref()), ("WebServer", Some("Two")));
        assert_eq!(choice.template_version.as_deref(), Some("1.3.6.1.4.1.311.21.8.1 100.4"));
        for (bad, code) in [
            (Wanted { authority: Some("Other"), ..all }, "ca_unknown"),
            (Wanted { authentication: 8, ..all }, "login_not_offered"),
            (Wanted { template: "x", ..all }, "template_unknown"),
        ] {
            assert_eq!(policies.choose(bad).unwrap_err().code(), code);
        }
    }

    #[test]
    fn templates_that_would_not_do_are_refused_beforehand() {
        let request =
            |kind| PrivateKey::generate(kind).unwrap().certificate_request(&["a.example".to_owned()]).unwrap();
        let (rsa, curve) = (request(KeyType::Rsa2048), request(KeyType::EcdsaP256));
        let good = || template("WebServer", &[]);
        good().check(&curve).unwrap();
        Template { shortest_key: 2048, ..good() }.check(&rsa).unwrap();
        Template { name_flags: None, ..good() }.check(&curve).unwrap();
        for (bad, csr, code) in [
            (good(), &rsa, "key_too_short"),
            (Template { may_enrol: false, ..good() }, &curve, "template_denied"),
            (Template { signatures: 1, ..good() }, &curve, "template_needs_signatures"),
            (Template { name_flags: Some(0x1800_0000), ..good() }, &curve, "template_ignores_names"),
        ] {
            assert_eq!(bad.check(csr).unwrap_err().code(), code);
        }
    }
}

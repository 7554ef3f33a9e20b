//! The policy service (MS-XCEP): templates, authorities and addresses.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    endpoint::{Settings, ces_url},
    soap::{Fault, INSTANCE, Request},
    state::State,
    template::Template,
};
use crate::{
    der::{integer, oid, sequence, wrap},
    xml::{Element, escaped},
};

const POLICY: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy";
pub(super) const ACTION: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy/IPolicy/GetPolicies";
const ANSWER: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy/IPolicy/GetPoliciesResponse";

/// Identifies the policy. It is the same for every simulator, as there is one policy in a forest.
const POLICY_ID: &str = "{7E3A4B52-1C6D-4F0A-9B41-5D2E8C70A913}";

/// Groups of object identifiers.
mod group {
    pub(super) const HASH: u32 = 1;
    pub(super) const PUBLIC_KEY: u32 = 3;
    pub(super) const EXTENSION: u32 = 6;
    pub(super) const TEMPLATE: u32 = 9;
}

/// Flags of a template (MS-CRTD).
mod flags {
    /// The subject comes from the request.
    pub(super) const ENROLLEE_SUPPLIES_SUBJECT: u32 = 0x1;
    /// The alternative names come from the request.
    pub(super) const ENROLLEE_SUPPLIES_NAMES: u32 = 0x1_0000;
    /// The DNS name of the directory is the common name.
    pub(super) const DNS_AS_COMMON_NAME: u32 = 0x1000_0000;
    /// The DNS name of the directory is an alternative name.
    pub(super) const DNS_IN_NAMES: u32 = 0x0800_0000;
    /// Every request waits.
    pub(super) const PEND_ALL: u32 = 0x2;
    /// A renewal with the former certificate does not.
    pub(super) const PREVIOUS_APPROVAL: u32 = 0x40;
    /// The key may be exported.
    pub(super) const EXPORTABLE: u32 = 0x10;
}

/// Answers a question for the policy.
pub(super) fn answer(
    request: &Request,
    state: &State,
    user: &str,
    settings: &Settings,
    base: &str,
) -> Result<String, Box<Fault>> {
    let asked = request.body.child(POLICY, "GetPolicies");
    let filter = asked.and_then(|asked| asked.child(POLICY, "requestFilter"));
    let (Some(asked), Some(filter)) = (asked, filter) else {
        return Err(request.fault(None, "The message has no GetPolicies with a requestFilter.".to_owned()));
    };
    let known = asked.child(POLICY, "client").and_then(|client| client.text_of(POLICY, "lastUpdate"));
    let known = known.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    if known.is_some_and(|known| known >= state.changed) {
        let body = format!(
            "<GetPoliciesResponse xmlns=\"{POLICY}\" xmlns:xsi=\"{INSTANCE}\"><response>{}<policiesNotChanged>true\
             </policiesNotChanged><policies xsi:nil=\"true\"/></response><cAs xsi:nil=\"true\"/><oIDs \
             xsi:nil=\"true\"/></GetPoliciesResponse>",
            head(settings)
        );
        return Ok(request.answer(ANSWER, &body));
    }
    let wanted = wanted(filter);
    let mut oids = Oids::default();
    let templates = state.templates.iter().filter(|template| wanted.as_ref().is_none_or(|w| w.contains(&template.oid)));
    let policies: String = templates.map(|template| policy(template, user, &mut oids)).collect();
    let body = format!(
        "<GetPoliciesResponse xmlns=\"{POLICY}\" xmlns:xsi=\"{INSTANCE}\"><response>{}<policiesNotChanged \
         xsi:nil=\"true\"/><policies>{policies}</policies></response><cAs>{}</cAs><oIDs>{}</oIDs></GetPoliciesResponse>",
        head(settings),
        authority(state, settings, base),
        oids.listed()
    );
    Ok(request.answer(ANSWER, &body))
}

fn head(settings: &Settings) -> String {
    format!(
        "<policyID>{POLICY_ID}</policyID><policyFriendlyName>Policy of {}</policyFriendlyName><nextUpdateHours>8\
         </nextUpdateHours>",
        escaped(&settings.ca_name)
    )
}

/// The templates that a filter names; `None` when it names none.
fn wanted(filter: &Element) -> Option<Vec<String>> {
    let named = filter.child(POLICY, "policyOIDs")?;
    let named: Vec<String> = named.children.iter().map(|oid| oid.text.trim().to_owned()).collect();
    (!named.is_empty()).then_some(named)
}

/// Object identifiers, which a policy writes once and refers to.
#[derive(Default)]
struct Oids(Vec<(String, u32, String)>);

impl Oids {
    fn refer(&mut self, value: &str, group: u32, name: &str) -> usize {
        let known = self.0.iter().position(|(known, in_group, _)| known == value && *in_group == group);
        known.unwrap_or_else(|| {
            self.0.push((value.to_owned(), group, name.to_owned()));
            self.0.len() - 1
        })
    }

    fn listed(&self) -> String {
        let listed = self.0.iter().enumerate().map(|(reference, (value, group, name))| {
            format!(
                "<oID><value>{value}</value><group>{group}</group><oIDReferenceID>{reference}</oIDReferenceID>\
                 <defaultName>{}</defaultName></oID>",
                escaped(name)
            )
        });
        listed.collect()
    }
}

fn policy(template: &Template, user: &str, oids: &mut Oids) -> String {
    let own = oids.refer(&template.oid, group::TEMPLATE, &template.name);
    let key = match template.algorithms.first() {
        // A template with none of its own leaves it to the provider.
        None => "<algorithmOIDReference xsi:nil=\"true\"/>".to_owned(),
        Some(algorithm) => {
            let (value, name) = algorithm.oid();
            let reference = oids.refer(value, group::PUBLIC_KEY, name);
            format!("<algorithmOIDReference>{reference}</algorithmOIDReference>")
        }
    };
    let hash = oids.refer("2.16.840.1.101.3.4.2.1", group::HASH, "sha256");
    let (subject, enrolment) = flags_of(template);
    let signatures = match template.signatures {
        0 => "<rARequirements xsi:nil=\"true\"/>".to_owned(),
        signatures => format!(
            "<rARequirements><rASignatures>{signatures}</rASignatures><rAEKUs xsi:nil=\"true\"/><rAPolicies \
             xsi:nil=\"true\"/></rARequirements>"
        ),
    };
    format!(
        "<policy><policyOIDReference>{own}</policyOIDReference><cAs><cAReference>0</cAReference></cAs><attributes>\
         <commonName>{}</commonName><policySchema>{}</policySchema><certificateValidity><validityPeriodSeconds>{}\
         </validityPeriodSeconds><renewalPeriodSeconds>{}</renewalPeriodSeconds></certificateValidity><permission>\
         <enroll>{}</enroll><autoEnroll>false</autoEnroll></permission><privateKeyAttributes><minimalKeyLength>{}\
         </minimalKeyLength><keySpec>1</keySpec><keyUsageProperty xsi:nil=\"true\"/><permissions xsi:nil=\"true\"/>\
         {key}<cryptoProviders xsi:nil=\"true\"/></privateKeyAttributes><revision><majorRevision>{}</majorRevision>\
         <minorRevision>{}</minorRevision></revision><supersededPolicies xsi:nil=\"true\"/><privateKeyFlags>{}\
         </privateKeyFlags><subjectNameFlags>{subject}</subjectNameFlags><enrollmentFlags>{enrolment}\
         </enrollmentFlags><generalFlags>131649</generalFlags><hashAlgorithmOIDReference>{hash}\
         </hashAlgorithmOIDReference>{signatures}<keyArchivalAttributes xsi:nil=\"true\"/><extensions>{}</extensions>\
         </attributes></policy>",
        escaped(&template.name),
        template.schema,
        template.validity.as_secs(),
        template.renewal_period.as_secs(),
        template.admits(user),
        template.minimal_key_length,
        template.version.0,
        template.version.1,
        flags::EXPORTABLE,
        extensions(template, oids)
    )
}

fn flags_of(template: &Template) -> (u32, u32) {
    let subject = if template.subject_from_directory {
        flags::DNS_AS_COMMON_NAME | flags::DNS_IN_NAMES
    } else {
        flags::ENROLLEE_SUPPLIES_SUBJECT | flags::ENROLLEE_SUPPLIES_NAMES
    };
    let mut enrolment = 0;
    if template.manager_approval {
        enrolment |= flags::PEND_ALL;
    }
    if template.renews_without_approval {
        enrolment |= flags::PREVIOUS_APPROVAL;
    }
    (subject, enrolment)
}

/// What a request may carry: template, extended key usage, key usage.
fn extensions(template: &Template, oids: &mut Oids) -> String {
    let (major, minor) = template.version;
    let itself = sequence(&[&oid(&template.oid), &integer(major.into()), &integer(minor.into())]);
    let purposes: Vec<Vec<u8>> = template.purposes.iter().map(|purpose| oid(purpose)).collect();
    let all = [
        ("1.3.6.1.4.1.311.21.7", "Certificate Template Information", false, itself),
        ("2.5.29.37", "Enhanced Key Usage", false, wrap(0x30, &purposes.concat())),
        // Digital signature and key encipherment.
        ("2.5.29.15", "Key Usage", true, wrap(0x03, &[5, 0xa0])),
    ];
    let written = all.iter().map(|(value, name, critical, content)| {
        let reference = oids.refer(value, group::EXTENSION, name);
        format!(
            "<extension><oIDReference>{reference}</oIDReference><critical>{critical}</critical><value>{}</value>\
             </extension>",
            STANDARD.encode(content)
        )
    });
    written.collect()
}

fn authority(state: &State, settings: &Settings, base: &str) -> String {
    let uris: String = settings
        .auths
        .iter()
        .enumerate()
        .map(|(place, auth)| {
            format!(
                "<cAURI><clientAuthentication>{}</clientAuthentication><uri>{}</uri><priority>{}</priority><renewalOnly>\
                 {}</renewalOnly></cAURI>",
                auth.number(),
                escaped(&ces_url(base, &settings.ca_name, *auth)),
                place + 1,
                settings.renewal_only.contains(auth)
            )
        })
        .collect();
    let certificate = state.authority.certificate(state.authority.renewals()).unwrap_or_default();
    format!(
        "<cA><uris>{uris}</uris><certificate>{}</certificate><enrollPermission>true</enrollPermission>\
         <cAReferenceID>0</cAReferenceID></cA>",
        STANDARD.encode(certificate)
    )
}

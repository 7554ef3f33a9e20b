//! The policy service.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certlib_testkit::adcs::{AdcsSim, Auth, Fault, Injection, KeyAlgorithm, Operation, Template};
use time::format_description::well_known::Rfc3339;

use crate::{
    OTHER, OTHER_PASSWORD, PASSWORD, USER, builder,
    client::{Client, GET_POLICIES, shape},
};

/// What a question has when nothing is known yet and everything is wanted.
const NEVER: &str = r#"<lastUpdate xsi:nil="true"/>"#;
const ALL: &str = r#"<policyOIDs xsi:nil="true"/>"#;

/// A policy with one template, one address and two identifiers: the reference's tree, in the order of the schema.
const SAMPLE: &str = r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing"><s:Header><a:Action s:mustUnderstand="1"/>
<ActivityId CorrelationId="" xmlns="http://schemas.microsoft.com/2004/09/ServiceModel/Diagnostics"/><a:RelatesTo/></s:Header><s:Body>
<GetPoliciesResponse xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<response><policyID/><policyFriendlyName/><nextUpdateHours/><policiesNotChanged xsi:nil="true"/><policies><policy>
<policyOIDReference/><cAs><cAReference/></cAs><attributes><commonName/><policySchema/>
<certificateValidity><validityPeriodSeconds/><renewalPeriodSeconds/></certificateValidity>
<permission><enroll/><autoEnroll/></permission>
<privateKeyAttributes><minimalKeyLength/><keySpec/><keyUsageProperty xsi:nil="true"/><permissions xsi:nil="true"/><algorithmOIDReference/><cryptoProviders xsi:nil="true"/></privateKeyAttributes>
<revision><majorRevision/><minorRevision/></revision><supersededPolicies xsi:nil="true"/>
<privateKeyFlags/><subjectNameFlags/><enrollmentFlags/><generalFlags/><hashAlgorithmOIDReference/>
<rARequirements xsi:nil="true"/><keyArchivalAttributes xsi:nil="true"/>
<extensions><extension><oIDReference/><critical/><value/></extension><extension><oIDReference/><critical/><value/></extension><extension><oIDReference/><critical/><value/></extension></extensions>
</attributes></policy></policies></response>
<cAs><cA><uris><cAURI><clientAuthentication/><uri/><priority/><renewalOnly/></cAURI></uris><certificate/><enrollPermission/><cAReferenceID/></cA></cAs>
<oIDs><oID><value/><group/><oIDReferenceID/><defaultName/></oID><oID><value/><group/><oIDReferenceID/><defaultName/></oID><oID><value/><group/><oIDReferenceID/><defaultName/></oID><oID><value/><group/><oIDReferenceID/><defaultName/></oID><oID><value/><group/><oIDReferenceID/><defaultName/></oID><oID><value/><group/><oIDReferenceID/><defaultName/></oID></oIDs>
</GetPoliciesResponse></s:Body></s:Envelope>"#;

#[tokio::test]
async fn a_policy_has_the_tree_of_the_schema() {
    let services = AdcsSim::builder().user(USER, PASSWORD).auths(&[Auth::UsernamePassword]).start().await.unwrap();
    let answer = Client::new(&services, Auth::UsernamePassword).policies(NEVER, ALL).await;
    assert_eq!(answer.status, 200);
    assert_eq!(shape(&answer.body), shape(SAMPLE));
    assert_eq!(answer.text("Action").unwrap(), format!("{GET_POLICIES}Response"));
    assert_eq!(answer.text("RelatesTo").unwrap(), "urn:uuid:b5d1a601-5091-4a7d-b34b-5204c18b5919");
}

#[tokio::test]
async fn a_policy_tells_what_there_is_and_for_whom() {
    let services = builder()
        .template(
            Template::new("Curves")
                .oid("1.3.6.1.4.1.311.21.8.7")
                .version(102, 3)
                .schema(4)
                .minimal_key_length(256)
                .algorithms(&[KeyAlgorithm::EcdsaP384]),
        )
        .renewal_only(&[Auth::Certificate])
        .ca_name("Issuing CA & Co")
        .start()
        .await
        .unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let all = client.policies(NEVER, ALL).await;
    let names = ["WebServer", "Approved", "OthersOnly", "Agents", "Machine", "Curves"];
    assert_eq!(all.texts("commonName"), names);
    let enrol: Vec<_> = names.iter().map(|name| (*name != "OthersOnly").to_string()).collect();
    assert_eq!(all.texts("enroll"), enrol);
    assert_eq!(all.texts("enrollmentFlags"), ["0", "66", "0", "0", "0", "0"]);
    assert_eq!(all.texts("subjectNameFlags"), ["65537", "65537", "65537", "65537", "402653184", "65537"]);
    assert_eq!(all.texts("rASignatures"), ["1"]);
    assert_eq!(all.texts("clientAuthentication"), ["2", "4", "8"]);
    assert_eq!(all.texts("renewalOnly"), ["false", "false", "true"]);
    let urls = Auth::ALL.map(|auth| services.ces_url(auth));
    assert!(urls[0].contains("/Issuing%20CA%20%26%20Co_CES_Kerberos/"), "{}", urls[0]);
    assert_eq!(all.texts("uri"), urls);
    let certificate = STANDARD.decode(all.text("certificate").unwrap()).unwrap();
    assert_eq!(certificate, pem::parse(services.issuer_pem()).unwrap().contents());

    let curves = client.policies(NEVER, "<policyOIDs><oid>1.3.6.1.4.1.311.21.8.7</oid></policyOIDs>").await;
    assert_eq!(curves.texts("commonName"), ["Curves"]);
    assert_eq!((curves.text("majorRevision"), curves.text("minorRevision")), (Some("102".into()), Some("3".into())));
    let references = curves.texts("oIDReferenceID");
    let at = |name: &str| {
        let place = references.iter().position(|known| *known == curves.text(name).unwrap()).unwrap();
        curves.texts("value").split_off(3)[place].clone()
    };
    assert_eq!(at("policyOIDReference"), "1.3.6.1.4.1.311.21.8.7");
    assert_eq!(at("algorithmOIDReference"), "1.3.132.0.34");
    let mut other = Client::new(&services, Auth::Kerberos);
    (other.user, other.password) = (OTHER.to_owned(), OTHER_PASSWORD.to_owned());
    assert!(other.policies(NEVER, ALL).await.texts("enroll").iter().all(|enrol| enrol == "true"));
}

#[tokio::test]
async fn who_knows_the_policy_is_told_that_nothing_has_changed() {
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let known = format!("<lastUpdate>{}</lastUpdate>", services.now().format(&Rfc3339).unwrap());
    let same = client.policies(&known, ALL).await;
    assert_eq!((same.text("policiesNotChanged").unwrap(), same.texts("policy").len()), ("true".to_owned(), 0));
    services.advance(Duration::from_secs(60));
    services.put_template(Template::new("WebServer").manager_approval());
    let changed = client.policies(&known, ALL).await;
    assert_eq!((changed.text("policiesNotChanged").unwrap(), changed.texts("commonName").len()), (String::new(), 5));
}

#[tokio::test]
async fn a_question_that_is_none_is_refused() {
    let services = builder().start().await.unwrap();
    let client = Client::new(&services, Auth::UsernamePassword);
    let url = client.cep();
    let answer = client.post(&url, client.envelope(GET_POLICIES, &url, "<Other xmlns='urn:x'/>")).await.unwrap();
    assert_eq!((answer.status, answer.code()), (500, None));
    services.inject(Injection::new(Fault::Truncated).on(Operation::GetPolicies).times(1));
    let half = client.policies(NEVER, ALL).await;
    assert!(half.body.starts_with("<s:Envelope") && !half.body.contains("</s:Envelope>"));
    assert_eq!(services.count(Operation::GetPolicies), 2);
}

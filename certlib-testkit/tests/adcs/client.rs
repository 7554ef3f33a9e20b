//! A client of the policy and enrolment services: the messages of open clients, and nothing shared with the simulator.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certlib_testkit::{
    adcs::{AdcsSim, Auth},
    tls,
};
use quick_xml::{NsReader, events::Event, name::ResolveResult};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{PASSWORD, USER};

pub(crate) const GET_POLICIES: &str =
    "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy/IPolicy/GetPolicies";
pub(crate) const WSTEP: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/RST/wstep";
pub(crate) const PKCS10: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment#PKCS10";
pub(crate) const PKCS7: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment#PKCS7";
pub(crate) const CMC: &str = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment#CMC";
const SECURITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The text of the first element of that name, whatever its namespace.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.texts(name).into_iter().next()
    }

    /// The texts of all elements of that name.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let mut reader = NsReader::from_str(&self.body);
        let (mut found, mut inside) = (Vec::new(), None);
        loop {
            match reader.read_event().unwrap() {
                Event::Start(start) if start.local_name().as_ref() == name => inside = Some(String::new()),
                Event::Empty(start) if start.local_name().as_ref() == name => found.push(String::new()),
                Event::End(end) if end.local_name().as_ref() == name => found.extend(inside.take()),
                Event::Text(text) => inside.iter_mut().for_each(|inside| inside.push_str(&text.xml10_content())),
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().unwrap().unwrap_or('?');
                    inside.iter_mut().for_each(|inside| inside.push(character));
                }
                Event::Eof => return found,
                _ => {}
            }
        }
    }

    /// The signed number of the detail of a fault, as the unsigned code.
    pub(crate) fn code(&self) -> Option<u32> {
        self.text("ErrorCode").map(|code| code.parse::<i32>().unwrap().cast_unsigned())
    }

    pub(crate) fn request_id(&self) -> Option<u32> {
        self.text("RequestID").and_then(|id| id.parse().ok())
    }

    /// The tokens, decoded: the message with the chain, and the leaf.
    pub(crate) fn tokens(&self) -> Vec<Vec<u8>> {
        let texts = self.texts("BinarySecurityToken");
        texts.iter().map(|text| STANDARD.decode(text.split_whitespace().collect::<String>()).unwrap()).collect()
    }

    /// The leaf.
    pub(crate) fn leaf(&self) -> Vec<u8> {
        assert_eq!((self.status, self.tokens().len()), (200, 2), "{}", self.body);
        self.tokens().remove(1)
    }
}

/// Somebody who asks.
pub(crate) struct Client<'a> {
    services: &'a AdcsSim,
    auth: Auth,
    http: reqwest::Client,
    pub(crate) user: String,
    pub(crate) password: String,
    /// What the security header says about when it was made.
    pub(crate) created: Option<OffsetDateTime>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(services: &'a AdcsSim, auth: Auth) -> Self {
        let http = tls::http_client(services.ca_pem()).unwrap();
        let (user, password) = (USER.to_owned(), PASSWORD.to_owned());
        Self { services, auth, http, user, password, created: Some(services.now()) }
    }

    /// One that shows a certificate.
    pub(crate) fn with_certificate(services: &'a AdcsSim, certificate: &[u8], key: &KeyPair) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(services.ca_pem().as_bytes()).unwrap()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.to_vec().into()], key)
            .unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().unwrap();
        Self { http, ..Self::new(services, Auth::Certificate) }
    }

    pub(crate) fn cep(&self) -> String {
        self.services.cep_url(self.auth)
    }

    pub(crate) fn ces(&self) -> String {
        self.services.ces_url(self.auth)
    }

    /// The envelope of a request.
    pub(crate) fn envelope(&self, action: &str, to: &str, body: &str) -> String {
        let security = match self.auth {
            Auth::UsernamePassword => {
                let created = self.created.map(|created| created.format(&Rfc3339).unwrap());
                let created =
                    created.map(|created| format!("<wsu:Created>{created}</wsu:Created>")).unwrap_or_default();
                format!(
                    r#"<wsse:Security s:mustUnderstand="1" xmlns:wsse="{SECURITY}" xmlns:wsu="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"><wsse:UsernameToken>
  <wsse:Username>{}</wsse:Username>
  <wsse:Password wsse:Type="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordText">{}</wsse:Password>
  <wsse:Nonce>bm9uY2U=</wsse:Nonce>{created}
</wsse:UsernameToken></wsse:Security>"#,
                    self.user, self.password
                )
            }
            _ => String::new(),
        };
        format!(
            r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/2005/08/addressing">
 <s:Header>
  <a:Action s:mustUnderstand="1">{action}</a:Action>
  <a:MessageID>urn:uuid:b5d1a601-5091-4a7d-b34b-5204c18b5919</a:MessageID>
  <a:To s:mustUnderstand="1">{to}</a:To>{security}
 </s:Header>
 <s:Body>{body}</s:Body></s:Envelope>"#
        )
    }

    pub(crate) async fn post(&self, url: &str, envelope: String) -> reqwest::Result<Answer> {
        let mut post = self.http.post(url).header("content-type", "application/soap+xml; charset=utf-8").body(envelope);
        if self.auth == Auth::Kerberos {
            post = post.basic_auth(&self.user, Some(&self.password));
        }
        let response = post.send().await?;
        Ok(Answer { status: response.status().as_u16(), body: response.text().await? })
    }

    /// Asks for the policy, with what comes inside `lastUpdate` and `policyOIDs`.
    pub(crate) async fn policies(&self, last_update: &str, filter: &str) -> Answer {
        let body = format!(
            r#"<GetPolicies xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <client>{last_update}<preferredLanguage xsi:nil="true"/></client>
  <requestFilter>{filter}<clientVersion>0</clientVersion><serverVersion>0</serverVersion></requestFilter>
 </GetPolicies>"#
        );
        let url = self.cep();
        self.post(&url, self.envelope(GET_POLICIES, &url, &body)).await.unwrap()
    }

    /// The body that asks for a certificate.
    pub(crate) fn issue_body(request: &[u8], value_type: &str, template: Option<&str>) -> String {
        let template = template.map(|template| {
            format!(r#"<ContextItem Name="CertificateTemplate"><Value>{template}</Value></ContextItem>"#)
        });
        format!(
            r#"<RequestSecurityToken PreferredLanguage="en-US" xmlns="http://docs.oasis-open.org/ws-sx/ws-trust/200512">
 <TokenType>http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3</TokenType>
 <RequestType>http://docs.oasis-open.org/ws-sx/ws-trust/200512/Issue</RequestType>
 <BinarySecurityToken xmlns="{SECURITY}"
   ValueType="{value_type}"
   EncodingType="{SECURITY}#base64binary"
   d:Id="" xmlns:d="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd">{}</BinarySecurityToken>
 <AdditionalContext xmlns="http://schemas.xmlsoap.org/ws/2006/12/authorization">{}
  <ContextItem Name="ccm"><Value>client-host.example.org</Value></ContextItem>
 </AdditionalContext>
</RequestSecurityToken>"#,
            STANDARD.encode(request),
            template.unwrap_or_default()
        )
    }

    /// Asks for a certificate.
    pub(crate) async fn issue(&self, request: &[u8], value_type: &str, template: Option<&str>) -> Answer {
        self.step(&Self::issue_body(request, value_type, template)).await.unwrap()
    }

    /// Asks what became of a request.
    pub(crate) async fn query(&self, id: u32) -> Answer {
        let body = format!(
            r#"<RequestSecurityToken PreferredLanguage="en-US" xmlns="http://docs.oasis-open.org/ws-sx/ws-trust/200512">
 <TokenType>http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3</TokenType>
 <RequestType>http://schemas.microsoft.com/windows/pki/2009/01/enrollment/QueryTokenStatus</RequestType>
 <BinarySecurityToken xmlns="{SECURITY}"/>
 <RequestID xmlns="http://schemas.microsoft.com/windows/pki/2009/01/enrollment">{id}</RequestID>
</RequestSecurityToken>"#
        );
        self.step(&body).await.unwrap()
    }

    /// Sends a body to the enrolment service.
    pub(crate) async fn step(&self, body: &str) -> reqwest::Result<Answer> {
        let url = self.ces();
        self.post(&url, self.envelope(WSTEP, &url, body)).await
    }
}

/// A request for names with a key.
pub(crate) fn csr(names: &[&str], key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    if let Some(first) = names.first() {
        params.distinguished_name.push(DnType::CommonName, *first);
    }
    params.serialize_request(key).unwrap().der().to_vec()
}

/// The elements of a document, each with its namespace, its depth and the names of its attributes.
pub(crate) fn shape(document: &str) -> Vec<String> {
    let mut reader = NsReader::from_str(document);
    let (mut found, mut depth) = (Vec::new(), 0);
    loop {
        let (namespace, event) = reader.read_resolved_event().unwrap();
        let namespace = match namespace {
            ResolveResult::Bound(namespace) => namespace.as_ref().to_owned(),
            _ => Default::default(),
        };
        let (start, deeper) = match &event {
            Event::Start(start) => (start, 1),
            Event::Empty(start) => (start, 0),
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            Event::Eof => return found,
            _ => continue,
        };
        let mut attributes: Vec<String> = start
            .attributes()
            .map(|attribute| attribute.unwrap().key.as_ref().to_owned())
            .filter(|name| !name.starts_with("xmlns"))
            .collect();
        attributes.sort();
        found.push(format!("{depth} {{{namespace}}}{} {}", start.local_name().as_ref(), attributes.join(",")));
        depth += deeper;
    }
}

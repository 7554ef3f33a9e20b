//! The web enrolment pages: `/certsrv/`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;

use super::{
    cms, csr,
    fault::{Fault, Operation},
    form::Form,
    hresult::Hresult,
    pages,
    reply::Reply,
    state::{Disposition, Enrolment, Refused, State, Submission},
    texts::Texts,
};

const CERTIFICATE: &str = "application/pkix-cert";
const CHAIN: &str = "application/x-pkcs7-certificates";

/// A request for a page.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    /// The path below `/certsrv`, lower case.
    pub(super) page: &'a str,
    /// The query, or the form that was posted.
    pub(super) form: Form,
    pub(super) user: &'a str,
    /// Whether the client calls itself a browser.
    pub(super) browser: bool,
}

/// What a service needs to know about itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) ca_name: &'a str,
    pub(super) domain: &'a str,
    pub(super) texts: &'a Texts,
}

impl Call<'_> {
    pub(super) fn operation(&self) -> Operation {
        let post = self.method == Method::POST;
        let authority = self.form.get("ReqID").is_some_and(|id| id.eq_ignore_ascii_case("CACert"));
        match self.page {
            "/certfnsh.asp" if post && self.form.get("Mode") == Some("chkpnd") => Operation::CheckPending,
            "/certfnsh.asp" if post => Operation::Submit,
            "/certnew.cer" | "/certnew.p7b" if authority => Operation::CaCertificate,
            "/certnew.cer" | "/certnew.p7b" => Operation::Fetch,
            "/certcarc.asp" => Operation::CaCertificate,
            _ => Operation::Page,
        }
    }

    /// Answers somebody who is logged in.
    pub(super) fn answer(&self, state: &mut State, about: About<'_>, fault: Option<&Fault>) -> Reply {
        let texts = about.texts;
        match self.page {
            // The client is to come again with a slash.
            "" => Reply { location: Some("/certsrv/"), ..Reply::page(301) },
            "/" | "/default.asp" | "/certrqus.asp" => Reply::html(200, pages::welcome(texts)),
            "/certrqxt.asp" | "/certrqad.asp" => {
                let mine = state.templates.iter().filter(|template| template.admits(self.user));
                Reply::html(200, pages::request(&mine.map(|template| template.name()).collect::<Vec<_>>()))
            }
            "/certcarc.asp" => Reply::html(200, pages::authority(about.ca_name, state.authority.renewals())),
            "/certckpn.asp" => Reply::html(200, pages::list(texts, &self.listed(state))),
            "/certrmpn.asp" => self.remove(state, texts),
            "/certfnsh.asp" if self.method == Method::POST => match self.form.get("Mode") {
                Some("newreq") => self.submit(state, about, fault),
                Some("chkpnd") => match self.form.number("ReqID") {
                    Some(id) => self.show(state, about, id),
                    None => refused(about, Hresult::INVALID_ARGUMENT.into()),
                },
                _ => refused(about, Hresult::INVALID_ARGUMENT.into()),
            },
            "/certnew.cer" => self.fetch(state, about, false, fault),
            "/certnew.p7b" => self.fetch(state, about, true, fault),
            _ => Reply::page(404),
        }
    }

    fn submit(&self, state: &mut State, about: About<'_>, fault: Option<&Fault>) -> Reply {
        let request = self.form.get("CertRequest").and_then(csr::unarmoured).unwrap_or_default();
        let lines = self.form.get("CertAttrib").unwrap_or_default().lines();
        let attributes = lines.filter_map(|line| line.split_once(':'));
        let attributes: Vec<(String, String)> =
            attributes.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
        let (request, attributes) = (request.as_slice(), attributes.as_slice());
        let submission = Submission { request, attributes, requester: self.user, renewal_only: false };
        match state.submit(&submission, fault) {
            Ok(id) => match state.enrolments.get(&id) {
                Some(enrolment) => shown(enrolment, about),
                None => refused(about, Hresult::INVALID_ARGUMENT.into()),
            },
            Err(why) => refused(about, why),
        }
    }

    fn show(&self, state: &mut State, about: About<'_>, id: u32) -> Reply {
        match state.retrieve(id, self.user) {
            Ok(enrolment) => shown(enrolment, about),
            Err(code) => refused(about, Refused { code, id: Some(id) }),
        }
    }

    /// A certificate, or its chain, or the page that says why not.
    fn fetch(&self, state: &mut State, about: About<'_>, chain: bool, fault: Option<&Fault>) -> Reply {
        let wanted = self.form.get("ReqID").unwrap_or_default();
        let not_issued = |code: Hresult, message: &str| {
            let id = wanted.parse().ok();
            Reply::html(200, pages::not_issued(about.texts, wanted, message)).with_code(Some(code)).about(id)
        };
        let newest = state.authority.renewals();
        let (leaf, renewal) = if wanted.eq_ignore_ascii_case("CACert") {
            (None, self.form.number("Renewal").and_then(|renewal| renewal.try_into().ok()).unwrap_or(newest))
        } else {
            let Ok(id) = wanted.trim().parse() else {
                return not_issued(Hresult::INVALID_ARGUMENT, &Hresult::INVALID_ARGUMENT.to_string());
            };
            let enrolment = match state.retrieve(id, self.user) {
                Ok(enrolment) => enrolment,
                Err(code) => return not_issued(code, &code.to_string()),
            };
            match (&enrolment.disposition, &enrolment.certificate) {
                (_, Some(signed)) => (Some(signed.certificate_der.clone()), newest),
                (Disposition::Denied(code), None) => return not_issued(*code, &denial(about, *code)),
                (_, None) => return not_issued(Hresult::BAD_REQUEST_STATUS, about.texts.under_submission),
            }
        };
        let Some(above) = state.authority.chain(renewal) else {
            return not_issued(Hresult::INVALID_ARGUMENT, &Hresult::INVALID_ARGUMENT.to_string());
        };
        let id = wanted.parse().ok();
        let mut bytes = match (chain, &leaf) {
            (false, Some(leaf)) => leaf.clone(),
            (false, None) => above[0].to_vec(),
            (true, leaf) => {
                let all: Vec<&[u8]> = leaf.iter().map(Vec::as_slice).chain(above).collect();
                cms::certificates_only(&all)
            }
        };
        if matches!(fault, Some(Fault::Garbled)) {
            bytes = b"no certificate".to_vec();
        }
        let body = if self.form.get("Enc") == Some("bin") { bytes } else { armoured(&bytes).into_bytes() };
        // What does not look like a browser is served as something else.
        let kind = match (self.browser, chain) {
            (true, false) => CERTIFICATE,
            (true, true) => CHAIN,
            (false, _) => "text/html",
        };
        Reply::new(200, kind, body).about(id)
    }

    /// The requests that the user sees as pending. A browser keeps this list in a cookie, the simulator itself.
    fn listed(&self, state: &State) -> Vec<u32> {
        let mine = state.enrolments.values().filter(|enrolment| {
            enrolment.disposition == Disposition::Pending
                && !enrolment.hidden
                && enrolment.requester.eq_ignore_ascii_case(self.user)
        });
        mine.map(|enrolment| enrolment.id).collect()
    }

    fn remove(&self, state: &mut State, texts: &Texts) -> Reply {
        let id = self.form.number("ReqID");
        let found = id.and_then(|id| state.enrolments.get_mut(&id));
        if let Some(enrolment) = found.filter(|found| found.requester.eq_ignore_ascii_case(self.user)) {
            enrolment.hidden = true;
        }
        Reply::html(200, pages::removed(texts)).about(id)
    }
}

fn shown(enrolment: &Enrolment, about: About<'_>) -> Reply {
    let id = enrolment.id;
    match enrolment.disposition {
        Disposition::Issued => Reply::html(200, pages::issued(about.texts, id)).about(Some(id)),
        Disposition::Pending => Reply::html(200, pages::pending(about.texts, id)).about(Some(id)),
        Disposition::Denied(code) => refused(about, Refused { code, id: Some(id) }),
    }
}

/// The page for a refusal.
pub(super) fn refused(about: About<'_>, why: Refused) -> Reply {
    let Refused { code, id } = why;
    Reply::html(200, pages::denied(about.texts, id, &denial(about, code))).with_code(Some(code)).about(id)
}

/// Who said no, and why.
fn denial(about: About<'_>, code: Hresult) -> String {
    if code == Hresult::ADMIN_DENIED {
        return format!("Denied by {}\\Administrator", about.domain);
    }
    format!("{} {:#010x}, {} ", about.texts.by_policy, code.0, code.text())
}

/// Base64 as the pages give it: the same armour for certificates and for chains.
fn armoured(bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let mut text = "-----BEGIN CERTIFICATE-----\r\n".to_owned();
    for line in digits.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push_str("\r\n");
    }
    text.push_str("-----END CERTIFICATE-----\r\n");
    text
}

//! What the services say to people, in the language of the server. Programs do well not to read it.

/// The language of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Language {
    /// English.
    #[default]
    English,
    /// German.
    German,
}

/// The texts of a language.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts {
    /// The tag of the language.
    pub(super) tag: &'static str,
    pub(super) issued: &'static str,
    pub(super) under_submission: &'static str,
    pub(super) issued_title: &'static str,
    pub(super) issued_text: &'static str,
    pub(super) pending_title: &'static str,
    pub(super) pending_text: &'static str,
    /// What is before the number and after it.
    pub(super) request_id: [&'static str; 2],
    pub(super) denied_title: &'static str,
    pub(super) denied_text: &'static str,
    pub(super) not_issued_title: &'static str,
    /// What is before the disposition message: on the page of a refusal, and where there is no certificate.
    pub(super) message: [&'static str; 2],
    pub(super) by_policy: &'static str,
    pub(super) welcome: &'static str,
    pub(super) no_pending: &'static str,
    pub(super) removed: &'static str,
}

impl Language {
    pub(super) fn texts(self) -> Texts {
        match self {
            Self::English => ENGLISH,
            Self::German => GERMAN,
        }
    }
}

const ENGLISH: Texts = Texts {
    tag: "en-US",
    issued: "Issued",
    under_submission: "Taken Under Submission",
    issued_title: "Certificate Issued",
    issued_text: "The certificate you requested was issued to you.",
    pending_title: "Certificate Pending",
    pending_text: "Your certificate request has been received. However, you must wait for an administrator to issue the \
                   certificate you requested.",
    request_id: ["Your Request Id is ", "."],
    denied_title: "Certificate Request Denied",
    denied_text: "Your certificate request was denied.",
    not_issued_title: "Certificate Not Issued",
    message: ["The disposition message is", "Disposition message:"],
    by_policy: "Denied by Policy Module ",
    welcome: "Use this Web site to request a certificate for your Web browser, e-mail client, or other program.",
    no_pending: "You have no pending certificate requests.",
    removed: "The pending certificate request was removed from the list.",
};

const GERMAN: Texts = Texts {
    tag: "de-DE",
    issued: "Ausgestellt",
    under_submission: "Unter Einsendung genommen",
    issued_title: "Zertifikat wurde ausgestellt",
    issued_text: "Das angeforderte Zertifikat wurde für Sie ausgestellt.",
    pending_title: "Ausstehendes Zertifikat",
    pending_text: "Ihre Anforderung ist eingegangen. Ein Administrator muss das Zertifikat jedoch noch ausstellen.",
    request_id: ["Ihre Anforderungs-ID ist ", "."],
    denied_title: "Die Zertifikatanforderung wurde verweigert",
    denied_text: "Ihre Zertifikatanforderung wurde verweigert.",
    not_issued_title: "Zertifikat nicht ausgestellt",
    message: ["Die Dispositionsmeldung lautet", "Dispositionsmeldung:"],
    by_policy: "Vom Richtlinienmodul verweigert ",
    welcome: "Auf dieser Website können Sie ein Zertifikat für Ihren Webbrowser anfordern.",
    no_pending: "Es gibt keine ausstehenden Zertifikatanforderungen.",
    removed: "Die ausstehende Anforderung wurde aus der Liste entfernt.",
};

//! The web pages, as far as programs look at them.

use super::texts::Texts;
use crate::xml::escaped;

/// A page with the head and foot of all.
fn page(title: &str, content: &str) -> String {
    format!(
        "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.0 Transitional//EN\">\r\n<HTML>\r\n<Head>\r\n\t<Title>Microsoft \
         Active Directory Certificate Services</Title>\r\n</Head>\r\n<Body BgColor=#FFFFFF Link=#0000FF>\r\n<P ID=\
         locPageTitle> <Font Size=-1><B> {title} </B></Font>\r\n<HR>\r\n{content}\r\n</Body>\r\n</HTML>\r\n"
    )
}

/// The front page.
pub(super) fn welcome(texts: &Texts) -> String {
    page(
        "Welcome",
        &format!(
            "<P>{}</P>\r\n<A Href=\"certrqus.asp\">1</A> <A Href=\"certckpn.asp\">2</A> \
         <A Href=\"certcarc.asp\">3</A>",
            texts.welcome
        ),
    )
}

/// The page with the link to what was issued.
pub(super) fn issued(texts: &Texts, id: u32) -> String {
    let link = |file: &str, encoding: &str| format!("<A Href=\"{file}?ReqID={id}&amp;Enc={encoding}\">{file}</A>");
    let script = format!(
        "<Script Language=\"JavaScript\">\r\nfunction getCert() {{\r\n\tlocation=\"certnew.cer?ReqID={id}&\"+getEnc();\
         \r\n}}\r\n</Script>"
    );
    let links = [link("certnew.cer", "b64"), link("certnew.p7b", "b64")].join("\r\n");
    page(texts.issued_title, &format!("<P>{}</P>\r\n{script}\r\n{links}", texts.issued_text))
}

/// The page for a request that a manager has to decide about.
pub(super) fn pending(texts: &Texts, id: u32) -> String {
    let [before, after] = texts.request_id;
    let form = format!(
        "<Form Name=UIForm Action=\"certrmpn.asp\" Method=Post>\r\n<Input Type=Hidden Name=ReqID Value=\"{id}\">\r\n\
         </Form>"
    );
    page(texts.pending_title, &format!("<P>{}</P>\r\n<P>{before}{id}{after}</P>\r\n{form}", texts.pending_text))
}

/// The page for a request that is refused. Without a number the authority did not keep it.
pub(super) fn denied(texts: &Texts, id: Option<u32>, message: &str) -> String {
    let [before, after] = texts.request_id;
    let number = id.map(|id| format!("{before}{id}{after} ")).unwrap_or_default();
    let content =
        format!("<P>{}</P>\r\n<P>{number}{} \"{}\". </P>", texts.denied_text, texts.message[0], escaped(message));
    page(texts.denied_title, &content)
}

/// The page that comes instead of a certificate.
pub(super) fn not_issued(texts: &Texts, id: &str, message: &str) -> String {
    let content = format!(
        "<Table>\r\n<TR><TD>Request Id:</TD><TD>{}</TD></TR>\r\n</Table>\r\n<PRE>{}\r\n\t\t{}\r\n</PRE>",
        escaped(id),
        texts.message[1],
        escaped(message)
    );
    page(texts.not_issued_title, &content)
}

/// The page with the authority's certificates.
pub(super) fn authority(ca_name: &str, renewals: usize) -> String {
    let options = (0..=renewals)
        .rev()
        .map(|renewal| format!("<Option Value=\"{renewal}\">{} ({renewal})</Option>\r\n", escaped(ca_name)));
    let script = format!(
        "<Script Language=\"JavaScript\">\r\nvar nRenewals={renewals};\r\nfunction getCACert() {{\r\n\tlocation=\
         \"certnew.cer?ReqID=CACert&Renewal=\"+getChosenRenewal()+\"&\"+getEnc();\r\n}}\r\n</Script>"
    );
    page(
        "CA Certificate",
        &format!("{script}\r\n<Select Name=lbCaInstance>\r\n{}</Select>", options.collect::<String>()),
    )
}

/// The page of the advanced request, whose list has the templates that the user may use.
pub(super) fn request(templates: &[&str]) -> String {
    let options = templates.iter().map(|name| format!("<Option Value=\"{0}\">{0}</Option>\r\n", escaped(name)));
    let form = format!(
        "<Form Name=UIForm Action=\"certfnsh.asp\" Method=Post>\r\n<Input Type=Hidden Name=Mode Value=\"newreq\">\r\n\
         <TextArea Name=CertRequest></TextArea>\r\n<Select Name=lbCertTemplate>\r\n{}</Select>\r\n</Form>",
        options.collect::<String>()
    );
    page("Submit a Certificate Request or Renewal Request", &form)
}

/// The page with the requests that are pending.
pub(super) fn list(texts: &Texts, ids: &[u32]) -> String {
    if ids.is_empty() {
        return page("View the Status", &format!("<P>{}</P>", texts.no_pending));
    }
    let forms = ids.iter().map(|id| {
        format!(
            "<Form Action=\"certfnsh.asp\" Method=Post>\r\n<Input Type=Hidden Name=Mode Value=\"chkpnd\">\r\n\
             <Input Type=Hidden Name=ReqID Value=\"{id}\">\r\n</Form>\r\n"
        )
    });
    page("View the Status", &forms.collect::<String>())
}

/// The page for what was taken off that list.
pub(super) fn removed(texts: &Texts) -> String {
    page("Pending Request Removed", &format!("<P>{}</P>", texts.removed))
}

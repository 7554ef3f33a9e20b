//! What the service tells about itself.

use super::{auth::Settings, envelope, shells::Limits};
use crate::logins::Hardening;

const CONFIG: &str = "http://schemas.microsoft.com/wbem/wsman/1/config";

/// The answer to the question that needs no login.
pub(super) fn identify(build: u32) -> String {
    format!(
        "<s:Envelope xml:lang=\"en-US\" xmlns:s=\"{}\"><s:Header/><s:Body><wsmid:IdentifyResponse \
         xmlns:wsmid=\"http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd\"><wsmid:ProtocolVersion>{}\
         </wsmid:ProtocolVersion><wsmid:ProductVendor>Microsoft Corporation</wsmid:ProductVendor>\
         <wsmid:ProductVersion>OS: 10.0.{build} SP: 0.0 Stack: 3.0</wsmid:ProductVersion></wsmid:IdentifyResponse>\
         </s:Body></s:Envelope>",
        envelope::SOAP,
        envelope::WSMAN
    )
}

/// The configuration at a resource URI, or a part of it.
pub(super) fn get(
    resource: &str,
    max_envelope: usize,
    limits: Limits,
    settings: &Settings,
    hardening: Hardening,
) -> Option<String> {
    let auth = format!(
        "<cfg:Auth><cfg:Basic>{}</cfg:Basic><cfg:Kerberos>false</cfg:Kerberos><cfg:Negotiate>{}</cfg:Negotiate>\
         <cfg:Certificate>{}</cfg:Certificate><cfg:CredSSP>false</cfg:CredSSP><cfg:CbtHardeningLevel>{:?}\
         </cfg:CbtHardeningLevel></cfg:Auth>",
        settings.basic, settings.negotiate, settings.certificate, hardening
    );
    let service = |attributes: &str| {
        format!(
            "<cfg:Service{attributes}><cfg:MaxConcurrentOperationsPerUser>1500</cfg:MaxConcurrentOperationsPerUser>\
             <cfg:AllowUnencrypted>{}</cfg:AllowUnencrypted>{auth}</cfg:Service>",
            settings.allow_unencrypted
        )
    };
    let winrs = |attributes: &str| {
        format!(
            "<cfg:Winrs{attributes}><cfg:AllowRemoteShellAccess>true</cfg:AllowRemoteShellAccess><cfg:IdleTimeout>{}\
             </cfg:IdleTimeout><cfg:MaxConcurrentUsers>10</cfg:MaxConcurrentUsers><cfg:MaxProcessesPerShell>{}\
             </cfg:MaxProcessesPerShell><cfg:MaxMemoryPerShellMB>1024</cfg:MaxMemoryPerShellMB>\
             <cfg:MaxShellsPerUser>{}</cfg:MaxShellsPerUser></cfg:Winrs>",
            limits.idle.as_millis(),
            limits.commands,
            limits.shells
        )
    };
    let namespace = format!(" xmlns:cfg=\"{CONFIG}\"");
    match resource.strip_prefix(CONFIG)?.trim_start_matches('/').to_lowercase().as_str() {
        "" => Some(format!(
            "<cfg:Config{namespace}><cfg:MaxEnvelopeSizekb>{}</cfg:MaxEnvelopeSizekb><cfg:MaxTimeoutms>60000\
             </cfg:MaxTimeoutms><cfg:MaxBatchItems>32000</cfg:MaxBatchItems>{}{}</cfg:Config>",
            max_envelope / 1024,
            service(""),
            winrs("")
        )),
        "service" => Some(service(&namespace)),
        "winrs" => Some(winrs(&namespace)),
        _ => None,
    }
}

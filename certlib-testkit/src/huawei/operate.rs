//! What the operator of a simulated cloud, or another administrator, does without HTTP.

use std::{net::SocketAddr, sync::Arc};

use serde_json::json;

use super::{
    HuaweiSim, Kept,
    cdn::{CdnCertificate, CdnDomain},
    elb::{ElbCertificate, Listener},
    listen::{self, Front},
    lock,
    material::Material,
    state::State,
    waf::{WafCertificate, WafHost},
};
use crate::{Error, Result, pki::Issued};

/// The certificate of a domain of the delivery network.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum CdnSource<'a> {
    /// HTTPS is off.
    Off,
    /// From the certificate manager, by id.
    Scm(&'a str),
    /// Given to the delivery network with its key, under a name.
    Own(&'a str, &'a Issued),
}

/// A domain of the delivery network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CdnSettings {
    /// The SHA-256 of its leaf; `None` when HTTPS is off.
    pub fingerprint: Option<String>,
    /// Its certificate's id in the certificate manager, if it is from there.
    pub scm_id: Option<String>,
    /// `on` or `off`.
    pub http2: String,
    /// The versions of TLS that it speaks.
    pub tls_version: String,
    /// `on` or `off`.
    pub ocsp_stapling: String,
}

fn read(issued: &Issued) -> Result<Material> {
    Material::read(&issued.certificate_pem, &issued.issuer_pem, &issued.key_pem)
        .map_err(|why| Error::Crypto(why.to_owned()))
}

fn absent(what: &str, id: &str) -> Error {
    Error::protocol("the simulated cloud", format!("there is no {what} {id}"))
}

impl HuaweiSim {
    /// Imports a certificate into the certificate manager; its id.
    ///
    /// # Errors
    /// [`Error::Protocol`] when it is refused, as over HTTP.
    pub fn import_scm(&self, name: &str, issued: &Issued) -> Result<String> {
        let body = json!({
            "name": name,
            "certificate": issued.certificate_pem,
            "certificate_chain": issued.issuer_pem,
            "private_key": issued.key_pem,
        });
        let answer = self.operate("POST", "v3/scm/certificates/import", body)?;
        Ok(answer["certificate_id"].as_str().unwrap_or_default().to_owned())
    }

    /// What the certificate manager has, oldest first.
    #[must_use]
    pub fn scm_certificates(&self) -> Vec<Kept> {
        let state = lock(&self.state);
        state.scm.iter().map(|found| Kept::new(&found.id, &found.name, &found.material.sha256)).collect()
    }

    /// Removes a certificate from the certificate manager, whatever uses it.
    pub fn delete_scm(&self, id: &str) {
        lock(&self.state).scm.retain(|found| found.id != id);
    }

    /// Puts a certificate into the load balancers' store; its id.
    ///
    /// # Errors
    /// [`Error::Crypto`] when it cannot be read.
    pub fn put_elb_certificate(&self, name: &str, issued: &Issued) -> Result<String> {
        let material = read(issued)?;
        let mut state = lock(&self.state);
        let (id, now) = (state.id(), state.now());
        state.elb_certificates.insert(id.clone(), ElbCertificate::new(name, material, now));
        Ok(id)
    }

    /// Changes the content of a certificate of the load balancers' store in place.
    ///
    /// # Errors
    /// [`Error::Crypto`] when it cannot be read; [`Error::Protocol`] when there is none.
    pub fn replace_elb_certificate(&self, id: &str, issued: &Issued) -> Result<()> {
        let material = read(issued)?;
        let mut state = lock(&self.state);
        state.elb_certificates.get_mut(id).ok_or_else(|| absent("certificate", id))?.material = material;
        Ok(())
    }

    /// Removes a certificate from the load balancers' store, whatever refers to it.
    pub fn delete_elb_certificate(&self, id: &str) {
        lock(&self.state).elb_certificates.remove(id);
    }

    /// What the load balancers' store has, in the order in which it came.
    #[must_use]
    pub fn elb_certificates(&self) -> Vec<Kept> {
        let state = lock(&self.state);
        let kept = |(id, found): (&String, &ElbCertificate)| Kept::new(id, &found.name, &found.material.sha256);
        state.elb_certificates.iter().map(kept).collect()
    }

    /// Makes a listener, which serves TLS on a port of its own if `protocol` has certificates; its id.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound.
    pub fn add_listener(&self, protocol: &str, default: Option<&str>, sni: &[&str]) -> Result<String> {
        let id = lock(&self.state).id();
        let address = self.serve(Front::Listener(id.clone()))?;
        let listener = Listener {
            name: format!("listener-{}", address.port()),
            protocol: protocol.to_owned(),
            default: default.map(str::to_owned),
            sni: sni.iter().map(|id| (*id).to_owned()).collect(),
            address,
        };
        lock(&self.state).listeners.insert(id.clone(), listener);
        Ok(id)
    }

    /// Where a listener serves TLS.
    #[must_use]
    pub fn listener_address(&self, id: &str) -> Option<SocketAddr> {
        lock(&self.state).listeners.get(id).map(|listener| listener.address)
    }

    /// The ids of a listener's certificates: the default one, and those that are chosen by name.
    #[must_use]
    pub fn listener_certificates(&self, id: &str) -> Option<(Option<String>, Vec<String>)> {
        lock(&self.state).listeners.get(id).map(|listener| (listener.default.clone(), listener.sni.clone()))
    }

    /// Makes a listener refer to other certificates.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such listener.
    pub fn point_listener(&self, id: &str, default: &str, sni: &[&str]) -> Result<()> {
        let mut state = lock(&self.state);
        let listener = state.listeners.get_mut(id).ok_or_else(|| absent("listener", id))?;
        listener.default = Some(default.to_owned());
        listener.sni = sni.iter().map(|id| (*id).to_owned()).collect();
        Ok(())
    }

    /// Puts a certificate into the firewall's store; its id.
    ///
    /// # Errors
    /// [`Error::Crypto`] when it cannot be read.
    pub fn put_waf_certificate(&self, name: &str, issued: &Issued) -> Result<String> {
        let material = read(issued)?;
        let mut state = lock(&self.state);
        let (id, now) = (state.id(), state.now());
        let uploaded = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        state.waf_certificates.insert(id.clone(), WafCertificate { name: name.to_owned(), material, uploaded });
        Ok(id)
    }

    /// What the firewall's store has, in the order in which it came.
    #[must_use]
    pub fn waf_certificates(&self) -> Vec<Kept> {
        let state = lock(&self.state);
        let kept = |(id, found): (&String, &WafCertificate)| Kept::new(id, &found.name, &found.material.sha256);
        state.waf_certificates.iter().map(kept).collect()
    }

    /// Makes a host behind the firewall, which serves TLS on a port of its own if it has a certificate; its id.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound.
    pub fn add_waf_host(&self, hostname: &str, premium: bool, certificate: Option<&str>) -> Result<String> {
        let id = lock(&self.state).id();
        let address = self.serve(Front::Host(id.clone()))?;
        let certificate = certificate.map(str::to_owned);
        let host = WafHost { hostname: hostname.to_owned(), premium, certificate, address };
        lock(&self.state).waf_hosts.insert(id.clone(), host);
        Ok(id)
    }

    /// Where a host behind the firewall serves TLS.
    #[must_use]
    pub fn waf_host_address(&self, id: &str) -> Option<SocketAddr> {
        lock(&self.state).waf_hosts.get(id).map(|host| host.address)
    }

    /// The id of a host's certificate.
    #[must_use]
    pub fn waf_host_certificate(&self, id: &str) -> Option<String> {
        lock(&self.state).waf_hosts.get(id)?.certificate.clone()
    }

    /// Makes a host use another certificate.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such host.
    pub fn point_waf_host(&self, id: &str, certificate: &str) -> Result<()> {
        let mut state = lock(&self.state);
        let host = state.waf_hosts.get_mut(id).ok_or_else(|| absent("host", id))?;
        host.certificate = Some(certificate.to_owned());
        Ok(())
    }

    /// Makes a domain of the delivery network, which serves TLS on a port of its own once HTTPS is on.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound.
    pub fn add_cdn_domain(&self, name: &str) -> Result<()> {
        let address = self.serve(Front::Domain(name.to_owned()))?;
        let mut state = lock(&self.state);
        let domain = CdnDomain {
            id: state.id(),
            certificate: None,
            status: "online".to_owned(),
            settled: state.now(),
            http2: "on".to_owned(),
            tls_version: "TLSv1.2,TLSv1.3".to_owned(),
            ocsp_stapling: "on".to_owned(),
            force_redirect: 1,
            address,
        };
        state.cdn_domains.insert(name.to_owned(), domain);
        Ok(())
    }

    /// Where a domain of the delivery network serves TLS.
    #[must_use]
    pub fn cdn_address(&self, name: &str) -> Option<SocketAddr> {
        lock(&self.state).cdn_domains.get(name).map(|domain| domain.address)
    }

    /// Changes the certificate of a domain, at once.
    ///
    /// # Errors
    /// [`Error::Crypto`] when it cannot be read; [`Error::Protocol`] when there is no such domain or certificate.
    pub fn set_cdn_certificate(&self, name: &str, source: CdnSource<'_>) -> Result<()> {
        let mut state = lock(&self.state);
        let certificate = match source {
            CdnSource::Off => None,
            CdnSource::Own(name, issued) => {
                Some(CdnCertificate { name: name.to_owned(), scm_id: None, material: read(issued)? })
            }
            CdnSource::Scm(id) => {
                let found = state.scm.iter().find(|found| found.id == id).ok_or_else(|| absent("certificate", id))?;
                let (name, material) = (found.name.clone(), found.material.clone());
                Some(CdnCertificate { name, scm_id: Some(id.to_owned()), material })
            }
        };
        state.cdn_domains.get_mut(name).ok_or_else(|| absent("domain", name))?.certificate = certificate;
        Ok(())
    }

    /// Puts a domain into a state that stays, such as `offline` or `online`.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such domain.
    pub fn set_cdn_status(&self, name: &str, status: &str) -> Result<()> {
        let mut state = lock(&self.state);
        status.clone_into(&mut state.cdn_domains.get_mut(name).ok_or_else(|| absent("domain", name))?.status);
        Ok(())
    }

    /// The HTTPS settings of a domain.
    #[must_use]
    pub fn cdn_settings(&self, name: &str) -> Option<CdnSettings> {
        let state = lock(&self.state);
        let domain = state.cdn_domains.get(name)?;
        Some(CdnSettings {
            fingerprint: domain.certificate.as_ref().map(|found| found.material.sha256.clone()),
            scm_id: domain.certificate.as_ref().and_then(|found| found.scm_id.clone()),
            http2: domain.http2.clone(),
            tls_version: domain.tls_version.clone(),
            ocsp_stapling: domain.ocsp_stapling.clone(),
        })
    }

    /// Everything that requests can change, as text without keys: two are equal if, and only if, nothing was changed
    /// between them.
    #[must_use]
    pub fn snapshot(&self) -> String {
        let state: &State = &lock(&self.state);
        let mut lines: Vec<String> = Vec::new();
        for found in &state.scm {
            lines.push(format!("scm {} {} {}", found.id, found.name, found.material.sha256));
        }
        for (id, found) in &state.elb_certificates {
            let scm = found.scm_id.as_deref().unwrap_or("-");
            lines.push(format!("elb {id} {} {} {} {scm}", found.name, found.material.sha256, found.domains.join(",")));
        }
        for (id, found) in &state.listeners {
            lines.push(format!("listener {id} {:?} {:?}", found.default, found.sni));
        }
        for (id, found) in &state.waf_certificates {
            lines.push(format!("waf {id} {} {}", found.name, found.material.sha256));
        }
        for (id, found) in &state.waf_hosts {
            lines.push(format!("host {id} {:?}", found.certificate));
        }
        for (name, found) in &state.cdn_domains {
            let certificate = found.certificate.as_ref().map(|one| (&one.name, &one.scm_id, &one.material.sha256));
            let neighbours = (&found.http2, &found.tls_version, &found.ocsp_stapling, found.force_redirect);
            lines.push(format!("domain {name} {certificate:?} {neighbours:?}"));
        }
        lines.join("\n")
    }

    fn serve(&self, front: Front) -> Result<SocketAddr> {
        listen::serve(Arc::clone(&self.state), front, self.stop.clone())
    }
}

//! What the simulated appliance knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use http::Method;

use super::{bindings, certkeys, files, system};
use super::{
    certificate::Certificate,
    fault::Injection,
    history::Record,
    nitro::{Answer, Call, Outcome, Refusal, code},
};

/// Where the files of certificates lie.
pub(super) const FOLDER: &str = "/nsconfig/ssl";

/// A file of the appliance's disk.
#[derive(Clone, Debug)]
pub(super) struct StoredFile {
    pub(super) content: Vec<u8>,
    /// For a key that is encrypted: the pass phrase, and the key.
    pub(super) locked: Option<(String, Vec<u8>)>,
}

/// A certificate-key pair, as it was loaded: files that change later do not change it.
#[derive(Clone, Debug)]
pub(super) struct CertKey {
    pub(super) cert: String,
    pub(super) key: Option<String>,
    pub(super) passphrase: Option<String>,
    pub(super) certificate: Certificate,
    /// The key, PEM.
    pub(super) key_pem: Option<Vec<u8>>,
    pub(super) link: Option<String>,
    pub(super) monitor: String,
    pub(super) notification_days: u64,
}

/// What certificates are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Vserver,
    Service,
    ServiceGroup,
}

/// One certificate, bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) certkey: String,
    pub(super) sni: bool,
    pub(super) ca: bool,
}

/// A virtual server, service or service group.
#[derive(Clone, Debug, Default)]
pub(super) struct Holder {
    pub(super) bindings: Vec<Binding>,
    /// Where a virtual server listens.
    pub(super) address: Option<SocketAddr>,
}

/// The configuration of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Partition {
    pub(super) certkeys: BTreeMap<String, CertKey>,
    pub(super) holders: BTreeMap<(Kind, String), Holder>,
    /// There is something that is not saved.
    pub(super) changed: bool,
    pub(super) saves: u32,
}

impl Partition {
    /// Pairs, links and bindings, one a line, without keys.
    pub(super) fn describe(&self) -> String {
        let pairs = self.certkeys.iter().map(|(name, certkey)| {
            let loaded = crate::tls::fingerprint(&certkey.certificate.der);
            let CertKey { cert, key, link, .. } = certkey;
            format!("  certkey {name} {cert} {key:?} {loaded} link {link:?}\n")
        });
        let holders = self.holders.iter().map(|((kind, name), holder)| {
            let mut bindings: Vec<_> = holder.bindings.iter().map(|binding| format!("{binding:?}")).collect();
            bindings.sort();
            format!("  {kind:?} {name} {}\n", bindings.join(" "))
        });
        pairs.chain(holders).collect()
    }
}

/// Somebody who logged in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) node: usize,
    pub(super) partition: String,
    pub(super) timeout: Duration,
    pub(super) used: Duration,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) users: BTreeMap<String, String>,
    /// What nobody may do: methods and resources.
    pub(super) denied: BTreeSet<(String, String)>,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) logins: u32,
    /// The default partition has no name.
    pub(super) partitions: BTreeMap<String, Partition>,
    pub(super) saved: BTreeMap<String, Partition>,
    pub(super) files: BTreeMap<String, StoredFile>,
    /// The number of the node that is primary.
    pub(super) primary: usize,
    pub(super) nodes: usize,
    pub(super) longest_name: usize,
    pub(super) older_build: bool,
    /// How far its clock has been moved.
    pub(super) now: Duration,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
}

/// Who asks, and where.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) node: usize,
    pub(super) partition: String,
    /// The session, when there is one.
    pub(super) session: Option<String>,
}

impl State {
    pub(super) fn new(user: &str, password: &str) -> Self {
        let partitions: BTreeMap<_, _> = [(String::new(), Partition::default())].into();
        Self {
            users: [(user.to_owned(), password.to_owned())].into(),
            denied: BTreeSet::new(),
            sessions: BTreeMap::new(),
            logins: 0,
            saved: partitions.clone(),
            partitions,
            files: BTreeMap::new(),
            primary: 0,
            nodes: 1,
            longest_name: 63,
            older_build: false,
            now: Duration::ZERO,
            faults: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Carries a request out. What is written on the secondary node is lost, as the next synchronisation undoes it.
    pub(super) fn handle(&mut self, caller: &Caller, call: &Call) -> Answer {
        let session_call = matches!(call.resource.as_str(), "logout" | "nspartition");
        if caller.node != self.primary && call.method != Method::GET && !session_call {
            let answer = self.clone().route(caller, call);
            return answer.unwrap_or_else(Answer::from);
        }
        let answer = self.route(caller, call).unwrap_or_else(Answer::from);
        let changes =
            call.method != Method::GET && !session_call && !matches!(call.resource.as_str(), "systemfile" | "nsconfig");
        if changes && answer.status < 300 {
            self.partition_mut(&caller.partition).changed = true;
        }
        answer
    }

    fn route(&mut self, caller: &Caller, call: &Call) -> Outcome {
        if self.denied.contains(&(call.method.as_str().to_owned(), call.resource.clone())) {
            return Err(Refusal::new(403, code::NOT_AUTHORISED, "Not authorized to execute this command"));
        }
        match call.resource.as_str() {
            "systemfile" => files::answer(self, caller, call),
            "sslcertkey" => certkeys::answer(self, caller, call),
            "lbvserver" | "csvserver" | "sslvserver" | "service" | "servicegroup" => {
                bindings::holders(self, caller, call)
            }
            "sslcertkey_binding" | "sslcertkey_sslvserver_binding" | "sslcertkey_service_binding" => {
                bindings::of_certkey(self, caller, call)
            }
            "sslvserver_sslcertkey_binding" => bindings::answer(self, caller, call, Kind::Vserver),
            "sslservice_sslcertkey_binding" => bindings::answer(self, caller, call, Kind::Service),
            "sslservicegroup_sslcertkey_binding" => bindings::answer(self, caller, call, Kind::ServiceGroup),
            "logout" => system::log_out(self, caller),
            "nsconfig" => system::config(self, caller, call),
            "nspartition" => system::partition(self, caller, call),
            "hanode" => Ok(system::nodes(self, caller, call)),
            "nsversion" => Ok(system::version(self)),
            other => Err(Refusal::invalid(&format!("{other}: no such resource type"))),
        }
    }

    pub(super) fn partition(&self, name: &str) -> &Partition {
        static NONE: Partition =
            Partition { certkeys: BTreeMap::new(), holders: BTreeMap::new(), changed: false, saves: 0 };
        self.partitions.get(name).unwrap_or(&NONE)
    }

    pub(super) fn partition_mut(&mut self, name: &str) -> &mut Partition {
        self.partitions.entry(name.to_owned()).or_default()
    }

    /// Starts anew from what was saved, reading the files again. A pair whose files are gone, or are no pair any more,
    /// is lost, with its bindings.
    pub(super) fn restart(&mut self) {
        self.sessions.clear();
        self.partitions = self.saved.clone();
        let files = self.files.clone();
        for (name, partition) in &mut self.partitions {
            partition.changed = false;
            partition.certkeys.retain(|_, certkey| certkeys::reload(&files, name, certkey));
            let known: BTreeSet<_> = partition.certkeys.keys().cloned().collect();
            for certkey in partition.certkeys.values_mut() {
                certkey.link = certkey.link.take().filter(|link| known.contains(link));
            }
            for holder in partition.holders.values_mut() {
                holder.bindings.retain(|binding| known.contains(&binding.certkey));
            }
        }
    }
}

/// Where the certificates of a partition lie.
pub(super) fn folder(partition: &str) -> String {
    if partition.is_empty() { FOLDER.to_owned() } else { format!("/nsconfig/partitions/{partition}/ssl") }
}

/// The whole path of a file that a certificate-key pair names.
pub(super) fn path(partition: &str, name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", folder(partition)) }
}

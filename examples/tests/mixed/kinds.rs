//! Twenty targets of each kind.

use certlib_core::client::NewTarget;
use certlib_testkit::counterpart::{Account, Aiosmtpd, Kubernetes};
use certlib_testkit::f5::F5Sim;
use certlib_testkit::huawei::HuaweiSim;
use certlib_testkit::netscaler::NetscalerSim;
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::ports;
use certlib_testkit::simhost::{Service, SimHost, UserAuth};
use certlib_testkit::vault::VaultSim;
use certlib_testkit::winrm::{WinRmSim, WinRmSimBuilder, Windows, pfx_of};
use serde_json::{Value, json};

use crate::fleet::{Look, Site, endpoint};
use crate::receiver::Receiver;

const CERT: &str = "/etc/ssl/site.pem";
const KEY: &str = "/etc/ssl/site.key";
const PASSWORD: &str = "correct horse";
const WRONG: &str = "battery staple";

/// Everything that runs.
pub(crate) struct Hosts {
    pub(crate) unix: Vec<SimHost>,
    pub(crate) files: WinRmSim,
    pub(crate) sites: Vec<WinRmSim>,
    pub(crate) f5: Vec<F5Sim>,
    pub(crate) netscaler: Vec<NetscalerSim>,
    pub(crate) vault: VaultSim,
    pub(crate) huawei: Vec<HuaweiSim>,
    pub(crate) hook: Receiver,
    pub(crate) mail: Aiosmtpd,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) account: Account,
}

impl Hosts {
    pub(crate) async fn start(each: usize, factory: &Issued, kubernetes: Kubernetes, mail: Aiosmtpd) -> Self {
        let mut unix = Vec::new();
        for number in 0..each {
            let host = SimHost::builder()
                .name(format!("web-{number}"))
                .user("root", UserAuth::password(PASSWORD))
                .file(CERT, factory.full_chain(), 0o644)
                .file(KEY, factory.key_pem.clone(), 0o600)
                .service(Service::new(CERT, KEY));
            unix.push(host.start().await.unwrap());
        }
        kubernetes.create_namespace("mixed").await.unwrap();
        let rules =
            json!([{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch", "delete"] }]);
        let account = kubernetes.account("mixed", "certlib", &rules).await.unwrap();
        let (mut sites, mut f5, mut netscaler, mut huawei) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // An appliance has a certificate once: who delivers the same to several profiles has one target for them all.
        for _ in 0..each {
            sites.push(with_site(factory).await);
            f5.push(F5Sim::start().await.unwrap());
            netscaler.push(NetscalerSim::builder().vserver("", "web").start().await.unwrap());
            huawei.push(HuaweiSim::start().await.unwrap());
        }
        Self {
            unix,
            files: windows().windows(|windows| folders(windows, each)).start().await.unwrap(),
            sites,
            f5,
            netscaler,
            vault: VaultSim::start().await.unwrap(),
            huawei,
            hook: Receiver::start().await,
            mail,
            kubernetes,
            account,
        }
    }
}

/// A Windows host on which all scripts run.
fn windows() -> WinRmSimBuilder {
    WinRmSim::builder().user("Administrator", PASSWORD).certlib_scripts()
}

/// A Windows host with a site.
async fn with_site(factory: &Issued) -> WinRmSim {
    let factory = factory.clone();
    let host = windows().windows(move |windows| {
        let pfx = pfx_of(&factory, "x").unwrap();
        let thumbprint = windows.certificates.import_pfx("My", &pfx, "x", &Default::default()).unwrap();
        windows.iis.add_site("Shop");
        windows.add_binding("Shop", "https", "*:443:", 0).unwrap();
        windows.add_ssl_certificate("Shop", "*:443:", &thumbprint, "My").unwrap();
    });
    host.start().await.unwrap()
}

fn folders(windows: &mut Windows, each: usize) {
    for number in 0..each {
        windows.files.put(&format!(r"C:\tls\{number}\old.txt"), b"here".to_vec()).unwrap();
    }
}

fn site(module: &str, number: usize, config: Value, location: Value, login: Value, wrong: Value, look: Look) -> Site {
    let new = NewTarget::new(format!("{module}-{number:02}"), module, location).with_config(config);
    Site { new, login, wrong: Some(wrong), nowhere: None, look }
}

/// All targets.
pub(crate) async fn sites(hosts: &mut Hosts, each: usize, factory: &Issued, relay: &TestCa) -> Vec<Site> {
    let mut sites = Vec::new();
    hosts.vault.write("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).unwrap();
    for number in 0..each {
        sites.push(ssh(&hosts.unix[number], number));
        sites.push(winrm(&hosts.files, number));
        sites.push(iis(&hosts.sites[number], number).await);
        sites.push(f5(&hosts.f5[number], number, factory));
        sites.push(netscaler(&hosts.netscaler[number], number, factory));
        sites.push(vault(&hosts.vault, number));
        sites.push(huawei(&hosts.huawei[number], number, factory));
        sites.push(kubernetes(&hosts.kubernetes, &hosts.account, number));
        sites.push(webhook(&hosts.hook, number));
        sites.push(smtp(&hosts.mail, number, relay));
    }
    sites
}

fn connection(ca_pem: Option<&str>) -> Value {
    json!({ "addresses": { "allow_loopback": true }, "allow_http": ca_pem.is_none(), "tls": { "ca_pem": ca_pem } })
}

fn ssh(host: &SimHost, number: usize) -> Site {
    let config = json!({
        "host_key": { "known_hosts": host.known_hosts_line() },
        "test_command": "certlib-sim test",
        "reload_command": "certlib-sim reload",
        "endpoints": [endpoint(host.tls_addr())],
    });
    let at = host.ssh_addr();
    let location = json!({
        "host": at.ip().to_string(), "port": at.port(), "paths": { "fullchain": CERT, "key": KEY },
    });
    let login = |password: &str| json!({ "user": "root", "password": password });
    site("ssh", number, config, location, login(PASSWORD), login(WRONG), Look::Tls(host.tls_addr()))
}

fn ntlm(password: &str) -> Value {
    json!({ "login": { "method": "ntlm", "user": "Administrator", "password": password } })
}

fn winrm(host: &WinRmSim, number: usize) -> Site {
    let folder = format!(r"C:\tls\{number}");
    let (cert, key) = (format!(r"{folder}\site.pem"), format!(r"{folder}\site.key"));
    let location = json!({ "url": host.https_url(), "root": folder, "paths": { "fullchain": cert, "key": key } });
    let config = json!({ "connection": connection(Some(host.ca_pem())) });
    let (right, wrong) = (ntlm(PASSWORD), ntlm(WRONG));
    site("winrm", number, config, location, right, wrong, Look::WindowsFile(cert))
}

async fn iis(host: &WinRmSim, number: usize) -> Site {
    let at = host.tls_addr(443).await.unwrap();
    let bindings = json!([{ "site": "Shop" }]);
    let location = json!({ "url": host.https_url(), "bindings": bindings });
    let config = json!({ "connection": connection(Some(host.ca_pem())), "endpoints": [endpoint(at)] });
    let (right, wrong) = (ntlm(PASSWORD), ntlm(WRONG));
    site("iis", number, config, location, right, wrong, Look::Tls(at))
}

fn f5(sim: &F5Sim, number: usize, factory: &Issued) -> Site {
    let (stem, profile) = (format!("/Common/former-{number}"), format!("/Common/shop-{number}"));
    sim.install(&stem, factory).unwrap();
    sim.add_client_ssl(&profile, &[&stem]).unwrap();
    let at = sim.add_virtual(&format!("/Common/vs-{number}"), &[&profile]).unwrap();
    let config = json!({ "connection": connection(Some(sim.ca_pem())), "endpoints": [endpoint(at)], "delay_ms": 1 });
    let location = json!({ "url": sim.url(), "profiles": [{ "name": profile }] });
    let login = |password: &str| json!({ "username": F5Sim::USER, "password": password });
    site("f5", number, config, location, login(F5Sim::PASSWORD), login(WRONG), Look::Tls(at))
}

fn netscaler(sim: &NetscalerSim, number: usize, factory: &Issued) -> Site {
    sim.put_pair("", "shop", &factory.certificate_pem, &factory.key_pem).unwrap();
    sim.bind("", "web", "shop", false).unwrap();
    let at = sim.vserver("", "web").unwrap();
    let config = json!({ "connection": connection(sim.ca_pem()), "endpoints": [endpoint(at)] });
    let location = json!({ "url": sim.url(), "certkey": "shop" });
    let login = |password: &str| json!({ "username": sim.user(), "password": password });
    site("netscaler", number, config, location, login(sim.password()), login(WRONG), Look::Tls(at))
}

fn vault(sim: &VaultSim, number: usize) -> Site {
    let path = format!("tls/shop-{number}");
    let config = json!({ "connection": connection(None) });
    let location = json!({ "url": sim.address(), "mount": "secret", "path": path });
    let login = |token: &str| json!({ "method": "token", "token": token });
    let look = Look::Vault(format!("secret/data/{path}"));
    site("vault", number, config, location, login(sim.root_token()), login("hvs.wrong"), look)
}

fn huawei(sim: &HuaweiSim, number: usize, factory: &Issued) -> Site {
    let certificate = sim.put_elb_certificate(&format!("by-hand-{number}"), factory).unwrap();
    let listener = sim.add_listener("HTTPS", Some(&certificate), &[]).unwrap();
    let at = sim.listener_address(&listener).unwrap();
    let url = sim.url();
    let location = json!({
        "region": sim.region(),
        "project_id": sim.project_id(),
        "urls": { "iam": url, "scm": url, "elb": url, "cdn": url, "waf": url },
        "resource": { "service": "elb", "listener_id": listener, "use": "default" },
    });
    let config = json!({ "connection": connection(sim.ca_pem()), "endpoints": [endpoint(at)] });
    let login = |secret: &str| json!({ "access_key": sim.access_key(), "secret_key": secret });
    site("huawei", number, config, location, login(sim.secret_key()), login(WRONG), Look::Tls(at))
}

fn kubernetes(server: &Kubernetes, account: &Account, number: usize) -> Site {
    let name = format!("tls-{number}");
    let config = json!({ "connection": connection(Some(server.ca_pem())) });
    let location = json!({ "server": server.url(), "namespace": "mixed", "name": name });
    let login = |token: &str| json!({ "token": token });
    let look = Look::Secret(format!("/api/v1/namespaces/mixed/secrets/{name}"));
    site("kubernetes", number, config, location, login(account.token()), login("wrong"), look)
}

fn webhook(receiver: &Receiver, number: usize) -> Site {
    let path = format!("/hook/{number}");
    let config = json!({ "allow_http": true, "addresses": { "allow_loopback": true } });
    let location = json!({ "url": format!("http://{}{path}", receiver.addr) });
    let login = json!({ "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" });
    let mut site = site("webhook", number, config, location, login, Value::Null, Look::Hook(path));
    site.nowhere = Some(json!({ "url": format!("http://{}/", ports::free_addr().unwrap()) }));
    site
}

fn smtp(server: &Aiosmtpd, number: usize, relay: &TestCa) -> Site {
    let recipient = format!("ops-{number:02}@example.com");
    let config = json!({
        "from": "certs@example.com",
        "addresses": { "allow_loopback": true },
        "tls": { "ca_pem": relay.certificate_pem() },
    });
    let at = |port: u16| json!({ "host": "127.0.0.1", "port": port, "server_name": "mail.test", "to": [recipient] });
    let login = json!({ "username": server.login().user(), "password": server.login().password() });
    let location = at(server.addr().port());
    let mut site = site("smtp", number, config, location, login, Value::Null, Look::Mail(recipient.clone()));
    site.nowhere = Some(at(ports::free_addr().unwrap().port()));
    site
}

//! Ways to log in, and what a stored kubeconfig may not do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Effect, ErrorClass};
use certlib_modules::kubernetes::{InCluster, Kubernetes as Module};
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};

use crate::common::{Subject, journal, served};
use crate::support::{Certificates, NAME, Place, server};

/// A kubeconfig with one context: `cluster` and `user` are what is in it.
fn kubeconfig(cluster: &Value, user: &Value, namespace: &str) -> String {
    // JSON is YAML.
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": namespace}}],
    })
    .to_string()
}

fn cluster(place: &Place<'_>) -> Value {
    json!({"server": place.server.url(), "certificate-authority-data": STANDARD.encode(place.server.ca_pem())})
}

/// The module with a target whose CA and namespace come with the login.
fn subject(place: &Place<'_>, module: Module, credentials: Value) -> Subject {
    let mut subject = place.subject_of(module, json!({}), credentials);
    subject.target.config = json!({"connection": {"addresses": {"allow_loopback": true}}});
    subject.target.location = json!({"name": NAME});
    subject
}

async fn delivers(subject: &Subject, place: &Place<'_>, certificates: &Certificates) {
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    assert!(served(&subject.validate(certificates.bundle(0)).await.unwrap()));
    assert_eq!(place.served().await, certificates.issued(0).fingerprint);
}

#[tokio::test]
async fn a_kubeconfig_brings_server_ca_namespace_and_token() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let text = kubeconfig(&cluster(&place), &json!({"token": place.account.token()}), &place.namespace);
    delivers(&subject(&place, Module::new(), json!({"kubeconfig": text})), &place, &certificates).await;

    // As YAML, with another context, and a server by name whose certificate is for another one.
    let place = Place::new(server).await;
    let (port, ca, token) = (server.addr().port(), STANDARD.encode(server.ca_pem()), place.account.token());
    let namespace = &place.namespace;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: nowhere\nclusters:\n- name: k\n  cluster:\n    \
         server: https://127.0.0.1:{port}\n    tls-server-name: localhost\n    certificate-authority-data: {ca}\n\
         contexts:\n- name: here\n  context: {{cluster: k, user: u, namespace: {namespace}}}\n\
         users:\n- name: u\n  user:\n    token: {token}\n"
    );
    let mut named = subject(&place, Module::new(), json!({"kubeconfig": text}));
    named.target.location["context"] = json!("here");
    delivers(&named, &place, &certificates).await;
}

#[tokio::test]
async fn client_certificates_log_in_too() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    let (certificate, key) = server.client_certificate("deployer", "system:masters").unwrap();
    let place = Place::new(server).await;
    let user =
        json!({"client-certificate-data": STANDARD.encode(&certificate), "client-key-data": STANDARD.encode(&key)});
    let text = kubeconfig(&cluster(&place), &user, &place.namespace);
    delivers(&subject(&place, Module::new(), json!({"kubeconfig": text})), &place, &certificates).await;

    let place = Place::new(server).await;
    let credentials = json!({"client_certificate": {"certificate_pem": certificate, "private_key_pem": key}});
    delivers(&place.subject_of(Module::new(), json!({}), credentials), &place, &certificates).await;
}

#[tokio::test]
async fn pods_log_in_with_their_service_account() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let folder = tempfile::tempdir().unwrap();
    let pod = InCluster::new(server.addr().ip().to_string(), server.addr().port(), folder.path());
    let module = || Module::new().with_in_cluster(pod.clone());
    let subject = subject(&place, module(), json!({"in_cluster": true}));
    let error = subject.plan(certificates.bundle(0)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("in_cluster_unreadable", ErrorClass::IoPermanent));

    for (name, content) in [("token", "over"), ("ca.crt", server.ca_pem()), ("namespace", &place.namespace)] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    assert_eq!(subject.plan(certificates.bundle(0)).await.unwrap_err().code(), "unauthorized");
    // The kubelet writes a new token while the process runs.
    std::fs::write(folder.path().join("token"), format!("{}\n", place.account.token())).unwrap();
    delivers(&subject, &place, &certificates).await;
}

fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("plugin.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn commands_run_only_where_the_host_allows_it() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let version = "client.authentication.k8s.io/v1";
    let answer = json!({"kind": "ExecCredential", "apiVersion": version, "status": {"token": place.account.token()}});
    let command = script(
        folder.path(),
        &format!("echo \"$1 $WHO $KUBERNETES_EXEC_INFO\" >{}\necho '{answer}'\necho canary >&2", ran.display()),
    );
    let exec = |command: &str| {
        let exec = json!({"apiVersion": version, "command": command, "args": ["one"], "interactiveMode": "Never",
            "env": [{"name": "WHO", "value": "me"}]});
        json!({"kubeconfig": kubeconfig(&cluster(&place), &json!({"exec": exec}), &place.namespace)})
    };
    let refused = subject(&place, Module::new(), exec(&command));
    let error = refused.module.check(&refused.target).unwrap_err();
    assert_eq!((error.code(), error.class()), ("exec_refused", ErrorClass::Validation));
    assert_eq!(refused.plan(certificates.bundle(0)).await.unwrap_err().code(), "exec_refused");
    assert!(!ran.exists());

    let allowed = || Module::new().allow_exec_plugins();
    delivers(&subject(&place, allowed(), exec(&command)), &place, &certificates).await;
    let told = std::fs::read_to_string(&ran).unwrap();
    assert!(told.starts_with("one me {") && told.contains(version), "{told}");

    for text in
        ["exit 3", "echo canary", "echo '{\"apiVersion\": \"v0\", \"status\": {\"token\": \"canary\"}}'", "yes canary"]
    {
        let broken = subject(&place, allowed(), exec(&script(folder.path(), text)));
        let error = broken.plan(certificates.bundle(0)).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("exec_failed", Effect::None), "{text}: {error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    let missing = subject(&place, allowed(), exec("/no/such/plugin"));
    assert_eq!(missing.plan(certificates.bundle(0)).await.unwrap_err().code(), "exec_failed");
}

#[tokio::test]
async fn the_server_is_verified_unless_said_twice() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let user = json!({"token": place.account.token()});
    let stranger = TestCa::new("stranger").unwrap();
    let foreign =
        json!({"server": server.url(), "certificate-authority-data": STANDARD.encode(stranger.certificate_pem())});
    let text = kubeconfig(&foreign, &user, &place.namespace);
    let error =
        subject(&place, Module::new(), json!({"kubeconfig": text})).plan(certificates.bundle(0)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("tls_untrusted", ErrorClass::Auth), "{error:?}");

    let mut wrong_name = cluster(&place);
    wrong_name["tls-server-name"] = json!("api.example.com");
    let text = kubeconfig(&wrong_name, &user, &place.namespace);
    let error =
        subject(&place, Module::new(), json!({"kubeconfig": text})).plan(certificates.bundle(0)).await.unwrap_err();
    assert_eq!(error.code(), "tls_untrusted", "{error:?}");

    let insecure = json!({"server": server.url(), "insecure-skip-tls-verify": true});
    let text = kubeconfig(&insecure, &user, &place.namespace);
    let mut subject = subject(&place, Module::new(), json!({"kubeconfig": text}));
    for tls in [json!({}), json!({"acknowledge_insecure": true}), json!({"insecure_skip_verify": true})] {
        subject.target.config["connection"]["tls"] = tls;
        assert_eq!(subject.plan(certificates.bundle(0)).await.unwrap_err().code(), "insecure_not_acknowledged");
    }
    subject.target.config["connection"]["tls"] = json!({"insecure_skip_verify": true, "acknowledge_insecure": true});
    delivers(&subject, &place, &certificates).await;
}

#[tokio::test]
async fn only_admitted_addresses_are_dialled() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    for (host, server_name) in [("127.0.0.1", None), ("localhost", None), ("127.0.0.1", Some("localhost"))] {
        let mut cluster = cluster(&place);
        cluster["server"] = json!(format!("https://{host}:{}", server.addr().port()));
        if let Some(name) = server_name {
            cluster["tls-server-name"] = json!(name);
        }
        let text = kubeconfig(&cluster, &json!({"token": place.account.token()}), &place.namespace);
        let mut subject = subject(&place, Module::new(), json!({"kubeconfig": text}));
        subject.target.config = json!({});
        let error = subject.plan(certificates.bundle(0)).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("address_forbidden", Effect::None), "{host}: {error:?}");
    }
}

/// No server is asked: all of this is wrong in itself.
#[test]
fn bad_settings_are_named() {
    let module = certlib_modules::registry().unwrap().module("kubernetes").unwrap();
    let check = |config: &Value, location: &Value, credentials: &Value| {
        let credentials = Some(credentials.to_string().into());
        let target = certlib_core::module::TargetSpec::new("t", "t", config.clone(), location.clone(), credentials);
        module.check(&target)
    };
    let location = json!({"server": "https://k8s.example.com", "namespace": "shop", "name": "www"});
    let token = json!({"token": "canary-token"});
    check(&json!({}), &location, &token).unwrap();

    for (config, code) in [
        (json!({"field_manager": ""}), "manager_invalid"),
        (json!({"field_manager": "a b"}), "manager_invalid"),
        (json!({"secret_type": ""}), "secret_type_invalid"),
        (json!({"labels": {"a b": "c"}}), "label_invalid"),
        (json!({"labels": {"a": "b c"}}), "label_invalid"),
        (json!({"annotations": {"/a": "b"}}), "annotation_invalid"),
        (json!({"annotations": {"certlib.io/fingerprint": "b"}}), "annotation_invalid"),
        (json!({"extra_keys": {"tls.key": "key"}}), "data_key_invalid"),
        (json!({"extra_keys": {"a/b": "key"}}), "data_key_invalid"),
        (json!({"ca_crt": true, "extra_keys": {"ca.crt": "chain"}}), "data_key_invalid"),
        (json!({"extra_keys": {"a": "pfx"}}), "config_invalid"),
        (json!({"endpoints": [{"host": ""}]}), "endpoint_invalid"),
        (json!({"connection": {"timeouts": {"total_ms": 0}}}), "timeout_invalid"),
        (json!({"connection": {"tls": {"ca_pem": "x"}}}), "ca_invalid"),
        (json!({"connection": {"tls": {"insecure_skip_verify": true}}}), "insecure_not_acknowledged"),
    ] {
        let error = check(&config, &location, &token).unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Validation), "{config}");
    }
    for (location, code) in [
        (json!({"server": "https://k8s.example.com"}), "location_invalid"),
        (json!({"name": "www"}), "server_missing"),
        (json!({"server": "http://k8s.example.com", "name": "www"}), "url_invalid"),
        (json!({"server": "https://10.0.0.1", "name": "www"}), "address_forbidden"),
        (json!({"server": "https://k8s.example.com", "name": "../www"}), "name_invalid"),
        (json!({"server": "https://k8s.example.com", "name": "{common_name}"}), "name_invalid"),
        (json!({"server": "https://k8s.example.com", "name": "www", "namespace": "a.b"}), "name_invalid"),
    ] {
        assert_eq!(check(&json!({}), &location, &token).unwrap_err().code(), code, "{location}");
    }

    let (cluster, user) = (json!({"server": "https://k8s.example.com"}), json!({"token": "canary-token"}));
    let from = |cluster: &Value, user: &Value| json!({"kubeconfig": kubeconfig(cluster, user, "shop")});
    let with = |value: &Value, key: &str, more: Value| {
        let mut value = value.clone();
        value[key] = more;
        value
    };
    let name = json!({"name": "www"});
    check(&json!({}), &name, &from(&cluster, &user)).unwrap();
    let secret = json!(STANDARD.encode("canary"));
    for (credentials, code) in [
        (json!({}), "login_ambiguous"),
        (json!({"token": "t", "in_cluster": true}), "login_ambiguous"),
        (json!({"in_cluster": true}), "not_in_cluster"),
        (json!({"kubeconfig": "canary: ["}), "kubeconfig_invalid"),
        (json!({"kubeconfig": "canary"}), "kubeconfig_invalid"),
        (json!({"kubeconfig": "{}"}), "kubeconfig_invalid"),
        (json!({"kubeconfig": format!("a: {}", "&a [*a]".repeat(400_000))}), "kubeconfig_invalid"),
        (from(&json!({}), &user), "kubeconfig_invalid"),
        (from(&cluster, &json!({})), "kubeconfig_invalid"),
        (from(&with(&cluster, "server", json!("https://10.0.0.1")), &user), "address_forbidden"),
        (from(&with(&cluster, "server", json!("http://k8s.example.com")), &user), "url_invalid"),
        (from(&with(&cluster, "proxy-url", json!("http://proxy")), &user), "kubeconfig_unsupported"),
        (from(&with(&cluster, "certificate-authority", json!("/etc/ca")), &user), "kubeconfig_file"),
        (from(&with(&cluster, "certificate-authority-data", json!("%")), &user), "kubeconfig_invalid"),
        (from(&with(&cluster, "certificate-authority-data", secret.clone()), &user), "ca_invalid"),
        (from(&with(&cluster, "insecure-skip-tls-verify", json!(true)), &user), "insecure_not_acknowledged"),
        (from(&with(&cluster, "tls-server-name", json!("10.0.0.1")), &user), "server_name_invalid"),
        (from(&cluster, &json!({"tokenFile": "/etc/shadow"})), "kubeconfig_file"),
        (from(&cluster, &json!({"client-certificate": "/a", "client-key": "/b"})), "kubeconfig_file"),
        (from(&cluster, &json!({"client-certificate-data": secret, "client-key": "/b"})), "kubeconfig_file"),
        (from(&cluster, &json!({"client-certificate-data": secret, "client-key-data": secret})), "identity_invalid"),
        (from(&cluster, &json!({"username": "u", "password": "canary"})), "kubeconfig_unsupported"),
        (from(&cluster, &with(&user, "as", json!("root"))), "kubeconfig_unsupported"),
        (from(&cluster, &with(&user, "as-groups", json!(["system:masters"]))), "kubeconfig_unsupported"),
        (
            from(&cluster, &json!({"auth-provider": {"name": "gcp", "config": {"cmd-path": "/bin/sh"}}})),
            "kubeconfig_unsupported",
        ),
        (from(&cluster, &with(&user, "exec", json!({"command": "/bin/sh"}))), "exec_refused"),
    ] {
        let location = if credentials.get("token").is_some() { &location } else { &name };
        let error = check(&json!({}), location, &credentials).unwrap_err();
        let shown = credentials.to_string().chars().take(300).collect::<String>();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Validation), "{shown}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    let error = check(&json!({}), &location, &from(&cluster, &user)).unwrap_err();
    assert_eq!(error.code(), "server_superfluous");
    let error = check(&json!({}), &json!({"name": "www", "context": "other"}), &from(&cluster, &user)).unwrap_err();
    assert_eq!(error.code(), "kubeconfig_invalid");
}

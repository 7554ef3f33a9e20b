//! Scripts that Rust executes, in every way that they can arrive, and what the host serves afterwards.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certlib_testkit::{
    pki::TestCa,
    tls::leaf_fingerprint,
    winrm::{
        Bootstrap, CENTRAL_STORE, ImportOptions, SNI, ScriptMatcher, ScriptOutput, SslEntry, SslKey, Windows,
        WindowsError, pfx_of, thumbprint,
    },
};
use serde_json::{Value, json};

use crate::{builder, client::Client};

fn write(input: &Value, windows: &mut Windows) -> Result<Value, WindowsError> {
    let text = |name: &str| input[name].as_str().ok_or_else(|| WindowsError::invalid_parameter(name));
    windows.files.write(text("path")?, text("text")?.as_bytes())?;
    Ok(json!({ "sha256": windows.files.sha256(text("path")?)? }))
}

#[tokio::test]
async fn twins_get_json_and_give_json() {
    let host = builder().twin("write", write).start().await.unwrap();
    let client = Client::new(&host);
    let script = "# certlib:write:3\r\n$in = [Console]::In.ReadToEnd() | ConvertFrom-Json";
    let input = json!({ "path": "C:\\Windows\\Temp\\ü", "text": "grüße" }).to_string();
    let ran = client.script(script, Some(input.as_bytes())).await;
    let output: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(output["sha256"], host.with(|windows| windows.files.sha256("C:\\Windows\\Temp\\Ü")).unwrap());
    assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", 0));
    for (input, code) in
        [("{}", "80070057"), ("no json", "80070057"), (r#"{"path":"C:\\no\\f","text":""}"#, "80070003")]
    {
        let ran = client.script(script, Some(input.as_bytes())).await;
        assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", 1));
        assert!(ran.stderr.starts_with("#< CLIXML\r\n") && ran.stderr.contains(code), "{}", ran.stderr);
    }
    let executed = &host.executed()[0];
    let marker = executed.marker.as_ref().unwrap();
    assert_eq!((marker.name.as_str(), marker.version.as_str()), ("write", "3"));
    assert_eq!((executed.stdin, executed.user.as_str()), (input.len(), crate::USER));
    assert!(executed.script.as_ref().unwrap().contains("ConvertFrom-Json"));
    assert!(!format!("{executed:?}").contains("grüße"), "standard input is not kept");
}

#[tokio::test]
async fn a_bootstrap_fetches_the_real_script() {
    let open = |call: &certlib_testkit::winrm::ScriptCall| {
        let text = call.text();
        let mut parts =
            text.lines().map(|line| STANDARD.decode(line).ok().and_then(|line| String::from_utf8(line).ok()));
        let mut next = || parts.next().flatten().ok_or_else(|| WindowsError::invalid_parameter("input"));
        let (script, data) = (next()?, next()?);
        Ok((script, serde_json::from_str(&data).map_err(WindowsError::invalid_parameter)?))
    };
    let close = |outcome: Result<Value, WindowsError>| match outcome {
        Ok(value) => ScriptOutput::text(format!("ok {value}\r\n")),
        Err(error) => ScriptOutput::text(format!("error {:08x}\r\n", error.code)).exit(1),
    };
    let host = builder()
        .twin("write", write)
        .bootstrap(ScriptMatcher::marker("boot"), Bootstrap::new(open, close))
        .start()
        .await
        .unwrap();
    let client = Client::new(&host);
    let boot = "# certlib:boot 1\n$lines = [Console]::OpenStandardInput()";
    let wrap = |script: &str, data: &Value| {
        format!("{}\r\n{}\r\n", STANDARD.encode(script), STANDARD.encode(data.to_string()))
    };
    let data = json!({ "path": "C:\\Windows\\Temp\\f", "text": "x" });
    let ran = client.script(boot, Some(wrap("# certlib:write 1\nparam($d)", &data).as_bytes())).await;
    assert!(ran.stdout.starts_with("ok {\"sha256\":\"2d71"), "{ran:?}");
    assert_eq!((host.count("write"), host.count("boot")), (1, 0));
    let ran = client.script(boot, Some(wrap("# certlib:none 1", &data).as_bytes())).await;
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("error 80070490\r\n", 1));
    assert_eq!(client.script(boot, Some(b"")).await.stdout, "error 80070057\r\n");
}

#[tokio::test]
async fn scripts_of_certlib_are_carried_out_only_as_they_are_known() {
    let host = builder().certlib_scripts().start().await.unwrap();
    let client = Client::new(&host);
    // Neither is the text of that name which the test kit was made for.
    for script in ["# certlib:files.look 1\nparam($in)", "# certlib:bootstrap 1\n[Console]::OpenStandardInput()"] {
        let ran = client.script(script, Some(b"{}")).await;
        assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", 1), "{ran:?}");
        assert!(ran.stderr.contains("script_unknown_to_testkit"), "{}", ran.stderr);
    }
    // One's own of that name goes before it, whatever its text.
    let own = builder().certlib_scripts().twin("files.look", |_, _| Ok(json!("own"))).start().await.unwrap();
    let ran = Client::new(&own).script("# certlib:files.look 1\n[Console]::In", Some(b"{}")).await;
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("\"own\"\r\n", 0));
}

#[tokio::test]
async fn handlers_are_found_by_program_and_text() {
    let host = builder()
        .script(ScriptMatcher::program("appcmd"), |call, windows| {
            windows.iis.add_site(call.argv.get(1).map_or("", String::as_str));
            ScriptOutput::text(format!("{} of {}\r\n", call.argv.len(), call.user))
        })
        .script(ScriptMatcher::contains("get-special"), |call, _| {
            ScriptOutput::failure(7, format!("{}\r\n", call.environment["COMPUTERNAME"]))
        })
        .start()
        .await
        .unwrap();
    let client = Client::new(&host);
    let ran = client.run("C:\\Windows\\System32\\inetsrv\\AppCmd.exe \"My Site\" & hostname", None).await;
    assert_eq!(ran.stdout, "2 of Administrator\r\nWINSIM\r\n");
    assert!(host.with(|windows| windows.iis.site("my site").is_ok()));
    let ran = client.script("Get-Special -Thing", None).await;
    assert_eq!((ran.stderr.as_str(), ran.exit_code), ("WINSIM\r\n", 7));
}

#[tokio::test]
async fn what_is_too_much_fails_and_harms_nobody() {
    let host = builder().start().await.unwrap();
    let client = Client::new(&host);
    let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    for script in [deep.as_str(), "1..999999999999", "@(", "\"$(\"", "$x = ", "'é' +"] {
        let ran = client.run("powershell -Command -", Some(script.as_bytes())).await;
        let start: String = script.chars().take(20).collect();
        assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", 1), "{start}");
        assert!(ran.stderr.contains("CategoryInfo"), "{start}: {}", ran.stderr);
    }
    let ran = client.run("powershell -Command -", Some("'aé'+'é'+\"$('ü')\"; 'ä' * 3".as_bytes())).await;
    assert_eq!(ran.stdout, "aééü\r\näää\r\n");
    for line in ["a | b", "&& b", "echo >", "cd C:\\none", "copy C:\\none C:\\other", "type"] {
        let ran = client.run(line, None).await;
        assert!(ran.exit_code != 0 && !ran.stderr.is_empty() && ran.stdout.is_empty(), "{line}: {ran:?}");
    }
}

#[tokio::test]
async fn progress_is_reported_unless_it_is_silenced() {
    let host = builder().progress().start().await.unwrap();
    let client = Client::new(&host);
    let noisy = client.script("'x'", None).await;
    assert!(noisy.stderr.contains("S=\"progress\"") && noisy.exit_code == 0, "{noisy:?}");
    assert_eq!(client.script("$ProgressPreference='SilentlyContinue'; 'x'", None).await.stderr, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_bound_is_served() {
    let ca = TestCa::new("root").unwrap();
    let issued: Vec<_> = ["one.test", "two.test", "three.test"].map(|name| ca.issue(&[name]).unwrap()).into();
    let host = builder()
        .windows(|windows| {
            windows.iis.add_site("Web");
            windows.add_binding("Web", "https", "*:443:", 0).unwrap();
            windows.add_binding("Web", "https", "*:443:two.test", SNI).unwrap();
            windows.files.add_volume("\\\\files\\ccs");
            windows.iis.central_store.enabled = true;
            windows.iis.central_store.path = "\\\\files\\ccs".into();
            windows.iis.central_store.password = "pw".into();
            windows.add_binding("Web", "https", "*:8443:three.test", SNI | CENTRAL_STORE).unwrap();
        })
        .start()
        .await
        .unwrap();
    let (addr, other) = (host.tls_addr(443).await.unwrap(), host.tls_addr(8443).await.unwrap());
    assert_eq!(host.tls_addr(443).await.unwrap(), addr);
    assert!(leaf_fingerprint(addr, "one.test").await.is_err(), "nothing is bound yet");
    let import = |windows: &mut Windows, at: usize| {
        let pfx = pfx_of(&issued[at], "pw").unwrap();
        windows.certificates.import_pfx("My", &pfx, "pw", &ImportOptions::default()).unwrap()
    };
    host.with(|windows| {
        let (one, two) = (import(windows, 0), import(windows, 1));
        windows.add_ssl_certificate("Web", "*:443:", &one, "My").unwrap();
        windows.add_ssl_certificate("Web", "*:443:two.test", &two, "My").unwrap();
    });
    assert_eq!(leaf_fingerprint(addr, "one.test").await.unwrap(), issued[0].fingerprint);
    assert_eq!(leaf_fingerprint(addr, "two.test").await.unwrap(), issued[1].fingerprint);
    // The central store: a file for the name, or for the wildcard above it.
    assert!(leaf_fingerprint(other, "three.test").await.is_err());
    host.with(|windows| {
        windows.files.put("\\\\files\\ccs\\three.test.pfx", pfx_of(&issued[2], "pw").unwrap()).unwrap()
    });
    assert_eq!(leaf_fingerprint(other, "three.test").await.unwrap(), issued[2].fingerprint);
    host.with(|windows| windows.files.set_reachable("\\\\files\\ccs", false));
    assert!(leaf_fingerprint(other, "three.test").await.is_err());
    // A stopped site, a removed certificate and an entry of somebody else.
    host.with(|windows| windows.iis.site_mut("Web").unwrap().started = false);
    assert!(leaf_fingerprint(addr, "one.test").await.is_err());
    host.with(|windows| {
        windows.iis.site_mut("Web").unwrap().started = true;
        let der = pem_der(&issued[1].certificate_pem);
        windows.certificates.remove("My", &thumbprint(&der)).unwrap();
    });
    assert!(leaf_fingerprint(addr, "two.test").await.is_err());
    assert_eq!(leaf_fingerprint(addr, "one.test").await.unwrap(), issued[0].fingerprint);
    host.with(|windows| {
        let third = import(windows, 2);
        let entry = SslEntry::new(&third, "My", "{00000000-0000-0000-0000-000000000000}");
        windows.http_sys.update(&SslKey::IpPort("0.0.0.0".into(), 443), entry).unwrap();
    });
    assert_eq!(leaf_fingerprint(addr, "one.test").await.unwrap(), issued[2].fingerprint);
    let shown = Client::new(&host).run("netsh http show sslcert", None).await.stdout;
    assert!(shown.contains("0.0.0.0:443") && shown.contains("two.test:443"), "{shown}");
}

fn pem_der(pem: &str) -> Vec<u8> {
    pem::parse(pem).unwrap().into_contents()
}

//! Commands, taught and built in.

use std::time::Duration;

use certlib_testkit::{simhost::Action, tls};
use russh::{
    ChannelMsg, Sig,
    client::{self},
};
use tokio::time::timeout;

use crate::support::*;

#[tokio::test]
async fn the_built_in_commands_do_what_a_shell_would() {
    let host = builder().file("/srv/it's a", "old", 0o640).file("/srv/b", "new", 0o600).start().await.unwrap();
    let client = connect(&host).await.unwrap();
    let table: &[(&str, u32, &str)] = &[
        ("true", 0, ""),
        ("false", 1, ""),
        ("no-such-program --x", 127, ""),
        ("/usr/bin/no-such-program", 127, ""),
        (r"cat '/srv/it'\''s a'", 0, "old"),
        (r"/bin/sh -c 'mv -f -- '\''/srv/b'\'' '\''/srv/it'\''\'\'''\''s a'\'''", 0, ""),
        (r#"cat "/srv/it's a""#, 0, "new"),
        ("cat /srv/b", 1, ""),
        ("cat /srv/b 2>/dev/null || echo gone", 0, "gone\n"),
        ("command -v mv", 0, "/usr/bin/mv\n"),
        ("command -v certlib-sim >/dev/null 2>&1 && echo yes", 0, "yes\n"),
        ("command -v nginx", 1, ""),
        ("sync -f /srv", 0, ""),
        ("sync -f /none", 1, ""),
        ("mkdir -p /srv/x/y && test -d /srv/x/y && echo made > /srv/x/y/z; cat /srv/x/y/z", 0, "made\n"),
        ("sudo -n cp /srv/x/y/z /srv/x && sudo chmod 600 /srv/x/z && chown root:5 /srv/x/z", 0, ""),
        ("rm /srv/none", 1, ""),
        ("rm -f /srv/none; [ ! -e /srv/none ]", 0, ""),
        ("ln -s x /srv/lnk && test -L /srv/lnk", 0, ""),
        ("sh -c 'exit 3'", 3, ""),
        ("sha256sum /srv/x/z | cut -c1-64", 2, ""),
        ("echo 'open", 2, ""),
    ];
    for (command, status, stdout) in table {
        let ran = client.run(command).await;
        assert_eq!(ran.status, Some(*status), "{command}: {}", ran.stderr);
        assert_eq!(String::from_utf8_lossy(&ran.stdout), *stdout, "{command}");
        if *status == 0 {
            assert_eq!(ran.stderr, "", "{command}");
        }
    }
    let copied = host.info("/srv/x/z").unwrap();
    assert_eq!((copied.mode, copied.gid), (0o600, 5));
    assert_eq!(host.commands().len(), table.len());
    let sum = client.run("sha256sum /srv/x/z").await;
    assert_eq!(String::from_utf8(sum.stdout).unwrap(), format!("{}  /srv/x/z\n", tls::fingerprint(b"made\n")));

    let piped = client.run_with("sudo -n tee /srv/tee > /dev/null && cat /srv/tee", b"typed").await;
    assert_eq!((piped.status, &piped.stdout[..]), (Some(0), &b"typed"[..]));
    let big = vec![b'z'; 3 << 20];
    assert_eq!(client.run_with("cat > /srv/big", &big).await.status, Some(0));
    assert_eq!(client.run("cat /srv/big").await.stdout, big, "more than one window of data");
}

#[tokio::test]
async fn commands_can_be_taught() {
    let reply = |exit_code| Action::Reply { exit_code, stdout: "out".into(), stderr: "err".into() };
    let host = builder()
        .command("nginx -t", Action::Sequence(vec![reply(1), reply(0)]))
        .command("systemctl reload nginx", Action::Reload)
        .start()
        .await
        .unwrap();
    let client = connect(&host).await.unwrap();
    assert_eq!(client.run("command -v nginx").await.status, Some(0));
    for expected in [1, 0, 0] {
        let ran = client.run("/bin/sh -c 'nginx  -t'").await;
        assert_eq!((ran.status, &ran.stdout[..], ran.stderr.as_str()), (Some(expected), &b"out"[..], "err"));
    }
    assert_eq!(client.run("nginx -T").await.status, Some(127));

    let new = renewed();
    host.put_file(CERTIFICATE, new.certificate_pem(), 0o644).unwrap();
    host.put_file(KEY, new.key_pem(), 0o600).unwrap();
    assert_eq!(client.run("nginx -t && systemctl reload nginx").await.status, Some(0));
    assert_eq!(served(&host).await, new.fingerprint());
    host.set_command("nginx -t", Action::Hang).unwrap();

    let mut channel = client.session().await.unwrap();
    channel.exec(true, "nginx -t").await.unwrap();
    assert!(matches!(within(channel.wait()).await, Some(ChannelMsg::Success)));
    assert!(timeout(Duration::from_millis(100), channel.wait()).await.is_err(), "it hangs");
    channel.signal(Sig::TERM).await.unwrap();
    let ran = collect(&mut channel).await;
    assert!(ran.signal && ran.status.is_none());
}

#[tokio::test]
async fn a_host_forwards_to_other_hosts_as_a_jump_host_does() {
    let (jump, inner) = (builder().start().await.unwrap(), builder().start().await.unwrap());
    let first = connect(&jump).await.unwrap();
    let port = u32::from(inner.ssh_addr().port());
    let tunnel = first.0.channel_open_direct_tcpip("127.0.0.1", port, "127.0.0.1", 0).await.unwrap();
    let pinned = Pinned(inner.host_key_fingerprint());
    let mut second = within(client::connect_stream(config(), tunnel.into_stream(), pinned)).await.unwrap();
    assert!(second.authenticate_password("root", PASSWORD).await.unwrap().success());
    assert_eq!(Client(second).run("true").await.status, Some(0));
    assert_eq!(inner.commands(), ["true"]);
    assert!(first.0.channel_open_direct_tcpip("192.0.2.1", 22, "127.0.0.1", 0).await.is_err());
}

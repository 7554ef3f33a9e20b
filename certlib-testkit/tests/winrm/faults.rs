//! Everything the host can do wrong, seen by a plain client.

use std::time::{Duration, Instant};

use certlib_testkit::{
    process::poll_until,
    winrm::{Change, Fault, Injection, Operation, WinRmSim, Windows, WindowsError},
};
use serde_json::{Value, json};

use crate::{
    builder,
    client::{Client, command_id, encoded},
};

const SCRIPT: &str = "# certlib:touch:1\r\n[Console]::In.ReadToEnd()";

/// A host with a script that writes a file.
async fn host() -> WinRmSim {
    let twin = |input: &Value, windows: &mut Windows| {
        let path = input["path"].as_str().ok_or_else(|| WindowsError::invalid_parameter("path"))?;
        windows.files.append(path, b"x")?;
        Ok(json!({ "size": windows.files.info(path)?.size }))
    };
    builder().twin("touch", twin).start().await.unwrap()
}

#[tokio::test]
async fn answers_that_are_no_output_leave_the_command_alone() {
    let host = host().await;
    let client = Client::new(&host);
    let shell = client.open().await.unwrap();
    let command = command_id(&client.command(&shell, "ver").await.unwrap());
    let cases = [
        (Fault::TimedOut, 500, Some(2_150_858_793)),
        (Fault::AccessDenied, 500, Some(5)),
        (Fault::ShellQuota, 500, Some(2_150_859_173)),
        (Fault::OperationQuota, 500, Some(2_150_859_174)),
        (Fault::LoginExpired, 401, None),
        (Fault::Wsman { code: 77, subcode: "w:InternalError".into(), reason: "so <it> is".into() }, 500, Some(77)),
        (Fault::Answer { status: 503, content_type: "text/html".into(), body: "<html>".into() }, 503, None),
    ];
    for (fault, status, code) in cases {
        host.inject(Injection::new(fault.clone()).on(Operation::Receive).times(2));
        for _ in 0..2 {
            let answer = client.receive(&shell, &command).await.unwrap();
            assert_eq!((answer.status, answer.fault()), (status, code), "{fault:?}: {answer:?}");
        }
    }
    assert!(client.finish(&shell, &command).await.stdout.contains("10.0.20348"));
}

#[tokio::test]
async fn a_lost_request_did_nothing_and_a_lost_answer_did_everything() {
    let host = host().await;
    let client = Client::new(&host);
    let path = "C:\\Windows\\Temp\\f";
    let input = json!({ "path": path }).to_string();
    let size = || host.with(|windows| windows.files.info(path).map(|info| info.size).unwrap_or(0));
    for (fault, after) in [(Fault::LoseRequest, 0), (Fault::LoseReply, 1)] {
        host.inject(Injection::new(fault).on_script("touch").times(1));
        let shell = client.open().await.unwrap();
        let command = command_id(&client.command(&shell, &encoded(SCRIPT)).await.unwrap());
        assert!(client.input(&shell, &command, input.as_bytes()).await.is_err(), "the connection was cut");
        assert_eq!(size(), after);
    }
    assert_eq!(host.count("touch"), 1);
    let cut = host.history().into_iter().filter(|record| record.status.is_none()).collect::<Vec<_>>();
    assert_eq!(cut.iter().map(|record| record.operation).collect::<Vec<_>>(), [Operation::Send, Operation::Send]);
}

#[tokio::test]
async fn the_same_question_gets_the_same_output() {
    let host = host().await;
    let client = Client::new(&host);
    let shell = client.open().await.unwrap();
    let command = command_id(&client.command(&shell, "echo once").await.unwrap());
    host.inject(Injection::new(Fault::LoseReply).on(Operation::Receive).times(1));
    assert!(client.receive_as("uuid:a", &shell, &command).await.is_err());
    let again = client.receive_as("uuid:a", &shell, &command).await.unwrap();
    assert!(again.body.contains("b25jZQ0K") && again.body.contains("CommandState/Done"), "{again:?}");
    let other = client.receive_as("uuid:b", &shell, &command).await.unwrap();
    assert!(!other.body.contains("b25jZQ0K"), "output is given once: {other:?}");
}

#[tokio::test]
async fn somebody_else_is_faster() {
    let host = host().await;
    let client = Client::new(&host);
    let change = Change::new(|windows| windows.files.put("C:\\Windows\\Temp\\f", "theirs").unwrap());
    host.inject(Injection::new(Fault::Meanwhile(change)).on_script("touch").times(1));
    let input = json!({ "path": "C:\\Windows\\Temp\\f" }).to_string();
    let ran = client.script(SCRIPT, Some(input.as_bytes())).await;
    assert_eq!(ran.stdout, "{\"size\":7}\r\n");
    assert_eq!(host.with(|windows| windows.files.read("C:\\Windows\\Temp\\f")).unwrap(), b"theirsx");
}

#[tokio::test]
async fn lost_shells_are_not_found_and_slow_hosts_are_slow() {
    let host = host().await;
    let client = Client::new(&host);
    let shell = client.open().await.unwrap();
    host.inject(Injection::new(Fault::Slow(Duration::from_millis(300))).on(Operation::Command).times(1));
    let begun = Instant::now();
    let command = command_id(&client.command(&shell, "ver").await.unwrap());
    assert!(begun.elapsed() >= Duration::from_millis(300));
    host.inject(Injection::new(Fault::ShellsLost).on(Operation::Receive).times(1));
    assert_eq!(client.receive(&shell, &command).await.unwrap().fault(), Some(2_150_858_843));
    assert_eq!(host.open_shells(), 0);
}

#[tokio::test]
async fn a_receive_that_waits_learns_that_its_shell_is_gone() {
    let host = host().await;
    let client = Client::new(&host).timeout(30);
    let shell = client.open().await.unwrap();
    let command = command_id(&client.command(&shell, "ping -n 60 127.0.0.1").await.unwrap());
    let (answer, ()) = tokio::join!(client.receive(&shell, &command), async {
        let waits = async || (host.waiting() == 1).then_some(());
        poll_until("the request for output", Duration::from_secs(10), waits).await.unwrap();
        host.drop_shells();
    });
    assert_eq!(answer.unwrap().fault(), Some(995));
    assert_eq!(host.waiting(), 0);
}

#[tokio::test]
async fn idle_shells_end() {
    let host = builder().idle_timeout(Duration::ZERO).start().await.unwrap();
    let client = Client::new(&host);
    let shell = client.open().await.unwrap();
    assert_eq!(client.command(&shell, "ver").await.unwrap().fault(), Some(2_150_858_843));
    let host = builder().max_shells(1).max_commands(1).start().await.unwrap();
    let client = Client::new(&host);
    let shell = client.open().await.unwrap();
    assert_eq!(client.open().await.unwrap_err().fault(), Some(2_150_859_173));
    client.command(&shell, "ver").await.unwrap();
    assert_eq!(client.command(&shell, "ver").await.unwrap().fault(), Some(2_150_859_174));
    client.close(&shell).await;
    client.open().await.unwrap();
}

#[tokio::test]
async fn shells_are_listed_and_unknown_actions_are_refused() {
    let host = host().await;
    let client = Client::new(&host);
    let (first, second) = (client.open().await.unwrap(), client.open().await.unwrap());
    let enumerate = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
    let list = client.send(enumerate, "", "").await.unwrap();
    assert!(
        list.body.contains(&first) && list.body.contains(&second) && list.body.contains("EndOfSequence"),
        "{list:?}"
    );
    let answer = client.send("http://schemas.xmlsoap.org/ws/2004/09/transfer/Put", &first, "").await.unwrap();
    assert_eq!((answer.status, answer.fault()), (500, Some(2_150_858_753)));
    let answer =
        client.send("http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Command", &first, "").await.unwrap();
    assert_eq!((answer.status, answer.fault()), (500, Some(2_150_858_817)));
}

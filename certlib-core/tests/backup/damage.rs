//! Cut, changed and malicious files.

use crate::{backup, check, file_with, forged, keys, shop};

const HEADER: &str = r#"{"format":"certlib-backup","version":1,"certlib":"0.1.0","id":"b","taken_at":"2027-01-01T00:00:00Z","leader_epoch":0}"#;

fn project(id: &str) -> String {
    let body = format!(r#"{{"id":"{id}","created_at":"2027-01-01T00:00:00Z"}}"#);
    format!(r#"{{"kind":"project","id":"{id}","revision":1,"body":{body}}}"#)
}

fn end(records: usize) -> String {
    let kinds = if records == 0 { "{}".to_owned() } else { format!(r#"{{"project":{records}}}"#) };
    format!(r#"{{"records":{records},"kinds":{kinds},"keks":[],"foreign":0,"#)
}

async fn refused(file: &[u8], code: &str, line: u64) {
    let error = check(file, &keys(&[(1, 1)])).await.expect_err(code);
    assert_eq!(error.code(), code, "{error:?}");
    assert!(error.context().any(|(key, value)| key == "line" && value == line.to_string()), "{line}: {error:?}");
}

#[tokio::test]
async fn a_file_by_another_hand_is_read_if_it_keeps_to_the_format() {
    let report = check(&file_with(HEADER, &[project("a"), project("b")], end), &keys(&[(1, 1)])).await.unwrap();
    assert_eq!((report.records, report.kinds["project"], report.may_serve()), (2, 2, true));
    let none: &[&str] = &[];
    assert!(check(&file_with(HEADER, none, end), &keys(&[(1, 1)])).await.unwrap().may_serve());
}

#[tokio::test]
async fn a_file_cut_anywhere_is_refused() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 2).await).await;
    assert!(check(&file, &envelope).await.unwrap().may_serve());
    for length in 0..file.len() {
        let error = check(&file[..length], &envelope).await.expect_err("it was cut");
        assert_eq!(error.code(), "backup_truncated", "{length} bytes: {error:?}");
    }
}

#[tokio::test]
async fn a_file_with_any_byte_changed_is_refused() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 1).await).await;
    for at in 0..file.len() {
        for change in [1, 2, 0x20, 0x80, file[at] ^ b'\n', file[at] ^ b'"'] {
            if change == 0 {
                continue;
            }
            let mut changed = file.clone();
            changed[at] ^= change;
            let error = check(&changed, &envelope).await.expect_err("it was changed");
            assert!(error.code().starts_with("backup_"), "byte {at} ^ {change}: {error:?}");
        }
    }
}

#[tokio::test]
async fn lines_may_not_be_swapped_dropped_doubled_or_added() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 3).await).await;
    let text = String::from_utf8(file.clone()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for at in 0..lines.len() {
        let mut dropped = lines.clone();
        dropped.remove(at);
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        let mut swapped = lines.clone();
        swapped.swap(at, (at + 1) % lines.len());
        for changed in [dropped, doubled, swapped] {
            assert!(check(changed.concat().as_bytes(), &envelope).await.is_err(), "{changed:?}");
        }
    }
}

#[tokio::test]
async fn each_fault_has_its_code_and_line() {
    let (a, b) = (project("a"), project("b"));
    let pair = || [a.clone(), b.clone()];
    refused(b"", "backup_truncated", 1).await;
    refused(b"hello\n", "backup_invalid", 1).await;
    refused(b"{\"format\":\"zip\",\"version\":1}\n", "backup_invalid", 1).await;
    refused(b"{\"format\":\"certlib-backup\",\"version\":2,\"new\":[]}\n", "backup_version", 1).await;
    refused(b"{\"format\":\"certlib-backup\",\"version\":1,\"new\":[]}\n", "backup_invalid", 1).await;
    refused(&file_with(HEADER, &[a.clone(), a.clone()], end), "backup_duplicate", 3).await;
    refused(&file_with(HEADER, &[b.clone(), a.clone()], end), "backup_order", 3).await;
    let other = r#"{"kind":"other","id":"a","revision":1,"body":{}}"#.to_owned();
    refused(&file_with(HEADER, &[a.clone(), other, b.clone()], end), "backup_order", 4).await;
    refused(&file_with(HEADER, &pair(), |_| end(3)), "backup_counts", 4).await;
    refused(&file_with(HEADER, &[a.clone(), String::new()], end), "backup_invalid", 3).await;
    refused(&file_with(HEADER, &[a.clone(), "[]".to_owned()], end), "backup_invalid", 3).await;
    let keks = |records| {
        end(records)
            .replace("[]", &format!(r#"[{{"id":"{}","version":1,"provider":"","envelopes":1}}]"#, "ab".repeat(32)))
    };
    refused(&file_with(HEADER, &pair(), keks), "backup_counts", 4).await;
    let mut trailing = file_with(HEADER, &pair(), end);
    trailing.push(b'\n');
    refused(&trailing, "backup_trailing", 5).await;
    let mut wrong = file_with(HEADER, &pair(), end);
    let at = wrong.len() - 10;
    wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
    refused(&wrong, "backup_checksum", 4).await;
    let mut latin = file_with(HEADER, &pair(), end);
    let at = HEADER.len() + 30;
    latin[at] = 0xff;
    refused(&latin, "backup_not_utf8", 2).await;
    let deep = a.replace(
        "\"revision\":1,\"body\":{",
        &format!("\"revision\":1,\"body\":{{\"x\":{}{},", "[".repeat(127), "]".repeat(127)),
    );
    refused(&file_with(HEADER, &[deep], end), "backup_too_deep", 2).await;
    let long = format!("{HEADER}\n{}", "x".repeat(9 << 20));
    refused(long.as_bytes(), "backup_line_too_long", 2).await;
}

#[tokio::test]
async fn brackets_by_the_million_do_no_harm() {
    let record = format!(r#"{{"kind":"project","id":"a","revision":1,"body":{}"#, "[".repeat(4 << 20));
    refused(&file_with(HEADER, &[record], end), "backup_too_deep", 2).await;
}

#[tokio::test]
async fn a_record_that_cannot_be_kept_is_named() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 1).await).await;
    // Under another id, without a member, with an id that no store takes.
    let misplaced = forged(&file, |lines| {
        let line = lines.last_mut().unwrap();
        *line = line.replacen("\"id\":\"shop\"", "\"id\":\"shoq\"", 1);
    });
    let unreadable = forged(&file, |lines| {
        let line = lines.last_mut().unwrap();
        *line = line.replace("created_at", "created");
    });
    let long = "x".repeat(201);
    let invalid = forged(&file, |lines| {
        let line = lines.last_mut().unwrap();
        *line = line.replace("\"id\":\"shop\"", &format!("\"id\":\"{long}\""));
    });
    for (file, code) in
        [(misplaced, "record_misplaced"), (unreadable, "record_unreadable"), (invalid, "record_invalid")]
    {
        let report = check(&file, &envelope).await.unwrap();
        assert_eq!((report.failed, &*report.failures[0].code), (1, code));
        assert_eq!(report.failures[0].kind, "project");
        assert!(report.failures[0].line > Some(1));
        assert_eq!(report.verdict().unwrap_err().code(), "record_failed");
    }
}

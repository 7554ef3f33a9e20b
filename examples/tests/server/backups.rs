//! Backups and restores by command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::child::{Said, command, key_file, run, serve, write_key_file};
use crate::keys::{Http, certificate, kek, until_done, with_key};

fn server(data: &Path, arguments: &[&str]) -> Said {
    run(&mut command(data, arguments))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_checked_and_restored_with_its_keys_and_with_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (&*folder.path().join("one"), &*folder.path().join("other"));
    let running = serve(&mut command(data, &[]));
    let http = Http::of(&running, None);
    let path = certificate(&http).await;
    let material = with_key(&http, &path).await;
    let key = key_file(data);

    let file = folder.path().join("a.backup");
    let name = file.to_str().unwrap();
    let said = server(data, &["backup", "--output", name]).expect(0);
    assert_eq!(said.out.trim(), name);
    assert!(said.err.contains("worth nothing without: v1 (local"), "{said:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server(data, &["backup", "--output", name]).expect_refusal(1, "backup_exists");
    assert!(!std::fs::read_to_string(&file).unwrap().contains("PRIVATE KEY"));

    let said = server(data, &["restore", "--check", name]).expect(0);
    assert!(said.out.contains("traffic may be served"), "{said:?}");
    assert!(server(data, &["restore", "--check", "--store"]).expect(0).out.contains("traffic may be served"));
    assert_eq!(running.end("TERM").0, Some(0));
    server(data, &["restore", name]).expect_refusal(1, "store_not_empty");

    // Without the key, and with another one.
    std::fs::create_dir(other).unwrap();
    server(other, &["restore", name]).expect_refusal(1, "kek_missing");
    assert!(!other.join("certlib.db").exists() && !other.join("kek").exists());
    write_key_file(other, &format!("v1 {}\n", "ab12".repeat(16)));
    let said = server(other, &["restore", "--check", name]).expect(1);
    assert!(said.out.contains("must NOT be served") && said.out.contains("kek_orphaned"), "{said:?}");
    server(other, &["restore", name]).expect_refusal(1, "kek_orphaned");

    write_key_file(other, &key);
    let said = server(other, &["restore", name]).expect(0);
    assert!(said.err.contains("restored: "), "{said:?}");
    server(other, &["restore", "--check", "--store"]).expect(0);
    server(other, &["raise-leader-epoch", "--floor", "7"]).expect(0);
    let restored = serve(&mut command(other, &[]));
    assert!(!restored.said().contains("once: "), "tokens are restored, too");
    let http = Http::of(&restored, Some(&http.token));
    assert_eq!(with_key(&http, &path).await, material);
    server(other, &["restore", name]).expect_refusal(1, "store_in_use");
    restored.end("TERM");

    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    server(data, &["restore", "--check", name]).expect_refusal(1, "backup_");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_backup_holds_back_the_removal_of_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut running = serve(&mut command(data, &[]));
    certificate(&Http::of(&running, None)).await;
    assert!(server(data, &["backup", "list"]).expect(0).out.is_empty());
    let file = data.join("a.backup");
    server(data, &["backup", "--output", file.to_str().unwrap()]).expect(0);
    let listed = server(data, &["backup", "list"]).expect(0).out;
    assert!(listed.lines().count() == 1 && listed.contains("needs v1 (local"), "{listed}");
    let id = listed.split_whitespace().next().unwrap();

    write_key_file(data, &format!("{}v2 {}\n", key_file(data), "ab12".repeat(16)));
    running.signal("HUP");
    running.until("a key was added");
    kek(data, &["rotate", "--to-version", "2", "--wait"]).expect(0);
    until_done(data, &["verify", "--target", "2"]);
    let refused = kek(data, &["remove", "--version", "1", "--yes"]).expect_refusal(1, "kek_in_backup");
    assert!(refused.err.contains(id), "{refused:?}");
    server(data, &["backup", "forget", id]).expect(0);
    server(data, &["backup", "forget", id]).expect_refusal(1, "not_found");
    until_done(data, &["remove", "--version", "1", "--yes"]);
    assert_eq!(running.end("TERM").0, Some(0));
}

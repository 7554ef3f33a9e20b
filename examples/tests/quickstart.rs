//! The quickstart example, run as its users run it, but in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../quickstart/main.rs"]
#[allow(dead_code)]
mod quickstart;

use clap::Parser as _;
use serde_json::Value;

/// The lines that it prints; it must find every host serving the new or its former certificate.
fn lines(arguments: &[&str]) -> Vec<String> {
    let args = quickstart::Args::try_parse_from([&["quickstart"], arguments].concat()).unwrap();
    let mut out = Vec::new();
    let safe = quickstart::run(&args, false, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(safe, "{text}");
    text.lines().map(str::to_owned).collect()
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"))
}

#[test]
fn sixty_hosts_a_quarter_of_them_in_trouble() {
    let lines = lines(&["--json", "--hosts", "60"]);
    let report: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let [validated, rolled_back, failed] = ["validated", "rolled_back", "failed"].map(|field| number(&report, field));
    assert_eq!((number(&report, "issued"), number(&report, "targets")), (1, 60), "{report}");
    assert_eq!(validated + rolled_back + failed, 60, "{report}");
    assert!(validated > 0 && validated <= 45, "15 hosts cannot take it: {report}");
    assert!(rolled_back > 0 && failed > 0, "{report}");
    assert_eq!(report["served_fingerprint_matches"], true, "{report}");
    assert!(number(&report, "elapsed_ms") > 0);
}

#[test]
fn a_healthy_fleet_takes_it_and_the_table_says_so() {
    let lines = lines(&["--hosts", "3", "--faults", "off", "--batch", "2"]);
    let hosts: Vec<_> = lines.iter().filter(|line| line.starts_with("host-")).collect();
    assert_eq!(hosts.len(), 3, "{lines:#?}");
    for host in hosts {
        assert!(host.contains(" validated ") && host.contains(" new "), "{host}");
    }
    assert!(lines.iter().any(|line| line.contains("3 hosts: 3 validated, 0 rolled back, 0 failed")), "{lines:#?}");
}

#[test]
fn odd_arguments_are_refused() {
    for arguments in [&["--hosts", "0"][..], &["--batch", "0"], &["--faults", "maybe"], &["--hosts", "many"], &["x"]] {
        assert!(quickstart::Args::try_parse_from([&["quickstart"], arguments].concat()).is_err(), "{arguments:?}");
    }
}

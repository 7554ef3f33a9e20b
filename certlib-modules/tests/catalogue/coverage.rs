//! Where each row of the catalogue is tested, surface by surface, and where a row cannot apply, and why.

use std::fs;
use std::path::Path;

/// How a row stands at a surface.
enum Held {
    /// By a test: its file, from the root of the repository, and its name.
    By(&'static str, &'static str),
    /// By a test, as far as it goes, and what stays open.
    Partly(&'static str, &'static str, &'static str),
    /// Not at all: there is nothing that the row could be asked of.
    Cannot(&'static str),
}

use Held::{By, Cannot, Partly};

/// The row, the surface, and how it stands.
type Row = (&'static str, &'static str, Held);

const NET: &str = "certlib-net/tests/catalogue.rs";
const DIALS: &str = "certlib-net/tests/dials.rs";
const ADDRESSES: &str = "certlib-modules/tests/catalogue/addresses.rs";
const PATHS: &str = "certlib-modules/tests/catalogue/paths.rs";
const COMMANDS: &str = "certlib-modules/tests/catalogue/commands.rs";
const HOST_KEYS: &str = "certlib-modules/tests/catalogue/host_keys.rs";
const RECEIVERS: &str = "certlib-modules/tests/catalogue/receivers.rs";
const WEBHOOK: &str = "certlib-modules/tests/webhook.rs";
const SMTP_POLICY: &str = "certlib-modules/tests/smtp/policy.rs";
const SMTP_FAULTS: &str = "certlib-modules/tests/smtp/faults.rs";
const SMTP_DELIVERY: &str = "certlib-modules/tests/smtp/delivery.rs";
const SSH_SIM: &str = "certlib-modules/tests/ssh_sim.rs";
const SSH_REAL: &str = "certlib-modules/tests/ssh_real.rs";
const PROBE: &str = "certlib-modules/src/probe/mod.rs";
const STARTTLS: &str = "certlib-modules/src/probe/starttls/mod.rs";
const ACME: &str = "certlib-issuers/tests/faults/main.rs";
const TRANSIT: &str = "certlib-keys/tests/vault_transit/connection.rs";
const GONE: &str = "certlib-core/tests/rules/gone.rs";

/// Outbound requests.
const REQUESTS: [Row; 48] = [
    ("special addresses, literal", "dialer", By(NET, "every_address_by_every_way_in")),
    ("special addresses, literal", "modules by URL", By(ADDRESSES, "every_address_as_a_literal")),
    ("special addresses, literal", "smtp, ssh, probe", By(ADDRESSES, "every_address_as_a_host")),
    (
        "special addresses",
        "acme, dns, vault transit",
        Partly(DIALS, "nobody_else_connects", "no address policy: these servers are the operator's choice"),
    ),
    ("special addresses, literal", "file", Cannot("it connects to nothing")),
    ("special addresses, DNS", "dialer", By(NET, "every_address_by_every_way_in")),
    ("special addresses, DNS", "modules by URL, smtp", By(ADDRESSES, "every_address_as_an_answer_of_dns")),
    ("special addresses, DNS", "probe", By(PROBE, "forbidden_addresses_of_a_name_are_not_dialled")),
    ("special addresses, DNS", "ssh, probe", By(ADDRESSES, "spellings_that_the_resolver_understands")),
    (
        "special addresses, DNS",
        "kubernetes",
        By("certlib-modules/tests/kubernetes/login.rs", "only_admitted_addresses_are_dialled"),
    ),
    ("special addresses, KDC", "winrm", By(ADDRESSES, "every_address_as_a_distribution_centre")),
    ("ambiguous URLs", "dialer", By(NET, "every_url_by_every_way_in")),
    ("ambiguous URLs", "modules by URL", By(ADDRESSES, "every_url")),
    ("ambiguous hosts", "smtp, ssh, probe", By(ADDRESSES, "every_host")),
    (
        "ambiguous URLs",
        "acme",
        Partly(
            "certlib-issuers/src/acme/config.rs",
            "what_can_be_used_and_what_cannot",
            "odd spellings of addresses are read as the URL standard reads them",
        ),
    ),
    (
        "ambiguous URLs",
        "vault transit",
        Partly(
            "certlib-keys/src/vault_transit/config.rs",
            "only_this_machine_is_spoken_to_in_the_clear",
            "odd spellings of addresses are read as the URL standard reads them",
        ),
    ),
    ("rebinding", "dialer", By(NET, "what_was_checked_is_what_is_dialled")),
    ("rebinding", "webhook", By(WEBHOOK, "rebinding_between_plan_and_delivery_or_within_one_finds_no_gap")),
    ("rebinding", "smtp", By(SMTP_POLICY, "forbidden_addresses_are_never_dialled")),
    ("rebinding", "probe", By(PROBE, "forbidden_addresses_of_a_name_are_not_dialled")),
    ("mixed and 1 000 answers", "dialer", By(NET, "mixed_answers")),
    ("mixed answers", "webhook", By(WEBHOOK, "a_mixed_answer_is_refused_as_a_whole")),
    (
        "URLs inside certificates",
        "all",
        Cannot("CRL, AIA and OCSP URLs are never fetched; `dials` lists all that connects"),
    ),
    ("upstream text in errors", "dialer", By(NET, "no_error_quotes_the_peer")),
    (
        "upstream text in errors",
        "winrm",
        By("certlib-modules/tests/winrm/transport.rs", "powershell_that_does_not_run_is_an_error"),
    ),
    ("upstream text in errors", "probe", By(STARTTLS, "after_a_refusal_nothing_is_said")),
    ("bombs, floods, lies, silence", "dialer", By(NET, "answers_of_a_hostile_peer")),
    ("bombs, floods, lies", "webhook", By(WEBHOOK, "a_delivery_is_a_delivery_whatever_the_body_says")),
    ("silence, nonsense", "webhook", By(WEBHOOK, "no_answer_is_a_network_error_and_takes_no_longer_than_allowed")),
    ("floods, nonsense, silence", "smtp", By(SMTP_FAULTS, "what_is_no_smtp_is_noticed_early")),
    ("floods, nonsense, silence", "probe", By(STARTTLS, "nonsense_floods_and_silence_end")),
    ("floods, nonsense, silence", "ssh", By(COMMANDS, "greetings_without_end_or_sense")),
    ("floods, nonsense", "acme", By(ACME, "answers_that_are_none_end_no_order")),
    (
        "silence",
        "vault transit",
        By("certlib-keys/tests/vault_transit/faults.rs", "silence_ends_and_nobody_listening_is_seen"),
    ),
    ("redirects", "dialer", By(NET, "no_redirect_carries_a_login_away")),
    ("100 redirects", "dialer", By(NET, "redirects_without_end")),
    ("redirects", "webhook", By(WEBHOOK, "statuses_are_classified")),
    ("redirects", "acme", By(ACME, "peers_that_are_not_the_ca_are_not_spoken_to")),
    ("redirects", "vault transit", By(TRANSIT, "no_token_goes_to_another_host")),
    (
        "redirects",
        "smtp, ssh, probe, winrm",
        Cannot("their protocols have none, or (winrm) anything but 200 is a failure"),
    ),
    ("proxy variables", "dialer", By(NET, "proxies_in_the_environment_are_ignored")),
    ("proxy variables", "webhook", By(WEBHOOK, "proxies_in_the_environment_are_ignored")),
    (
        "proxy variables",
        "acme, vault transit",
        Partly(DIALS, "nobody_else_connects", "built without proxies, but no test sets the variables"),
    ),
    ("HTTP/2 floods", "dialer", By(NET, "answers_of_a_hostile_peer")),
    ("verification off", "modules", By(ADDRESSES, "verification_is_not_turned_off_by_accident")),
    ("verification off", "webhook", By(WEBHOOK, "verification_is_skipped_only_when_acknowledged")),
    ("wrong names", "webhook", By(WEBHOOK, "receivers_must_prove_who_they_are")),
    ("wrong names", "smtp", By(SMTP_POLICY, "a_relay_is_spoken_to_only_if_it_is_who_it_should_be")),
];

/// SSH, WinRM, remote commands, paths.
const HOSTS: [Row; 29] = [
    ("known, unknown, changed, revoked", "ssh", By(HOST_KEYS, "every_row_of_known_hosts")),
    ("another type of key", "ssh", By(HOST_KEYS, "a_host_with_another_type_of_key_only")),
    ("a changed key", "ssh", By(HOST_KEYS, "a_host_that_changed_its_key")),
    ("a changed key", "OpenSSH", By(SSH_REAL, "a_reinstalled_host_is_refused_before_the_login")),
    ("every way to know a host", "OpenSSH", By(SSH_REAL, "every_way_to_know_a_host")),
    ("authorities", "ssh", By("certlib-modules/src/ssh/hostkey.rs", "host_certificates")),
    (
        "another name",
        "winrm, iis",
        By("certlib-modules/tests/winrm/login.rs", "another_name_than_the_certificates_is_refused"),
    ),
    ("host keys", "file", Cannot("it is this machine")),
    ("bad paths", "file, ssh, winrm", By(PATHS, "every_path_by_every_module_and_form")),
    ("out of the root", "file, ssh, winrm", By(PATHS, "roots_cannot_be_left")),
    ("paths", "iis", By(PATHS, "iis_is_told_no_paths")),
    ("odd names", "file", By(PATHS, "odd_names_reach_files_of_this_machine_unchanged")),
    ("odd names", "ssh", By(PATHS, "odd_names_reach_files_of_hosts_unchanged")),
    ("odd names", "OpenSSH", By(SSH_REAL, "owners_links_and_odd_paths_on_a_real_host")),
    ("odd names", "winrm", By("certlib-modules/src/winrm/path.rs", "odd_but_good_paths")),
    ("FIFO, device, directory", "file", By(PATHS, "what_is_no_file_is_left_alone")),
    ("FIFO, directory", "OpenSSH", By(SSH_REAL, "owners_links_and_odd_paths_on_a_real_host")),
    (
        "directory, link, large file",
        "winrm",
        By("certlib-modules/tests/winrm/delivery.rs", "what_is_in_the_way_is_refused_by_name"),
    ),
    ("links out of the root", "file", By("certlib-modules/tests/file.rs", "links_out_of_the_root_are_refused")),
    ("links out of the root", "ssh", By(SSH_SIM, "a_symbolic_link_stays_and_its_file_is_replaced")),
    ("links that appear midway", "file", By(PATHS, "a_link_that_appears_midway_leads_nowhere")),
    ("quoting, 10^5 words", "sh, bash, dash", By(COMMANDS, "a_hundred_thousand_words_survive_every_shell")),
    ("variables in commands", "file, ssh, winrm", By(COMMANDS, "commands_have_no_variables")),
    ("floods, hangs, statuses", "file", By(COMMANDS, "commands_of_this_machine")),
    ("floods, hangs, statuses", "ssh", By(COMMANDS, "commands_of_hosts")),
    ("floods, hangs, statuses", "winrm", By(COMMANDS, "commands_of_windows_hosts")),
    ("floods, hangs, statuses", "OpenSSH", By(SSH_REAL, "commands_run_in_sh_and_end_with_their_time")),
    ("a server that dies", "ssh", By(SSH_SIM, "lost_connections_are_survived")),
    ("a huge agent frame", "ssh", By(COMMANDS, "an_agent_with_a_huge_frame")),
];

/// Mail, webhooks, notifications.
const NOTICES: [Row; 26] = [
    ("broken headers", "modules", By(RECEIVERS, "no_field_of_any_module_breaks_a_header")),
    (
        "broken headers",
        "f5, netscaler",
        Cannot("logins travel as JSON or base64, and all else in paths is percent-encoded"),
    ),
    ("broken headers, nothing sent", "smtp", By(SMTP_POLICY, "nothing_that_injects_a_header_is_sent")),
    ("broken names of targets", "smtp", By(SMTP_POLICY, "names_of_targets_cannot_inject_either")),
    (
        "broken headers",
        "webhook",
        By("certlib-modules/src/webhook/config.rs", "headers_that_inject_or_override_are_refused"),
    ),
    ("a dot alone on a line", "smtp", By(SMTP_DELIVERY, "a_delivery_arrives_byte_for_byte_and_is_taken_back")),
    ("recipients that are options", "smtp", By(SMTP_POLICY, "settings_are_refused_by_name")),
    ("no STARTTLS, AUTH in the clear", "smtp", By(SMTP_FAULTS, "a_relay_without_starttls_gets_no_login_and_no_mail")),
    ("answers injected before TLS", "smtp", By(SMTP_FAULTS, "answers_injected_before_tls_are_noticed")),
    ("answers injected before TLS", "probe", By(STARTTLS, "what_came_ahead_of_the_handshake_is_noticed")),
    ("greetings without end", "smtp", By(SMTP_FAULTS, "what_is_no_smtp_is_noticed_early")),
    ("greetings without end", "probe", By(STARTTLS, "nonsense_floods_and_silence_end")),
    ("private keys as attachments", "smtp", By(SMTP_DELIVERY, "keys_arrive_as_agreed")),
    (
        "private keys without TLS",
        "webhook",
        By(WEBHOOK, "the_private_key_travels_only_when_asked_and_only_over_verified_https"),
    ),
    ("replay, alteration, skew", "webhook", By(RECEIVERS, "what_a_receiver_is_to_refuse")),
    (
        "the same id over retries",
        "webhook",
        By(WEBHOOK, "retries_send_the_same_delivery_with_its_own_time_and_signature"),
    ),
    (
        "the same message over retries",
        "smtp",
        By("certlib-modules/tests/smtp/recovery.rs", "a_lost_answer_leaves_it_open_and_a_retry_is_the_same_message"),
    ),
    (
        "markup, mentions, 100 kB",
        "chats",
        Cannot("there is no module for chats; mail is plain text, webhooks are JSON"),
    ),
    ("200 with garbage, streams", "webhook", By(WEBHOOK, "a_delivery_is_a_delivery_whatever_the_body_says")),
    ("301, every status", "webhook", By(WEBHOOK, "statuses_are_classified")),
    ("hangs", "webhook", By(WEBHOOK, "no_answer_is_a_network_error_and_takes_no_longer_than_allowed")),
    ("Retry-After", "webhook", By(WEBHOOK, "receivers_say_when_to_come_back_within_an_hour")),
    ("410", "webhook", By(RECEIVERS, "a_receiver_that_is_gone_for_good")),
    ("410: paused, with an event", "engine", By(GONE, "a_target_that_is_gone_for_good_is_paused_and_told_about_once")),
    ("every refusal at every stage", "smtp", By(SMTP_FAULTS, "refusals_are_classified_at_every_stage")),
    (
        "a relay that goes away",
        "smtp",
        By(SMTP_FAULTS, "a_relay_that_goes_away_or_falls_silent_before_the_end_has_nothing"),
    ),
];

#[test]
fn every_row_is_held() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut seen = 0;
    for (row, surface, held) in REQUESTS.iter().chain(&HOSTS).chain(&NOTICES) {
        if let Partly(_, _, why) | Cannot(why) = held {
            assert!(why.len() > 10, "{row} at {surface}: why?");
        }
        match held {
            By(file, name) | Partly(file, name, _) => {
                let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
                let (before, _) = text
                    .split_once(&format!("fn {name}()"))
                    .unwrap_or_else(|| panic!("{row} at {surface}: {file} has no test {name}"));
                let attribute = before.trim_end().trim_end_matches("async").trim_end().lines().last().unwrap().trim();
                assert!(attribute.contains("test"), "{file}: {name} is not a test: {attribute}");
                seen += usize::from(matches!(held, By(..)));
            }
            Cannot(_) => {}
        }
    }
    assert!(seen >= 90, "{seen}");
}

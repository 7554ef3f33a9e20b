//! Lost answers, retries, crashes, and the way back.

use certlib_core::module::{ErasedModule as _, JournalSink, MemoryJournal};
use certlib_core::secret::SecretBytes;
use certlib_testkit::counterpart::SmtpFault;
use certlib_testkit::require;

use super::*;

fn case(addr: SocketAddr, certificate: &RelayCertificate, login: &Login) -> Case {
    let timeouts = json!({ "connect_ms": 20_000, "response_ms": 5_000, "total_ms": 5_000 });
    let config = json!({ "tls": certificate.tls(), "timeouts": timeouts });
    Case::new(addr, json!({}), config).log_in(password(login))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_leaves_it_open_and_a_retry_is_the_same_message() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    for fault in [SmtpFault::Close("END"), SmtpFault::Silent("END")] {
        let before = server.mails().unwrap().len();
        let case = case(server.addr(), &certificate, server.login());
        server.inject(&[fault]).unwrap();
        let error = case.execute().await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible), "{error:?}");
        assert_eq!(case.journal.steps(), ["send"]);
        // A later failure does not make it certain that nothing arrived.
        server.inject(&[SmtpFault::Reply("MAIL", "550 5.7.1 no".to_owned())]).unwrap();
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::IoPermanent, "smtp_status", Effect::Possible);
        server.inject(&[SmtpFault::Reply("END", "550 5.7.1 no".to_owned())]).unwrap();
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::IoPermanent, "smtp_status", Effect::Possible);

        case.clock.advance(Duration::from_secs(900));
        server.inject(&[]).unwrap();
        case.execute().await.unwrap();
        assert_eq!(case.journal.steps(), ["send", "sent"]);
        let mails = server.mails().unwrap();
        let [first, second] = &mails[before..] else { panic!("{}", mails.len()) };
        assert_eq!(first.bytes, second.bytes, "the same message, date and id included");

        assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::RolledBack);
        assert_eq!(server.mails().unwrap().len(), before + 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_not_sent_again() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let case = case(server.addr(), &certificate, server.login());
    case.execute().await.unwrap();
    let facts = case.execute().await.unwrap();
    assert_eq!(facts.0["sent_before"], true);
    assert_eq!(server.mails().unwrap().len(), 1);
    assert_eq!(case.journal.steps(), ["send", "sent"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_arrived_is_taken_back() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let case = case(server.addr(), &certificate, server.login());
    server.inject(&[SmtpFault::Close("END")]).unwrap();
    case.execute().await.unwrap_err();
    server.inject(&[SmtpFault::Reply("RCPT", "451 4.2.0 later".to_owned())]).unwrap();
    let error = case.rollback().await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "smtp_status"));
    server.inject(&[]).unwrap();
    assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::RolledBack);
    let mails = server.mails().unwrap();
    let [mail, notice] = &mails[..] else { panic!("{}", mails.len()) };
    let (mail, notice) = (Parsed::read(&mail.bytes).await, Parsed::read(&notice.bytes).await);
    assert_eq!(notice.header("in-reply-to"), mail.header("message-id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_notice_there_is_no_way_back() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let config = json!({ "tls": certificate.tls(), "notify_rollback": false });
    let case = Case::new(server.addr(), json!({}), config).log_in(password(server.login()));
    assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::NothingToDo);
    case.execute().await.unwrap();
    match case.rollback().await.unwrap() {
        RollbackOutcome::Refused { code, reason } => assert!(code == "cannot_unsend" && !reason.is_empty()),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(server.mails().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_go_to_whom_the_delivery_went() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let mut case = case(server.addr(), &certificate, server.login());
    case.execute().await.unwrap();
    case.spec.location["to"] = json!(["somebody-else@example.com"]);
    case.rollback().await.unwrap();
    assert_eq!(server.mails().unwrap()[1].to, ["ops@example.com"]);
}

/// A journal that cannot be written, from a certain record on.
#[derive(Debug)]
struct Broken(MemoryJournal, usize);

#[async_trait]
impl JournalSink for Broken {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        if self.0.steps().len() < self.1 {
            return self.0.append(step, undo).await;
        }
        Err(Error::transient("journal", "lease_lost", "somebody else works on this target"))
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        self.0.entries().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_before_it_is_recorded_or_after_a_cancel() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let case = case(server.addr(), &certificate, server.login());
    let plan = case.plan().await.unwrap();
    let execute = async |journal: &Broken| {
        case.module.execute(&case.cx, &case.spec, &case.bundle, &plan, journal).await.unwrap_err()
    };
    let error = execute(&Broken(MemoryJournal::new(), 0)).await;
    assert_refused(&error, ErrorClass::IoTransient, "lease_lost", Effect::None);
    assert!(!server.commands().unwrap().iter().any(|command| command.verb == "DATA"));
    // Delivered, but that cannot be recorded: whoever goes on must know that it may be there.
    let error = execute(&Broken(MemoryJournal::new(), 1)).await;
    assert_refused(&error, ErrorClass::IoTransient, "lease_lost", Effect::Possible);
    assert_eq!(server.mails().unwrap().len(), 1);
    // Refused, but that cannot be recorded.
    server.inject(&[SmtpFault::Reply("END", "550 5.7.1 no".to_owned())]).unwrap();
    let error = execute(&Broken(MemoryJournal::new(), 1)).await;
    assert_refused(&error, ErrorClass::IoPermanent, "smtp_status", Effect::Possible);

    let commands = server.commands().unwrap().len();
    case.cx.cancel.cancel();
    let error = execute(&Broken(MemoryJournal::new(), 9)).await;
    assert_refused(&error, ErrorClass::IoTransient, "cancelled", Effect::None);
    assert_eq!(server.commands().unwrap().len(), commands);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_of_other_operations_and_targets_are_other_messages() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let mut ids = Vec::new();
    for (operation, target) in [("op-1", "t1"), ("op-2", "t1"), ("op-1", "t2"), ("op-1", "t1")] {
        let mut case = case(server.addr(), &certificate, server.login());
        case.cx.operation_id = operation.to_owned();
        case.spec.id = target.to_owned();
        case.execute().await.unwrap();
    }
    for mail in server.mails().unwrap() {
        ids.push(Parsed::read(&mail.bytes).await.header("message-id").unwrap().to_owned());
    }
    assert_eq!(ids[0], ids[3], "the same operation and target, with a journal that was lost");
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2], "{ids:?}");
}

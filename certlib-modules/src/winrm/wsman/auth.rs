//! Logins that are made in several legs, and seal messages afterwards: NTLM, and Kerberos or NTLM inside SPNEGO.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use certlib_core::secret::SecretString;
use certlib_core::{Error, ErrorClass, Result};
use sspi::network_client::NetworkClient;
use sspi::{
    AuthIdentity, AuthIdentityBuffers, BufferType, ClientRequestFlags, CredentialsBuffers, DataRepresentation,
    EncryptionFlags, ErrorKind, KerberosConfig, Negotiate, NegotiateConfig, NetworkRequest, Ntlm, SecurityBuffer,
    SecurityBufferRef, SecurityStatus, Sspi, SspiImpl, Username,
};
use zeroize::Zeroizing;

const OPERATION: &str = "winrm.login";

/// How long connecting to a key distribution centre, and each answer of it, may take.
const KDC_LIMIT: Duration = Duration::from_secs(5);

/// The largest message of a key distribution centre, in bytes.
const KDC_ANSWER_MAX: usize = 256 * 1024;

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Package {
    /// NTLM as it is.
    Ntlm,
    /// NTLM inside SPNEGO.
    Negotiate,
    /// Kerberos inside SPNEGO.
    Kerberos,
}

/// Where the key distribution centre of a realm is: checked addresses.
#[derive(Debug, Clone)]
pub(super) struct Kdc {
    pub(super) url: String,
    pub(super) addresses: Vec<SocketAddr>,
}

/// One login, from its first leg to the end of its connection.
pub(super) struct SecurityContext {
    mechanism: Mechanism,
    target: String,
    bindings: Option<Vec<u8>>,
    established: bool,
}

enum Mechanism {
    Ntlm { context: Box<Ntlm>, credentials: Option<AuthIdentityBuffers> },
    Negotiate { context: Box<Negotiate>, credentials: Option<CredentialsBuffers>, kdc: Option<Kdc> },
}

impl fmt::Debug for SecurityContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityContext").field("target", &self.target).finish_non_exhaustive()
    }
}

impl SecurityContext {
    /// A login as `user` (`DOMAIN\name`, `name@realm` or `name`) to the service `target` (`HTTP/host`), bound to a TLS
    /// connection if there is one.
    ///
    /// # Errors
    /// `Validation` `user_invalid`; `IoPermanent` `login_failed`.
    pub(super) fn new(
        package: Package,
        user: &str,
        password: &SecretString,
        target: String,
        bindings: Option<Vec<u8>>,
        kdc: Option<Kdc>,
    ) -> Result<Self> {
        let invalid =
            |_| Error::validation(OPERATION, "user_invalid", "the user is `DOMAIN\\name`, `name@realm` or `name`");
        let username = match (package, user.rsplit_once('@')) {
            // The plain name of a realm's user; the other form is for the aliases that only Microsoft's realms have.
            (Package::Kerberos, Some((name, realm))) => Username::new_down_level_logon_name(name, realm),
            _ => Username::parse(user),
        };
        let username = username.map_err(invalid)?;
        let identity = AuthIdentity { username, password: password.expose().clone().into() };
        let mechanism = match package {
            Package::Ntlm => Mechanism::Ntlm { context: Box::new(Ntlm::new()), credentials: Some(identity.into()) },
            Package::Negotiate => {
                let config = Box::new(sspi::ntlm::NtlmConfig::default());
                negotiate(NegotiateConfig::new(config, Some("ntlm".to_owned()), String::new()), identity, None)?
            }
            Package::Kerberos => {
                let url = kdc.as_ref().map_or("", |kdc| kdc.url.as_str());
                let config = Box::new(KerberosConfig::new_with_kdc_url(url, "certlib".to_owned()));
                let packages = Some("kerberos".to_owned());
                negotiate(NegotiateConfig::new(config, packages, "certlib".to_owned()), identity, kdc)?
            }
        };
        Ok(Self { mechanism, target, bindings, established: false })
    }

    /// Whether the login is complete on our side.
    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// The next leg: takes what the server said, empty at first, and answers what to tell it. May ask a key
    /// distribution centre, so it blocks.
    ///
    /// # Errors
    /// `Auth` `login_refused`, `clock_skew`; `Network` `kdc_unreachable`; `IoPermanent` `login_failed`.
    pub(super) fn step(&mut self, input: Vec<u8>) -> Result<Vec<u8>> {
        let mut input = vec![SecurityBuffer::new(input, BufferType::Token)];
        if let Some(bindings) = &self.bindings {
            input.push(SecurityBuffer::new(bindings.clone(), BufferType::ChannelBindings));
        }
        let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let status = unheard(|| match &mut self.mechanism {
            Mechanism::Ntlm { context, credentials } => {
                leg(context.as_mut(), credentials, &self.target, &mut input, &mut output, None)
            }
            Mechanism::Negotiate { context, credentials, kdc } => {
                leg(context.as_mut(), credentials, &self.target, &mut input, &mut output, kdc.as_ref())
            }
        });
        let status = status.map_err(failed)?;
        self.established = status == SecurityStatus::Ok;
        Ok(output.pop().map(|buffer| buffer.buffer).unwrap_or_default())
    }

    /// Encrypts a message; answers its signature and the encrypted bytes.
    ///
    /// # Errors
    /// `IoPermanent` `seal_failed`.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let failed =
            |error| Error::permanent(OPERATION, "seal_failed", "a message cannot be encrypted").with_source(error);
        let trailer = unheard(|| match &mut self.mechanism {
            Mechanism::Ntlm { context, .. } => context.query_context_sizes(),
            Mechanism::Negotiate { context, .. } => context.query_context_sizes(),
        });
        let trailer = usize::try_from(trailer.map_err(failed)?.security_trailer).unwrap_or_default();
        let (mut signature, mut data) = (vec![0; trailer], plain.to_vec());
        let (used, length) = {
            let mut message = [SecurityBufferRef::token_buf(&mut signature), SecurityBufferRef::data_buf(&mut data)];
            let sealed = unheard(|| match &mut self.mechanism {
                Mechanism::Ntlm { context, .. } => context.encrypt_message(EncryptionFlags::empty(), &mut message),
                Mechanism::Negotiate { context, .. } => context.encrypt_message(EncryptionFlags::empty(), &mut message),
            });
            sealed.map_err(failed)?;
            (message[0].buf_len(), message[1].buf_len())
        };
        signature.truncate(used);
        data.truncate(length);
        Ok((signature, data))
    }

    /// Decrypts a message and checks who made it.
    ///
    /// # Errors
    /// `IoPermanent` `answer_not_sealed`.
    pub(super) fn unseal(&mut self, signature: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (mut signature, mut data) = (signature.to_vec(), Zeroizing::new(sealed.to_vec()));
        let length = {
            let mut message = [SecurityBufferRef::token_buf(&mut signature), SecurityBufferRef::data_buf(&mut data)];
            let opened = unheard(|| match &mut self.mechanism {
                Mechanism::Ntlm { context, .. } => context.decrypt_message(&mut message),
                Mechanism::Negotiate { context, .. } => context.decrypt_message(&mut message),
            });
            opened.map_err(|_| super::seal::not_sealed())?;
            message[1].buf_len()
        };
        data.truncate(length);
        Ok(data)
    }
}

/// Lets nobody hear what is logged meanwhile: sspi logs keys, and what it is given to encrypt.
fn unheard<T>(work: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), work)
}

fn negotiate(config: NegotiateConfig, identity: AuthIdentity, kdc: Option<Kdc>) -> Result<Mechanism> {
    let context = Box::new(Negotiate::new_client(config).map_err(failed)?);
    Ok(Mechanism::Negotiate { context, credentials: Some(CredentialsBuffers::AuthIdentity(identity.into())), kdc })
}

fn leg<'c, S: Sspi + SspiImpl>(
    context: &'c mut S,
    credentials: &'c mut S::CredentialsHandle,
    target: &'c str,
    input: &'c mut [SecurityBuffer],
    output: &'c mut [SecurityBuffer],
    kdc: Option<&Kdc>,
) -> Result<SecurityStatus, sspi::Error> {
    let wanted = ClientRequestFlags::CONFIDENTIALITY
        | ClientRequestFlags::INTEGRITY
        | ClientRequestFlags::MUTUAL_AUTH
        | ClientRequestFlags::SEQUENCE_DETECT
        | ClientRequestFlags::REPLAY_DETECT;
    let mut builder = context
        .initialize_security_context()
        .with_credentials_handle(credentials)
        .with_context_requirements(wanted)
        .with_target_data_representation(DataRepresentation::Native)
        .with_target_name(target)
        .with_input(input)
        .with_output(output);
    let mut generator = context.initialize_security_context_impl(&mut builder)?;
    let result = match kdc {
        Some(kdc) => generator.resolve_with_client(kdc)?,
        None => generator.resolve_to_result()?,
    };
    Ok(result.status)
}

impl NetworkClient for Kdc {
    fn send(&self, request: &NetworkRequest) -> sspi::Result<Vec<u8>> {
        self.ask(&request.data)
            .map_err(|_| sspi::Error::new(ErrorKind::NoAuthenticatingAuthority, "no answer of the KDC".to_owned()))
    }
}

impl Kdc {
    /// Sends a message with its length in front, and reads one like it.
    fn ask(&self, message: &[u8]) -> std::io::Result<Vec<u8>> {
        use std::io::{Error, ErrorKind, Read as _, Write as _};

        let connected = self.addresses.iter().find_map(|address| TcpStream::connect_timeout(address, KDC_LIMIT).ok());
        let mut stream = connected.ok_or(ErrorKind::NotConnected)?;
        stream.set_read_timeout(Some(KDC_LIMIT))?;
        stream.set_write_timeout(Some(KDC_LIMIT))?;
        stream.write_all(message)?;
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if length > KDC_ANSWER_MAX {
            return Err(Error::from(ErrorKind::InvalidData));
        }
        let mut answer = head.to_vec();
        answer.resize(4 + length, 0);
        stream.read_exact(&mut answer[4..])?;
        Ok(answer)
    }
}

/// What a failed leg means. The text is that of our own side, but it may quote names from the other: it is left out.
fn failed(error: sspi::Error) -> Error {
    let (class, code, message) = match error.error_type {
        ErrorKind::LogonDenied
        | ErrorKind::UnknownCredentials
        | ErrorKind::NoCredentials
        | ErrorKind::WrongPrincipalName => {
            (ErrorClass::Auth, "login_refused", "the user is unknown, or the password is wrong")
        }
        // The key distribution centre says no: a wrong password, an account that is locked or has expired, a policy.
        ErrorKind::KdcInvalidRequest => {
            (ErrorClass::Auth, "login_refused", "the key distribution centre refuses the login of this user")
        }
        ErrorKind::TimeSkew => (ErrorClass::Auth, "clock_skew", "the clocks here and there differ by too much"),
        ErrorKind::NoAuthenticatingAuthority => {
            (ErrorClass::Network, "kdc_unreachable", "the key distribution centre does not answer")
        }
        _ => (ErrorClass::IoPermanent, "login_failed", "the login cannot be made: the two sides do not agree on how"),
    };
    Error::new(class, OPERATION, code, message).with("reason", format!("{:?}", error.error_type))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use certlib_core::Secret;
    use sspi::{AuthIdentity, CredentialUse, ServerRequestFlags};
    use tracing::field::{Field, Visit};

    use super::super::channel;
    use super::*;

    /// The other side, by sspi as well; a side of another make is the simulator's.
    struct Server {
        ntlm: Ntlm,
        credentials: Option<AuthIdentityBuffers>,
    }

    impl Server {
        fn new(password: &str) -> Self {
            let mut ntlm = Ntlm::new();
            let identity =
                AuthIdentity { username: Username::parse("DOM\\user").unwrap(), password: password.to_owned().into() };
            let acquired = ntlm
                .acquire_credentials_handle()
                .with_credential_use(CredentialUse::Inbound)
                .with_auth_data(&identity)
                .execute(&mut ntlm)
                .unwrap();
            Self { ntlm, credentials: acquired.credentials_handle }
        }

        fn accept(&mut self, token: Vec<u8>) -> Result<Vec<u8>, sspi::Error> {
            let mut input = vec![SecurityBuffer::new(token, BufferType::Token)];
            let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
            let builder = self
                .ntlm
                .accept_security_context()
                .with_credentials_handle(&mut self.credentials)
                .with_context_requirements(ServerRequestFlags::CONFIDENTIALITY)
                .with_target_data_representation(DataRepresentation::Native)
                .with_input(&mut input)
                .with_output(&mut output);
            let result = self.ntlm.accept_security_context_impl(builder)?.resolve_to_result()?;
            if result.status == SecurityStatus::CompleteNeeded {
                self.ntlm.complete_auth_token(&mut output)?;
            }
            Ok(output.remove(0).buffer)
        }
    }

    fn client() -> SecurityContext {
        let password = Secret::new("pässword".to_owned());
        let bindings = Some(channel::bindings(b"certificate"));
        SecurityContext::new(Package::Ntlm, "DOM\\user", &password, "HTTP/host".to_owned(), bindings, None).unwrap()
    }

    fn log_in(server: &mut Server) -> Result<SecurityContext, sspi::Error> {
        let mut client = client();
        let negotiate = client.step(Vec::new()).unwrap();
        assert!(negotiate.starts_with(b"NTLMSSP\0\x01") && !client.is_established());
        let challenge = server.accept(negotiate)?;
        let authenticate = client.step(challenge).unwrap();
        assert!(client.is_established());
        // MD5 of the bindings, as the field 10 of the target's information.
        assert!(authenticate.windows(4).any(|window| window == [10, 0, 16, 0]));
        server.accept(authenticate)?;
        Ok(client)
    }

    #[test]
    fn messages_pass_and_altered_ones_do_not() {
        let mut server = Server::new("pässword");
        let mut client = log_in(&mut server).unwrap();
        for round in 0..3_u8 {
            let plain = vec![round; 1_000 + usize::from(round)];
            let (mut signature, mut sealed) = client.seal(&plain).unwrap();
            assert_eq!((signature.len(), sealed.len()), (16, plain.len()));
            let mut message = [SecurityBufferRef::token_buf(&mut signature), SecurityBufferRef::data_buf(&mut sealed)];
            server.ntlm.decrypt_message(&mut message).unwrap();
            assert_eq!(message[1].data(), plain);
            let (mut signature, mut data) = (vec![0; 16], plain.clone());
            let mut message = [SecurityBufferRef::token_buf(&mut signature), SecurityBufferRef::data_buf(&mut data)];
            server.ntlm.encrypt_message(EncryptionFlags::empty(), &mut message).unwrap();
            assert_eq!(*client.unseal(&signature, &data).unwrap(), plain);
        }
        let error = client.unseal(&[0; 16], b"altered").unwrap_err();
        assert_eq!((error.code(), error.class()), ("answer_not_sealed", ErrorClass::IoPermanent));
    }

    #[test]
    fn another_password_is_noticed_by_the_other_side() {
        assert!(log_in(&mut Server::new("other")).is_err());
    }

    #[test]
    fn nonsense_from_the_other_side_is_an_error() {
        for token in [Vec::new(), b"NTLMSSP\0".to_vec(), vec![0; 500], b"NTLMSSP\0\x02\0\0\0".to_vec()] {
            let mut client = client();
            client.step(Vec::new()).unwrap();
            assert_eq!(client.step(token).unwrap_err().code(), "login_failed");
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<String>>);

    impl Visit for Log {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.lock().unwrap().push_str(&format!("{field}={value:?}\n"));
        }
    }

    impl tracing::Subscriber for Log {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            span.record(&mut self.clone());
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
            values.record(&mut self.clone());
        }

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn nothing_is_logged_of_what_is_sealed() {
        let mut server = Server::new("pässword");
        let mut context = log_in(&mut server).unwrap();
        let log = Log::default();
        tracing::subscriber::with_default(log.clone(), || {
            context.seal(b"canary").unwrap();
            tracing::info!(heard = "this");
            client().step(Vec::new()).unwrap();
        });
        let text = log.0.lock().unwrap().clone();
        assert!(text.contains("this"), "the log works");
        assert!(
            !text.contains("63616E617279") && !text.contains("canary") && !text.contains("SecurityBuffer"),
            "{text}"
        );
    }
}

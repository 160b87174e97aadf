//! TLS for probes: the certificates that are trusted, and connections whose other end has proven its name.

use super::connect::{Resolver, split, words};
use super::{Deadline, Verdict};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The longest file of trusted certificates: all that a system trusts takes some 250 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How many threads may read such files at once: they may hang with their file system.
const READERS_MAX: usize = 2;

/// Connects, and keeps the trusted certificates: to read those of a system takes milliseconds.
pub(super) struct Tls {
    /// By `ca_file`; `None`: those of the system.
    trusted: Mutex<BTreeMap<Option<String>, Trusted>>,
    readers: Arc<Semaphore>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { trusted: Mutex::default(), readers: Arc::new(Semaphore::new(READERS_MAX)) }
    }
}

#[derive(Clone)]
struct Trusted {
    config: Arc<ClientConfig>,
    /// To see whether the files have others by now.
    certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl Tls {
    /// A new connection to `authority`, a host with or without a port, which has shown a certificate of that name.
    ///
    /// The files of the trusted certificates are read when they are needed first, and again before a server is not
    /// believed: somebody may have renewed both.
    pub(super) async fn connect(
        &self,
        authority: &str,
        default_port: u16,
        ca_file: Option<&str>,
        resolver: &Resolver,
        deadline: Deadline,
    ) -> Result<TlsStream<TcpStream>, Verdict> {
        let (host, _) = split(authority, Some(default_port))
            .ok_or_else(|| Verdict::wrong(format_args!("{authority:?} is not a host with a port")))?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| Verdict::wrong(format_args!("{host:?} is a name that no certificate can have")))?;
        let known = self.known(ca_file);
        let is_known = known.is_some();
        let trusted = match known {
            Some(trusted) => trusted,
            None => self.read(ca_file, deadline).await?,
        };
        let port = Some(default_port);
        let refused = match shake(&trusted, authority, port, &name, resolver, deadline).await? {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if is_known && is_distrust(&refused) {
            let newer = self.read(ca_file, deadline).await?;
            if newer.certificates != trusted.certificates {
                let again = shake(&newer, authority, port, &name, resolver, deadline).await?;
                return again.map_err(|error| failed(&error, authority, ca_file));
            }
        }
        Err(failed(&refused, authority, ca_file))
    }

    fn known(&self, ca_file: Option<&str>) -> Option<Trusted> {
        let trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        trusted.get(&ca_file.map(str::to_owned)).cloned()
    }

    /// Reads the files, on another thread. A file that cannot be used says nothing about the service.
    async fn read(&self, ca_file: Option<&str>, deadline: Deadline) -> Result<Trusted, Verdict> {
        let file = ca_file.map(str::to_owned);
        let from = ca_file.unwrap_or("the system's certificates").to_owned();
        let slot = deadline.bound_own("a slot to read certificates, all hang", self.readers.clone().acquire_owned());
        let slot = slot.await?.map_err(Verdict::unable)?;
        // The slot goes with the thread: it is free again when the file has answered.
        let reading = tokio::task::spawn_blocking(move || {
            let read = certificates(file.as_deref());
            drop(slot);
            read
        });
        let read = deadline.bound_own(&format!("{from} to be read"), reading).await?;
        let read = read.map_err(Verdict::unable)?.map_err(|why| Verdict::unable(format_args!("{from}: {why}")))?;
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(read.iter().cloned());
        if usable == 0 {
            return Err(Verdict::unable(format_args!("{from}: there is no certificate in it that can be trusted")));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Verdict::unable)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let trusted = Trusted { config: Arc::new(config), certificates: Arc::new(read) };
        let mut all = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(ca_file.map(str::to_owned), trusted.clone());
        Ok(trusted)
    }
}

/// The certificates of `file`, or those that the system trusts. May block.
fn certificates(file: Option<&str>) -> Result<Vec<CertificateDer<'static>>, String> {
    match file {
        Some(file) => {
            let open = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
            let open = open.map_err(|error| words(&error))?;
            if !open.metadata().is_ok_and(|found| found.is_file() && found.len() <= FILE_BYTES_MAX) {
                return Err(format!("it is not a file of at most {FILE_BYTES_MAX} bytes"));
            }
            let mut text = Vec::new();
            open.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| words(&error))?;
            CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| error.to_string())
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            match found.errors.first() {
                Some(error) if found.certs.is_empty() => Err(error.to_string()),
                Some(_) | None => Ok(found.certs),
            }
        }
    }
}

/// Connects and greets; the inner error is TLS's own.
async fn shake(
    trusted: &Trusted,
    authority: &str,
    default_port: Option<u16>,
    name: &ServerName<'static>,
    resolver: &Resolver,
    deadline: Deadline,
) -> Result<io::Result<TlsStream<TcpStream>>, Verdict> {
    let stream = resolver.connect(authority, default_port, deadline).await?;
    let _best_effort = stream.set_nodelay(true);
    let connector = TlsConnector::from(trusted.config.clone());
    deadline.bound("the TLS handshake", connector.connect(name.clone(), stream)).await
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>())
}

/// Whether it is the certificate that was not believed.
fn is_distrust(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Nobody shows a certificate of the future.
fn is_of_the_clock(why: &rustls::CertificateError) -> bool {
    matches!(why, rustls::CertificateError::NotValidYet | rustls::CertificateError::NotValidYetContext { .. })
}

fn failed(error: &io::Error, authority: &str, ca_file: Option<&str>) -> Verdict {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(why)) if is_of_the_clock(why) => Verdict::unable(format_args!(
            "the certificate of {authority} is not valid yet: this machine's clock may be wrong"
        )),
        Some(rustls::Error::InvalidCertificate(why)) => {
            let by = ca_file.unwrap_or("what the system trusts");
            Verdict::wrong(format_args!("the certificate of {authority} is not good by {by}: {why}"))
        }
        Some(error) => Verdict::wrong(format_args!("no TLS with {authority}: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Verdict::wrong(format_args!("no TLS with {authority}: the connection was closed"))
        }
        None => {
            let below = error.source().map(ToString::to_string).unwrap_or_else(|| words(error));
            Verdict::by_error(error, format_args!("no TLS with {authority}: {below}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::monitor::probe::testing::{LONG, assert_fails, assert_passes, free_port, get, policy, serve, trees};
    use crate::monitor::probe::{ProbeOrder, Probed, Prober};
    use hale_core::event::{Event, ProbeFailure, ProbeOutcome};
    use hale_core::ids::{Epoch, Name, ProbeId};
    use hale_core::policy::{CheckKind, HttpCheck};
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use std::path::Path;
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt;
    use tokio::runtime::Handle;
    use tokio::sync::mpsc::{self, UnboundedReceiver};

    /// A prober that lives as long as the test, with what it remembers.
    struct Bench {
        prober: Prober,
        events: UnboundedReceiver<Event>,
    }

    impl Bench {
        fn new() -> Self {
            let (sender, events) = mpsc::unbounded_channel();
            let report = Arc::new(move |event| sender.send(event).expect("the test waits"));
            Self {
                prober: Prober::new(
                    &Handle::current(),
                    report,
                    trees(),
                    (&std::env::temp_dir(), &std::env::temp_dir()),
                ),
                events,
            }
        }

        async fn probe(&mut self, url: &str, ca_file: Option<&Path>) -> ProbeOutcome {
            let ca_file = ca_file.map(|path| path.display().to_string());
            let policy = policy(CheckKind::Http(HttpCheck { ca_file, ..get(url.to_owned()) }), LONG);
            let of = Probed::Service { policy: Arc::new(policy), root: None, tree: None, anew: false };
            let service = Name::try_from("bot").expect("a name");
            self.prober.probe(ProbeOrder { service, epoch: Epoch(1), probe: ProbeId(1), check: 0, of });
            match self.events.recv().await {
                Some(Event::Probed { outcome, .. }) => outcome,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Writes `ca.pem`, and `cert.pem` and `key.pem` for localhost that are signed by it.
    fn certificates(dir: &Path, of: &str) {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, of);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key");
        let ca_file = ca.self_signed(&ca_key).expect("a certificate");
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().expect("a key");
        let names = [String::from("localhost"), String::from("127.0.0.1")];
        let own = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
        for (name, text) in [("ca.pem", ca_file.pem()), ("cert.pem", own.pem()), ("key.pem", key.serialize_pem())] {
            std::fs::write(dir.join(name), text).expect("it can be written");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_says_nothing_about_the_service() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut bench, file) = (Bench::new(), dir.path().join("ca.pem"));
        let url = format!("https://localhost:{}/", free_port());
        let detail = format!("{}: no such file", file.display());
        assert_fails(&bench.probe(&url, Some(&file)).await, ProbeFailure::Unable, &detail);
        std::fs::write(&file, "nothing").expect("it can be written");
        let outcome = bench.probe(&url, Some(&file)).await;
        assert_eq!(outcome.failure, Some(ProbeFailure::Unable), "{outcome:?}");
        certificates(dir.path(), "one");
        assert_fails(&bench.probe(&url, Some(&file)).await, ProbeFailure::Wrong, "connection refused");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        certificates(dir.path(), "one");
        let plain = serve(|mut stream| async move { stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await });
        let url = format!("https://localhost:{}/", plain.await.port());
        let outcome = Bench::new().probe(&url, Some(&dir.path().join("ca.pem"))).await;
        assert_fails(&outcome, ProbeFailure::Wrong, "no TLS with localhost:");
    }

    mod needs_nginx {
        use super::*;
        use crate::monitor::probe::testing::Foreign;
        use rustix::process::Signal;
        use std::process::Command;

        fn nginx(dir: &Path, port: u16) -> Foreign {
            let path = dir.display().to_string();
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {path}/{kind};"))
                .concat();
            let text = format!(
                "daemon off; pid {path}/pid; error_log stderr notice; events {{}}
                http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {path}/cert.pem;
                ssl_certificate_key {path}/key.pem; location / {{ return 200 'up'; }} }} }}"
            );
            std::fs::write(dir.join("conf"), text).expect("it can be written");
            let mut command = Command::new("nginx");
            Foreign::start(command.args(["-p", &path, "-c", "conf", "-e", "stderr"]), "start worker process ").0
        }

        #[tokio::test]
        async fn a_certificate_must_be_good_for_the_name_and_by_those_that_are_trusted() {
            let dir = tempfile::tempdir().expect("a temporary directory");
            certificates(dir.path(), "one");
            let (mut bench, port, ca) = (Bench::new(), free_port(), dir.path().join("ca.pem"));
            let server = nginx(dir.path(), port);
            let by = |host: &str| format!("https://{host}:{port}/");
            assert_passes(&bench.probe(&by("localhost"), Some(&ca)).await, "200 OK in ");
            assert_passes(&bench.probe(&by("127.0.0.1"), Some(&ca)).await, "200 OK in ");
            let other = bench.probe(&by("127.0.0.2"), Some(&ca)).await;
            assert_fails(&other, ProbeFailure::Wrong, "connection refused");
            let unknown = bench.probe(&by("localhost"), None).await;
            // Where the system trusts nobody nothing can be said at all.
            assert!(
                unknown.failure.is_some_and(|failure| failure == ProbeFailure::Unable)
                    || unknown.detail.contains("is not good by what the system trusts: "),
                "{unknown:?}"
            );

            // Both are renewed: the old ones, which are remembered, are not believed any longer.
            drop(server);
            certificates(dir.path(), "two");
            let server = nginx(dir.path(), port);
            assert_passes(&bench.probe(&by("localhost"), Some(&ca)).await, "200 OK in ");
            // Only the server is renewed.
            drop(server);
            let kept = std::fs::read(&ca).expect("it is there");
            certificates(dir.path(), "three");
            std::fs::write(&ca, kept).expect("it can be written");
            let server = nginx(dir.path(), port);
            let detail = format!("the certificate of localhost:{port} is not good by {}: ", ca.display());
            assert_fails(&bench.probe(&by("localhost"), Some(&ca)).await, ProbeFailure::Wrong, &detail);
            server.signal(Signal::TERM);
        }

        #[tokio::test]
        async fn a_certificate_of_another_name_is_not_good() {
            let dir = tempfile::tempdir().expect("a temporary directory");
            certificates(dir.path(), "one");
            let (port, ca) = (free_port(), dir.path().join("ca.pem"));
            let _server = nginx(dir.path(), port);
            // An address of this machine that the certificate does not have.
            let url = format!("https://[::ffff:127.0.0.1]:{port}/");
            let outcome = Bench::new().probe(&url, Some(&ca)).await;
            let detail = format!("the certificate of [::ffff:127.0.0.1]:{port} is not good by {}: ", ca.display());
            assert_fails(&outcome, ProbeFailure::Wrong, &detail);
        }
    }
}

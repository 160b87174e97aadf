//! Blame: what is not a service's fault leads to nothing that would hurt it, and is said.

use crate::harness::Place;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server of the test's own, which all services are asked for: what fails there is nobody's of theirs.
struct Upstream(Arc<AtomicBool>);

impl Upstream {
    fn start(address: SocketAddrV4) -> Self {
        let (works, listener) = (Arc::new(AtomicBool::new(true)), TcpListener::bind(address).unwrap());
        let answers = works.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let status = if answers.load(Ordering::SeqCst) { "200 OK" } else { "500 Internal Server Error" };
                let _ = stream.read(&mut [0; 4_096]);
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Self(works)
    }

    fn set(&self, works: bool) {
        self.0.store(works, Ordering::SeqCst);
    }
}

fn assert_untouched(place: &Place, services: &[&str]) {
    for service in services {
        assert_eq!(place.records(service, "spawned").len(), 1, "{service} was restarted");
        assert!(place.records(service, "detected").is_empty());
    }
}

#[test]
fn when_all_services_begin_to_fail_together_none_is_restarted_at_first() {
    let place = Place::new();
    let upstream = Upstream::start(place.address);
    let service = |name: &str| {
        format!(
            "[service.{name}]\ncommand = [\"sleep\", \"1000\"]\n[[service.{name}.check]]\nkind = \"http\"\n\
             url = \"http://@A/\"\nevery = \"200ms\"\ntimeout = \"10s\"\nfailures = 4\n"
        )
    };
    let names = ["one", "two", "three"];
    let hale = place.hale(&names.map(service).concat());
    for name in names {
        hale.ready(name);
    }
    upstream.set(false);
    for name in names {
        let told = hale.event(name, "check http fails, and nothing is done: ");
        let why = "whose fault it is cannot be told, because 3 of 3 services began to fail together";
        assert!(told.ends_with(why), "{told}");
    }
    assert_eq!(place.status("one")["state"], "degraded");
    upstream.set(true);
    for name in names {
        hale.event(name, "check http passed in ");
    }
    hale.stop();
    assert_untouched(&place, &names);
    let spared = &place.records("two", "not_its_fault")[0];
    assert_eq!(
        (&spared["judged"]["read"]["failing"], &spared["judged"]["read"]["of"]),
        (&3.into(), &3.into()),
        "{spared}"
    );
}

mod needs_root {
    mod needs_python {
        use super::super::{Upstream, assert_untouched};
        use crate::harness::{INSIDE, Place, rerun};
        use std::net::{Ipv4Addr, UdpSocket};
        use std::process::Command;

        /// Sets the loopback interface of this network namespace (netdevice(7): `SIOCSIFFLAGS`, `IFF_UP`).
        fn set_loopback(up: bool) {
            assert!(std::env::var_os(INSIDE).is_some(), "that would be the machine's own");
            let program = format!(
                "import fcntl, socket, struct\n\
                 fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh22x', b'lo', {}))",
                i32::from(up)
            );
            assert!(Command::new("python3").args(["-c", &program]).status().unwrap().success());
        }

        fn check(url: &str) -> String {
            format!(
                "[service.app]\ncommand = [\"sleep\", \"1000\"]\n[[service.app.check]]\nkind = \"http\"\nurl = \"{url}\"\n\
                 every = \"100ms\"\ntimeout = \"2s\"\nfailures = 2\n"
            )
        }

        #[test]
        fn while_nothing_can_be_reached_at_all_the_service_is_left_alone() {
            let test = "blame::needs_root::needs_python::while_nothing_can_be_reached_at_all_the_service_is_left_alone";
            if !rerun(test, &["unshare", "--net"]) {
                return;
            }
            set_loopback(true);
            let place = Place::new();
            let _upstream = Upstream::start(place.address);
            let hale = place.hale(&check("http://@A/"));
            hale.ready("app");
            set_loopback(false);
            let told = hale.event("app", "check http fails, and nothing is done: ");
            assert!(
                told.contains("the fault is Hale's own probing, because a probe of Hale itself fails, too: "),
                "{told}"
            );
            set_loopback(true);
            hale.event("app", "check http passed in ");
            hale.stop();
            assert_untouched(&place, &["app"]);
        }

        /// Answers with the address of a test for each name, until it is dropped.
        fn name_server(ip: Ipv4Addr) -> UdpSocket {
            let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
            let server = socket.try_clone().unwrap();
            std::thread::spawn(move || {
                let mut query = [0; 512];
                while let Ok((length, from)) = server.recv_from(&mut query) {
                    if length < 17 {
                        return;
                    }
                    // RFC 1035, section 4.1: one question comes back, and for an address (A) one answer, good for no time at all.
                    let end = 12 + query[12..length].iter().position(|&byte| byte == 0).unwrap() + 5;
                    let is_address = query[end - 4..end] == [0, 1, 0, 1];
                    let mut answer = query[..end].to_vec();
                    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
                    if is_address {
                        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                        answer.extend(ip.octets());
                    }
                    let _ = server.send_to(&answer, from);
                }
            });
            socket
        }

        #[test]
        fn a_resolver_that_is_gone_is_no_fault_of_the_service_that_is_asked_for_by_name() {
            let test = "blame::needs_root::needs_python::a_resolver_that_is_gone_is_no_fault_of_the_service_that_is_asked_for_by_name";
            if !rerun(test, &["unshare", "--net", "--mount", "--propagation", "private"]) {
                return;
            }
            set_loopback(true);
            let place = Place::new();
            let _upstream = Upstream::start(place.address);
            place.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
            let mounted =
                Command::new("mount").arg("--bind").arg(place.path("resolv.conf")).arg("/etc/resolv.conf").status();
            assert!(mounted.unwrap().success());
            let resolver = name_server(*place.address.ip());
            let hale = place.hale(&check("http://app.hale.test:@P/"));
            hale.ready("app");
            // The thread ends with a datagram that is no query, and the port is free.
            let poison = UdpSocket::bind("127.0.0.1:0").unwrap();
            poison.send_to(&[0], "127.0.0.1:53").unwrap();
            drop(resolver);
            let told = hale.event("app", "could not probe check http; it counts neither way: ");
            assert!(told.contains("name lookup of app.hale.test failed: "), "{told}");
            // Many times as often as would be acted upon.
            place.until(|| {
                let status = place.status("app");
                let checks = &status["checks"][0];
                (checks["unable"] == true).then_some(()).ok_or(status.to_string())
            });
            let _resolver = name_server(*place.address.ip());
            place.until(|| {
                let status = place.status("app");
                let is_well = status["checks"][0]["unable"] == false && status["state"] == "healthy";
                is_well.then_some(()).ok_or(status.to_string())
            });
            hale.stop();
            assert_untouched(&place, &["app"]);
            assert!(place.records("app", "check_failed").is_empty());
        }
    }

    mod needs_iproute2 {
        mod needs_python {
            use super::super::super::Upstream;
            use crate::harness::{INSIDE, Place, python, rerun};
            use crate::innocent::{Innocent, innocent};
            use std::net::{Ipv4Addr, SocketAddrV4};
            use std::process::Command;

            /// The upstream's address, which is for documentation alone (RFC 5737).
            const UPSTREAM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

            fn ip(words: &str) {
                assert!(std::env::var_os(INSIDE).is_some(), "that would be the machine's own network");
                assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
            }

            /// Answers what its upstream answers, as late as that does.
            const GATEWAY: &str = r#"
import http.server, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with urllib.request.urlopen("http://192.0.2.2:@P/") as upstream:
            upstream.read()
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("@H", @P), Handler).serve_forever()
"#;

            /// Packets on the way to the upstream vanish: no reset, no answer from anybody. Who needs it waits, and nobody else
            /// notices.
            #[test]
            fn a_service_whose_upstream_is_lost_waits_for_it_and_goes_on_with_it() {
                let test = "blame::needs_root::needs_iproute2::needs_python::a_service_whose_upstream_is_lost_waits_for_it_and_goes_on_with_it";
                if !rerun(test, &["unshare", "--net"]) {
                    return;
                }
                let place = Place::new();
                ip("link set lo up");
                // Without its own address, what goes to it goes out to a neighbour that does not exist.
                ip("link add out type veth peer name far");
                ip("address add 192.0.2.1/24 dev out");
                ip("link set out up");
                ip("link set far up");
                ip("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev out nud permanent");
                ip("address add 192.0.2.2/32 dev lo");
                let _upstream = Upstream::start(SocketAddrV4::new(UPSTREAM, place.address.port()));
                place.write("gateway.py", GATEWAY);
                let hale = place.hale(&format!(
                    "{}[service.app]\ncommand = [\"{}\", \"@D/gateway.py\"]\nafter = [\"upstream\"]\n\
                     [[service.app.check]]\nkind = \"http\"\nurl = \"http://@A/\"\nevery = \"200ms\"\nfailures = 5\n\
                     [dependency.upstream.check]\nkind = \"http\"\nurl = \"http://192.0.2.2:@P/\"\nevery = \"100ms\"\n\
                     timeout = \"500ms\"\nfailures = 1\n",
                    innocent(&place),
                    python()
                ));
                let innocent = Innocent::ready(&hale);
                let pid = hale.ready("app");
                ip("address del 192.0.2.2/32 dev lo");
                let down = hale.says("dependency upstream is down: check http failed once");
                assert!(down.contains("no answer within 500 ms"), "{down}");
                hale.event("app", "blocked: upstream is down");
                hale.event(
                    "app",
                    "detected while upstream is down: check http failed 5 times in a row: no answer within 1 s",
                );
                hale.event("app", "decided to leave it as it is, because upstream, which it starts after, is down");
                let status = place.status("app");
                assert_eq!((&status["state"], &status["pid"]), (&"blocked".into(), &pid.into()), "{status}");
                ip("address add 192.0.2.2/32 dev lo");
                hale.says("app: no longer blocked: upstream is up");
                hale.says("app: it works again by itself");
                let status = place.status("app");
                assert_eq!((&status["state"], &status["pid"]), (&"healthy".into(), &pid.into()), "{status}");
                innocent.assert_unharmed();
                hale.stop();
                assert_eq!(place.records("app", "spawn_intended").len(), 1);
                assert_eq!(place.causes("app"), [("dependency".into(), "environmental".into())]);
            }
        }
    }
}

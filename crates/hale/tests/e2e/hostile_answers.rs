//! Servers and checks that answer to hurt who asks: each probe ends, by its time-out or by what is wrong.

mod needs_python {
    use crate::harness::{Place, python, words};
    use crate::innocent::{Innocent, innocent};
    use std::net::{Ipv4Addr, TcpListener};

    /// Answers by path, and says so at the fifth time that it is asked for it.
    const SERVER: &str = r#"
import collections, socket, threading, time
HEAD = b"HTTP/1.1 200 OK\r\n"
asked = collections.Counter()
def report(text):
    with open("@D/reports", "w") as reports:
        reports.write(text + "\n")
def body(peer):
    peer.sendall(HEAD + b"\r\n")
    while True:
        peer.sendall(b"endless " * 8192)
def drip(peer):
    for byte in HEAD + b"content-length: 1000000\r\n\r\n" + b"x" * 1_000_000:
        peer.sendall(bytes([byte]))
        time.sleep(1)
def headers(peer):
    peer.sendall(HEAD)
    for _ in range(1600):
        peer.sendall(b"x-header: " + b"y" * 65_000 + b"\r\n")
def loop(peer):
    peer.sendall(b"HTTP/1.1 302 Found\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n")
def elsewhere(peer):
    peer.sendall(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:@ELSEWHERE/\r\ncontent-length: 0\r\n\r\n")
def silent(peer):
    peer.recv(1)
def continued(peer):
    while True:
        peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
def chunks(peer):
    peer.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"7fffffffffffffff\r\n")
    while True:
        peer.sendall(b"x" * 65536)
def metrics(peer):
    peer.sendall(HEAD + b"\r\n")
    while True:
        peer.sendall(b"m" * 65536)
def nested(peer):
    peer.sendall(HEAD + b"\r\n" + b"[" * 1_000_000)
def serve(peer):
    try:
        path = peer.recv(4096).split(b" ")[1].decode().strip("/")
        asked[path] += 1
        if asked[path] == 5:
            report(f"asked for {path}")
        globals()[path](peer)
    except OSError:
        pass
    finally:
        peer.close()
server = socket.create_server(("@H", @P), backlog=4096)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"#;

    /// A check named by its path, and how each of its probes ends.
    const ANSWERS: [(&str, &str, &str); 9] = [
        ("body", "body_contains = \"never\"", "the body is longer than 1048576 bytes"),
        ("drip", "", "no answer within 1 s: waiting for status and headers"),
        ("headers", "", "status line and headers are longer than 65536 bytes"),
        ("loop", "", "302 Found, expected 200"),
        ("elsewhere", "", "302 Found, expected 200"),
        ("silent", "", "no answer within 1 s: waiting for status and headers"),
        ("continued", "", "status line and headers are longer than 65536 bytes"),
        ("chunks", "body_contains = \"never\"", "the body is longer than 1048576 bytes"),
        ("nested", "json = { \"/a\" = 1 }", "200 OK, but the body is not JSON"),
    ];

    #[test]
    fn each_probe_ends_and_none_is_followed() {
        let place = Place::new();
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let port = elsewhere.local_addr().unwrap().port().to_string();
        place.write("evil.py", &SERVER.replace("@ELSEWHERE", &port));
        let check = |(name, keys, _): &(&str, &str, &str)| {
            format!(
                "[[service.evil.check]]\nkind = \"http\"\nname = \"{name}\"\nurl = \"http://@A/{name}\"\n\
                 every = \"500ms\"\ntimeout = \"1s\"\nfailures = 10000\n{keys}\n"
            )
        };
        let checks: String = ANSWERS.iter().map(check).collect();
        let common = "every = \"500ms\"\ntimeout = \"1s\"\nfailures = 10000\n";
        let others = format!(
            "[[service.evil.check]]\nkind = \"metric\"\nname = \"metrics\"\nurl = \"http://@A/metrics\"\nmetric = \"absent\"\n\
             below = 1\nevery = \"500ms\"\ntimeout = \"1s\"\nfailures = 10000\n\
             [[service.evil.check]]\nkind = \"exec\"\nname = \"yes\"\ncommand = [\"yes\"]\n{common}\
             [[service.evil.check]]\nkind = \"exec\"\nname = \"zero\"\ncommand = [\"sh\", \"-c\", \"echo printed >@D/reports; cat /dev/zero\"]\n{common}"
        );
        let hale = place.hale(&format!(
            "{}[service.evil]\ncommand = [\"{}\", \"@D/evil.py\"]\nstart = {{ ready = \"running\", within = \"1h\" }}\n\
             stop.grace = \"200ms\"\n{checks}{others}",
            innocent(&place),
            python()
        ));
        let innocent = Innocent::ready(&hale);
        let pid = hale.ready("evil");
        let asked = ANSWERS.map(|(name, ..)| format!("asked for {name}"));
        let asked: Vec<&str> = asked.iter().map(String::as_str).chain(["printed"]).collect();
        place.until(|| {
            innocent.look();
            let reported = place.reported();
            let missing = asked.iter().find(|what| !reported.iter().any(|line| line == *what));
            missing.map_or(Ok(()), |what| Err(format!("no report {what:?}")))
        });
        let others = [
            ("metrics", "a line of the metrics is longer than 65536 bytes"),
            ("yes", "killed: it did not end within 1 s: y"),
            ("zero", "killed: it did not end within 1 s"),
        ];
        let all = ANSWERS.map(|(name, _, how)| (name, how));
        for (name, how) in all.into_iter().chain(others) {
            place.until(|| {
                let status = place.status("evil");
                let check = status["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap();
                let is_so = check["ok"] != true && check["detail"].as_str().unwrap().contains(how);
                is_so.then_some(()).ok_or(check.to_string())
            });
        }
        innocent.assert_unharmed();
        assert_eq!(place.status("evil")["pid"], pid);
        assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was followed");
        // A probe that is killed at the very end may be gone only after its group should be.
        place.done(&["stop", "evil"]);
        place.until(|| {
            let printing = place
                .living()
                .into_iter()
                .find(|pid| words(*pid).iter().any(|word| word == "yes" || word == "/dev/zero"));
            printing.map_or(Ok(()), |pid| Err(format!("pid {pid} prints still")))
        });
        hale.stop();
    }
}

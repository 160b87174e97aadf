//! Checks that look at all processes of a service, each failing for real: in programs that we did not write, and in a
//! process that lets go of a socket that Hale holds.

use crate::harness::Place;
use std::process::Command;

/// The checks with their bounds, quick enough for a test.
const QUICK: &str = "every = \"100ms\"\ntimeout = \"5s\"\nfailures = 2\n";

fn check(service: &str, keys: &str) -> String {
    format!("[[service.{service}.check]]\n{keys}\n{QUICK}")
}

/// The one incident: its cause, and that it is over.
#[track_caller]
fn assert_recovered_from(place: &Place, service: &str, cause: &str) {
    assert_eq!(place.causes(service), [(cause.into(), "recovered".into())]);
}

#[test]
fn a_socket_that_only_hale_holds_does_not_count() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("gate")).status().unwrap().success());
    let service = r#"
[service.idle]
command = ["sh", "-c", "if test -e @D/once; then exec sleep 1000; fi; touch @D/once; read line <@D/gate; exec sleep 1000 3<&-"]
listen = { http = "@A" }
"#;
    let hale = place.hale(&[service, &check("idle", "kind = \"listen\"\naddress = \"@A\"")].concat());
    hale.ready("idle");
    place.open_gate();
    let failed = hale.event("idle", "detected: check listen failed 2 times");
    assert!(failed.contains("none of its processes listens at") && failed.contains("another one does"), "{failed}");
    hale.event("idle", "recovered in");
    let pid = hale.place.status("idle")["pid"].as_i64().unwrap();
    let detail = hale.place.status("idle")["checks"][0]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail, format!("pid {pid} listens"));
    hale.stop();
    assert_recovered_from(&place, "idle", "listen");
}

mod needs_redis {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    const SERVICE: &str = r#"
[service.redis]
command = ["redis-server", "--bind", "@H", "--port", "@P", "--dir", "@D", "--save", "", "--enable-debug-command", "yes"]
stop.grace = "200ms"
restart.crash_loop = false
"#;

    /// Tells redis a command.
    fn tell(place: &Place, command: &str) -> TcpStream {
        let mut stream = TcpStream::connect(place.address).unwrap();
        write!(stream, "{command}\r\n").unwrap();
        stream
    }

    #[test]
    fn too_much_memory_is_memory() {
        let place = Place::new();
        let memory = check("redis", "kind = \"memory\"\nbelow = \"64MiB\"");
        let hale = place.hale(&[SERVICE, &memory, &check("redis", "kind = \"listen\"\naddress = \"@A\"")].concat());
        hale.ready("redis");
        // It may be ended before it has all of them.
        let _no_answer = tell(&place, "DEBUG POPULATE 400000 key 100");
        let failed = hale.event("redis", "detected: check memory failed 2 times");
        assert!(failed.contains("not below 64 MiB: ") && failed.contains(" anonymous"), "{failed}");
        hale.event("redis", "recovered in");
        hale.stop();
        assert_recovered_from(&place, "redis", "memory");
    }

    #[test]
    fn a_share_is_one_of_the_limit() {
        let place = Place::new();
        let memory = check("redis", "kind = \"memory\"\nbelow = \"25%\"");
        let limited = SERVICE.replace("stop.grace", "memory_limit = \"256MiB\"\nstop.grace");
        let hale =
            place.hale(&[limited.as_str(), &memory, &check("redis", "kind = \"listen\"\naddress = \"@A\"")].concat());
        hale.ready("redis");
        // It may be ended before it has all of them.
        let _no_answer = tell(&place, "DEBUG POPULATE 400000 key 100");
        let failed = hale.event("redis", "detected: check memory failed 2 times");
        assert!(failed.contains(" of 256 MiB (") && failed.contains("not below 25 %: "), "{failed}");
        hale.event("redis", "recovered in");
        hale.stop();
        assert_recovered_from(&place, "redis", "memory");
    }

    /// It goes on, and listens somewhere else.
    #[test]
    fn a_port_that_was_let_go_is_listen() {
        let place = Place::new();
        let hale = place.hale(&[SERVICE, &check("redis", "kind = \"listen\"\naddress = \"@A\"")].concat());
        hale.ready("redis");
        let mut answer = [0; 5];
        tell(&place, &format!("CONFIG SET port {}", place.address.port() + 1_000)).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
        let failed = hale.event("redis", "detected: check listen failed 2 times");
        assert!(failed.contains(&format!("nobody listens at {}", place.address)), "{failed}");
        hale.event("redis", "recovered in");
        hale.stop();
        assert_recovered_from(&place, "redis", "listen");
    }
}

mod needs_nginx {
    use super::*;
    use std::net::TcpStream;

    const SERVICE: &str = r#"
[service.nginx]
command = ["nginx", "-p", "@D", "-e", "stderr", "-c", "@D/nginx.conf"]
stop.signal = "SIGQUIT"
stop.grace = "200ms"
restart.crash_loop = false
"#;

    /// Clients that say nothing are descriptors of its workers, not of its master.
    #[test]
    fn too_many_descriptors_in_one_worker_are_open_files() {
        let place = Place::new();
        place.write(
            "nginx.conf",
            r#"
daemon off;
pid @D/nginx.pid;
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path @D/t1; proxy_temp_path @D/t2; fastcgi_temp_path @D/t3; uwsgi_temp_path @D/t4;
    scgi_temp_path @D/t5;
    server { listen @A; }
}
"#,
        );
        let checks = ["kind = \"open_files\"\nbelow = 100", "kind = \"listen\"\naddress = \"@A\""];
        let checks = checks.map(|keys| check("nginx", keys));
        let hale = place.hale(&[SERVICE, &checks.concat()].concat());
        let master = hale.ready("nginx");
        let clients: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(place.address).unwrap()).collect();
        let failed = hale.event("nginx", "detected: check open_files failed 2 times");
        let of_master = format!(" in pid {master},");
        assert!(failed.contains("not below 100") && !failed.contains(&of_master), "{failed}");
        drop(clients);
        hale.event("nginx", "recovered in");
        hale.stop();
        assert_recovered_from(&place, "nginx", "open_files");
    }
}

mod needs_python {
    use super::*;
    use crate::harness::{poke, python};

    /// An event loop that spins takes a whole core, and answers nobody.
    #[test]
    fn a_spinning_loop_is_cpu() {
        let place = Place::new();
        place.write("app.py", include_str!("app.py"));
        let service = format!(
            "[service.app]\ncommand = [\"{}\", \"@D/app.py\", \"@H\", \"@P\", \"@D/reports\"]\nstop.grace = \"200ms\"\n",
            python()
        );
        let checks = ["kind = \"cpu\"\nbelow = \"30%\"\nfor = \"4s\"", "kind = \"listen\"\naddress = \"@A\""];
        let checks = checks.map(|keys| check("app", keys));
        let hale = place.hale(&[service.as_str(), &checks.concat()].concat());
        hale.ready("app");
        let _never_answered = poke(place.address, "/spin");
        place.report("spinning");
        let failed = hale.event("app", "detected: check cpu failed 2 times");
        assert!(failed.contains(" % of a core over 4") && failed.contains("not below 30 %"), "{failed}");
        hale.event("app", "recovered in");
        hale.stop();
        assert_recovered_from(&place, "app", "cpu");
    }
}

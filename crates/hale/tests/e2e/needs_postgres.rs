//! PostgreSQL that still runs and refuses connections.

mod needs_root {
    use crate::harness::{Place, as_nobody, is_alive};
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    /// Where `postgres` and `initdb` are: Debian has them in no PATH.
    fn programs() -> PathBuf {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let folders = versions.map(|entry| entry.path().join("bin"));
        folders.filter(|bin| bin.join("initdb").exists()).max().unwrap_or_else(|| PathBuf::from("/usr/local/bin"))
    }

    /// Takes a connection and keeps it for as long as it lives; `None`: there was none to take.
    fn connection(place: &Place) -> Option<Child> {
        let mut client = Command::new("psql");
        client.args(["-h", &place.address.ip().to_string(), "-p", &place.address.port().to_string(), "-U", "nobody"]);
        client.args(["-d", "postgres", "-c", "\\echo connected", "-c", "select pg_sleep(1000)"]);
        let mut client = client.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line == "connected\n" {
            return Some(client);
        }
        client.wait().unwrap();
        None
    }

    /// All of its connections are taken: it accepts one more only to say so. A connection proves nothing, a query does.
    #[test]
    fn without_a_free_connection_it_accepts_and_only_a_query_finds_it() {
        let mut place = Place::new();
        as_nobody(&mut place);
        let bin = programs();
        let mut initdb = Command::new(&place.wrapper[0]);
        initdb.args(&place.wrapper[1..]).arg(bin.join("initdb")).args(["-U", "nobody", "-A", "trust", "-N", "-D"]);
        let made = initdb.arg(place.path("data")).current_dir("/").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let hale = place.hale(&format!(
            r#"
[service.postgres]
command = ["{}/postgres", "-D", "@D/data", "-h", "@H", "-p", "@P", "-k", "@D", "-c", "max_connections=4", "-c", "superuser_reserved_connections=0", "-c", "max_wal_senders=0", "-c", "fsync=off"]
stop.signal = "SIGINT"
stop.grace = "5s"
restart.crash_loop = false
start.within = "2m"
[[service.postgres.check]]
kind = "tcp"
address = "@A"
every = "200ms"
[[service.postgres.check]]
kind = "exec"
name = "query"
command = ["psql", "-h", "@H", "-p", "@P", "-U", "nobody", "-d", "postgres", "-tAc", "select 1"]
every = "200ms"
timeout = "20s"
"#,
            bin.display()
        ));
        let first = hale.ready("postgres");
        // It may be the check's own query that has the last place, for a moment.
        let mut clients: Vec<Child> = Vec::new();
        while clients.len() < 4 {
            clients.extend(connection(&place));
        }
        hale.event("postgres", "detected: check query failed 3 times");
        hale.event("postgres", "recovered in");
        assert!(!is_alive(first));
        for mut client in clients {
            client.wait().unwrap();
        }
        hale.stop();
        assert_eq!(place.causes("postgres"), [("check".into(), "recovered".into())]);
        let last = place.records("postgres", "check_failed").pop().unwrap();
        assert!(last["check"] == "query" && last["detail"].as_str().unwrap().contains("too many clients"), "{last}");
    }
}

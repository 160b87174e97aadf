//! The API against its own description: Schemathesis (PyPI) asks everything that the document allows, and much that it does not.

use crate::harness::Place;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// Carries each connection to the Unix socket at `to`: Schemathesis speaks TCP only.
fn bridge(listener: TcpListener, to: PathBuf) {
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, UnixStream::connect(&to)) else { continue };
            let (Ok(mut back_client), Ok(mut back_server)) = (client.try_clone(), server.try_clone()) else { continue };
            thread::spawn(move || {
                let _ended = io::copy(&mut client, &mut server);
                let _gone = server.shutdown(Shutdown::Write);
            });
            thread::spawn(move || {
                let _ended = io::copy(&mut back_server, &mut back_client);
                let _gone = back_client.shutdown(Shutdown::Both);
            });
        }
    });
}

#[test]
fn the_api_is_what_its_description_says() {
    let place = Place::new();
    let hale = place.hale("[service.web]\ncommand = [\"sleep\", \"1000\"]\nrestart.crash_loop = false\n");
    hale.event("web", "ready");
    for socket in ["run/read.sock", "run/control.sock"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        bridge(listener, place.path(socket));
        let output = Command::new(std::env::var("HALE_TEST_SCHEMATHESIS_PYTHON").unwrap())
            .args(["-m", "schemathesis.cli", "run", &format!("{url}/v1/openapi.json"), "--url", &url])
            // A stream has no end; a name that is not taken is 404, however right it looks.
            .args(["--exclude-path", "/v1/records", "--checks", "all", "--exclude-checks", "positive_data_acceptance"])
            .args(["--max-examples", "50", "--seed", "1", "--no-color"])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{socket}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    hale.stop();
}

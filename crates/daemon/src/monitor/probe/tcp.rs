//! The `tcp` check: a connection can be made.

use super::connect::Resolver;
use super::{Deadline, Verdict};

/// Connects to `address` and closes the connection again.
pub(super) async fn probe(address: &str, resolver: &Resolver, deadline: Deadline) -> Result<Verdict, Verdict> {
    resolver.connect(address, None, deadline).await?;
    Ok(Verdict::pass(format_args!("connected in {}", deadline.elapsed())))
}

#[cfg(test)]
mod tests {
    use crate::monitor::probe::testing::{LONG, assert_fails, assert_passes, free_port, run, serve};
    use hale_core::event::ProbeFailure;
    use hale_core::policy::CheckKind;
    use hale_core::time::Span;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_listener_passes_by_address_and_by_name() {
        let address = serve(|_stream| async { Ok(()) }).await;
        assert_passes(&run(CheckKind::Tcp { address: address.to_string() }, LONG).await, "connected in ");
        let by_name = format!("localhost:{}", address.port());
        assert_passes(&run(CheckKind::Tcp { address: by_name }, LONG).await, "connected in ");
    }

    #[tokio::test]
    async fn a_port_without_listener_is_refused() {
        let address = format!("127.0.0.1:{}", free_port());
        let outcome = run(CheckKind::Tcp { address: address.clone() }, LONG).await;
        assert_fails(&outcome, ProbeFailure::Wrong, &format!("connection refused ({address})"));
    }

    /// A listener whose queue is full is what a stopped process looks like from outside: Linux answers nothing.
    #[tokio::test]
    async fn a_full_queue_is_no_answer_in_time() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener: TcpListener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        for _ in 0..2 {
            queue.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let outcome = run(CheckKind::Tcp { address: address.to_string() }, Span::from_ms(100)).await;
        let detail = format!("no answer within 100 ms: waiting for the connection to {address}");
        assert_fails(&outcome, ProbeFailure::Timeout, &detail);
        assert!(outcome.took_us >= 100_000, "{outcome:?}");
    }

    mod needs_redis {
        use super::*;
        use crate::monitor::probe::testing::Foreign;
        use rustix::process::Signal;
        use std::process::Command;

        #[tokio::test]
        async fn redis_passes_until_it_is_killed() {
            let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
            let (redis, _) = Foreign::start(command.arg("--dir").arg(dir.path()), "Ready to accept connections");
            let kind = CheckKind::Tcp { address: format!("127.0.0.1:{port}") };
            assert_passes(&run(kind.clone(), LONG).await, "connected in ");
            // Stopped, the kernel still answers for it: a `tcp` check sees no hang.
            redis.signal(Signal::STOP);
            assert_passes(&run(kind.clone(), LONG).await, "connected in ");
            drop(redis);
            assert_fails(&run(kind, LONG).await, ProbeFailure::Wrong, "connection refused");
        }
    }
}

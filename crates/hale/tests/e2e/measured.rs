//! What services measure of themselves: metrics, progress and loop lag of real libraries, and gRPC health.

mod needs_services {
    use crate::harness::{Place, is_alive, poke};
    use std::env::var;

    /// The Python that has the packages.
    fn python() -> String {
        var("HALE_TEST_SERVICES_PYTHON").expect("cargo xtask test sets it")
    }

    fn place(program: &str, text: &str) -> Place {
        let place = Place::new();
        place.write(program, text);
        place
    }

    /// A service `app` that is `app.py`.
    fn app(more: &str) -> String {
        let python = python();
        format!(
            "[service.app]\ncommand = [\"{python}\", \"@D/app.py\"]\nstop.grace = \"200ms\"\nrestart.crash_loop = false\n{more}"
        )
    }

    /// An asyncio server on the address, of which one request holds up the loop for good. Its metrics are served by a
    /// thread of their own, as prometheus_client does it, and tell how late the loop is; so does its notify socket.
    const ASYNCIO: &str = r#"
import asyncio, os, socket, threading, time
from prometheus_client import Gauge, start_http_server
EVERY = 0.02
last = time.monotonic()
Gauge("app_loop_lag_seconds", "How late the loop is.").set_function(lambda: max(0, time.monotonic() - last - EVERY))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
async def tick():
    global last
    while True:
        due = last + EVERY
        await asyncio.sleep(EVERY)
        last = time.monotonic()
        if "NOTIFY_SOCKET" in os.environ:
            notify.sendto(b"X_HALE_LOOP_LAG_USEC=%d" % (max(0, last - due) * 1e6), os.environ["NOTIFY_SOCKET"])
async def serve(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    if b" /wedge " in head:
        threading.Event().wait()
async def main():
    start_http_server(@P + 1000, "@H")
    server = await asyncio.start_server(serve, "@H", @P)
    await asyncio.gather(tick(), server.serve_forever())
asyncio.run(main())
"#;

    fn metrics(place: &Place) -> String {
        format!("http://{}:{}/metrics", place.address.ip(), place.address.port() + 1_000)
    }

    #[test]
    fn a_blocked_asyncio_loop_is_found_by_its_own_metric() {
        let place = place("app.py", ASYNCIO);
        let url = metrics(&place);
        let hale = place.hale(&app(&format!(
            "[[service.app.check]]\nkind = \"loop_lag\"\nbelow = \"1s\"\nevery = \"100ms\"\ntimeout = \"5s\"\n\
             url = \"{url}\"\nmetric = \"app_loop_lag_seconds\"\n"
        )));
        let first = hale.ready("app");
        let _no_answer = poke(place.address, "/wedge");
        hale.event("app", "detected: check loop_lag failed 3 times");
        hale.event("app", "recovered in");
        assert!(!is_alive(first));
        hale.stop();
        assert_eq!(place.causes("app"), [("loop_lag".into(), "recovered".into())]);
        let last = place.records("app", "check_failed").pop().unwrap();
        assert!(last["detail"].as_str().unwrap().contains("late, not below 1 s"), "{last}");
    }

    #[test]
    fn a_blocked_asyncio_loop_says_nothing_and_that_is_told() {
        let place = place("app.py", ASYNCIO);
        let check = "[[service.app.check]]\nkind = \"loop_lag\"\nbelow = \"30s\"\nevery = \"500ms\"\n";
        let hale = place.hale(&app(check));
        let first = hale.ready("app");
        let _no_answer = poke(place.address, "/wedge");
        hale.event("app", "detected: check loop_lag failed 3 times");
        hale.event("app", "recovered in");
        assert!(!is_alive(first));
        hale.stop();
        assert_eq!(place.causes("app"), [("loop_lag".into(), "recovered".into())]);
        let last = place.records("app", "check_failed").pop().unwrap();
        assert!(last["detail"].as_str().unwrap().starts_with("X_HALE_LOOP_LAG_USEC was not said for "), "{last}");
    }

    /// A worker of Celery with redis between, and its metrics: how much is done, and how much waits. The first job is
    /// stuck for ever, in the first process only; it is gone with it, as Celery takes a job off the queue before it begins.
    const WORKER: &str = r#"
import os, sys, threading
import redis
from celery import Celery
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
broker = "redis://@H:@P/0"
app = Celery("app", broker=broker)
store = redis.Redis.from_url(broker)
@app.task
def job(number):
    if store.incr("begun") == 1:
        threading.Event().wait()
    store.incr("done")
    if number == 9:
        with open("@D/reports", "w") as reports:
            reports.write("the last job is done\n")
class Queue:
    scrapes = 0
    def collect(self):
        Queue.scrapes += 1
        if Queue.scrapes == 40:
            with open("@D/reports", "w") as reports:
                reports.write("40 times asked\n")
        yield CounterMetricFamily("jobs_done", "Jobs that are done.", value=int(store.get("done") or 0))
        yield GaugeMetricFamily("jobs_waiting", "Jobs that wait or run.", value=int(store.get("sent") or 0) - int(store.get("done") or 0) - int(store.get("lost") or 0))
if __name__ == "__main__" and sys.argv[1:] == ["send"]:
    for number in range(10):
        job.delay(number)
        store.incr("sent")
elif __name__ == "__main__":
    # What the process before had begun is gone with it.
    store.set("lost", int(store.get("begun") or 0) - int(store.get("done") or 0))
    REGISTRY.register(Queue())
    start_http_server(@P + 1000, "@H")
    app.worker_main(["worker", "--pool=threads", "--concurrency=1", "--loglevel=INFO", "--without-mingle", "--without-gossip"])
"#;

    #[test]
    fn a_celery_worker_is_stuck_with_a_full_queue_and_idle_with_an_empty_one() {
        let place = place("app.py", WORKER);
        let (url, python) = (metrics(&place), python());
        let hale = place.hale(&format!(
            r#"
[service.redis]
command = ["redis-server", "--bind", "@H", "--port", "@P", "--dir", "@D", "--save", ""]
stop.grace = "200ms"
[[service.redis.check]]
kind = "tcp"
address = "@A"

{}after = ["redis"]
start.within = "2m"
[[service.app.check]]
kind = "progress"
within = "2s"
every = "100ms"
timeout = "5s"
url = "{url}"
metric = "jobs_done_total"
while_pending = {{ metric = "jobs_waiting" }}
"#,
            app("")
        ));
        let first = hale.ready("app");
        // Twice as long as it may be without progress, and nothing is there to be done.
        place.report("40 times asked");
        assert_eq!(place.status("app")["checks"][0]["detail"], "nothing to do");
        let program = place.path("app.py");
        let mut sender = std::process::Command::new(&python);
        assert!(sender.arg(&program).arg("send").status().unwrap().success());
        hale.event("app", "detected: check progress failed once");
        hale.event("app", "recovered in");
        assert!(!is_alive(first));
        // Those that were not begun are done by the next process.
        place.report("the last job is done");
        hale.stop();
        assert_eq!(place.causes("app"), [("no_progress".into(), "recovered".into())]);
        let failed = &place.records("app", "check_failed")[0];
        assert!(failed["detail"].as_str().unwrap().ends_with(": 0 done"), "{failed}");
    }

    /// Python's health server; once it is asked by hand it does not serve any more.
    const GRPC: &str = r#"
import signal, grpc
from concurrent import futures
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_insecure_port("@A")
of = health.HealthServicer()
states = health_pb2.HealthCheckResponse
of.set("bot.v1.Bot", states.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(of, server)
server.start()
while True:
    signal.sigwait([signal.SIGUSR1])
    of.set("bot.v1.Bot", states.NOT_SERVING)
"#;

    #[test]
    fn a_grpc_server_that_does_not_serve_is_replaced() {
        let place = place(
            "app.py",
            &GRPC.replace(
                "import signal, grpc",
                "import signal, grpc\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",
            ),
        );
        let hale = place.hale(&app(
            "[[service.app.check]]\nkind = \"grpc\"\naddress = \"@A\"\nservice = \"bot.v1.Bot\"\nevery = \"100ms\"\ntimeout = \"5s\"\n",
        ));
        let first = hale.ready("app");
        crate::harness::send(first, rustix::process::Signal::USR1);
        hale.event("app", "detected: check grpc failed 3 times");
        hale.event("app", "recovered in");
        hale.stop();
        assert_eq!(place.causes("app"), [("check".into(), "recovered".into())]);
        let last = place.records("app", "check_failed").pop().unwrap();
        assert_eq!(last["detail"], "not serving (bot.v1.Bot), expected serving");
    }
}

mod needs_node {
    use crate::harness::{Place, is_alive, poke};

    /// A server of Node whose loop one request holds up again and again, for less than any time-out, and another one for
    /// good. It tells the longest delay of its loop by Node's own histogram.
    const SERVER: &str = r#"
const http = require("http");
const { monitorEventLoopDelay } = require("perf_hooks");
const delay = monitorEventLoopDelay({ resolution: 10 });
delay.enable();
function busy(ms) { const end = Date.now() + ms; while (Date.now() < end); }
http.createServer((request, response) => {
  if (request.url === "/stall") setInterval(() => busy(400), 410);
  if (request.url === "/wedge") while (true);
  if (request.url === "/metrics") {
    const max = delay.max / 1e9;
    delay.reset();
    response.end(`# TYPE nodejs_eventloop_lag_max_seconds gauge\nnodejs_eventloop_lag_max_seconds ${max}\n`);
  } else response.end("ok");
}).listen(@P, "@H");
"#;

    const SERVICE: &str = r#"
[service.app]
command = ["node", "@D/app.js"]
stop.grace = "200ms"
restart.crash_loop = false
start.within = "2m"
[[service.app.check]]
kind = "loop_lag"
below = "300ms"
every = "1s"
timeout = "20s"
failures = 3
url = "http://@A/metrics"
metric = "nodejs_eventloop_lag_max_seconds"
"#;

    #[test]
    fn a_loop_that_stalls_again_and_again_is_late_and_not_down() {
        let place = Place::new();
        place.write("app.js", SERVER);
        let hale = place.hale(SERVICE);
        let first = hale.ready("app");
        let _answer = poke(place.address, "/stall");
        hale.event("app", "detected: check loop_lag failed 3 times");
        hale.event("app", "recovered in");
        assert!(!is_alive(first));
        hale.stop();
        assert_eq!(place.causes("app"), [("loop_lag".into(), "recovered".into())]);
    }

    #[test]
    fn a_loop_that_is_blocked_for_good_hangs() {
        let place = Place::new();
        place.write("app.js", SERVER);
        let hale = place.hale(&SERVICE.replace("timeout = \"20s\"\nfailures = 3", "timeout = \"2s\"\nfailures = 1"));
        hale.ready("app");
        let _no_answer = poke(place.address, "/wedge");
        hale.event("app", "detected: check loop_lag failed once");
        hale.event("app", "recovered in");
        hale.stop();
        assert_eq!(place.causes("app"), [("hang".into(), "recovered".into())]);
    }
}

mod needs_node_exporter {
    use crate::harness::{Place, is_alive};

    /// Prometheus' own exporter, with what another program leaves in a file for it: beyond the bound it is restarted, and
    /// what nobody wrote is no failure.
    #[test]
    fn metrics_of_a_real_exporter_are_compared() {
        let place = Place::new();
        std::fs::create_dir(place.path("text")).unwrap();
        place.write("text/queue.prom", "queue_depth{queue=\"mail\"} 3\nqueue_depth{queue=\"sms\"} 900\n");
        let hale = place.hale(
            r#"
[service.app]
command = ["sh", "-c", """
echo 'queue_depth{queue="mail"} 3' > @D/text/queue.new; mv @D/text/queue.new @D/text/queue.prom
exec prometheus-node-exporter --web.listen-address=@A --collector.textfile.directory=@D/text --collector.disable-defaults --collector.textfile --collector.loadavg
"""]
stop.grace = "200ms"
restart.crash_loop = false
start.within = "2m"
[[service.app.check]]
kind = "metric"
url = "http://@A/metrics"
metric = 'queue_depth{queue="mail"}'
below = 100
every = "100ms"
timeout = "10s"
[[service.app.check]]
kind = "metric"
name = "load"
url = "http://@A/metrics"
metric = "node_load1"
above = -1
every = "100ms"
timeout = "10s"
"#,
        );
        let first = hale.ready("app");
        // The exporter reads whole files only, as they are renamed.
        place.write("text/queue.new", "other_depth 1\n");
        std::fs::rename(place.path("text/queue.new"), place.path("text/queue.prom")).unwrap();
        place.until(|| {
            let detail = place.status("app")["checks"][0]["detail"].to_string();
            detail.contains("there is no queue_depth{").then_some(()).ok_or(detail)
        });
        assert!(is_alive(first));
        place.write("text/queue.new", "queue_depth{queue=\"mail\"} 1e2\n");
        std::fs::rename(place.path("text/queue.new"), place.path("text/queue.prom")).unwrap();
        hale.event("app", "detected: check metric failed 3 times");
        hale.event("app", "recovered in");
        hale.stop();
        assert_eq!(place.causes("app"), [("metric".into(), "recovered".into())]);
        let last = place.records("app", "check_failed").pop().unwrap();
        assert_eq!(last["detail"], "queue_depth{queue=\"mail\"} is 100, not below 100");
    }
}

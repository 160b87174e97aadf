"""An HTTP service on asyncio that fails when it is asked to, in the ways that real ones do."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time

host, port, reports = sys.argv[1], int(sys.argv[2]), sys.argv[3]
state = {"delay": 0.0, "status": "200 OK"}


def report(text):
    with open(reports, "w") as pipe:
        pipe.write(text + "\n")


def notify(text):
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(text.encode(), path)


def stray():
    """Forks twice and takes a session of its own: nobody's child, nobody's group."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(3, 1024)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            report(f"stray {os.getpid()}")
            while True:
                signal.pause()
        os._exit(0)


def deadlock(*_):
    """What a shutdown hook that waits for its own lock does."""
    report("deadlocked")
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


async def serve(reader, writer):
    path = (await reader.readline()).decode().split(" ")[1]
    if path == "/health":
        await asyncio.sleep(state["delay"])
    elif path == "/block":
        report("blocked")
        time.sleep(100_000)
    elif path == "/spin":
        report("spinning")
        while True:
            pass
    elif path == "/slow":
        state["delay"] = 1.5
    elif path == "/wrong":
        state["status"] = "503 Service Unavailable"
    elif path == "/crash":
        os._exit(7)
    elif path == "/stray":
        stray()
    elif path == "/deadlock":
        signal.signal(signal.SIGTERM, deadlock)
    writer.write(f"HTTP/1.1 {state['status']}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
    await writer.drain()
    writer.close()


async def heartbeats():
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(os.environ["WATCHDOG_USEC"]) / 4_000_000)


async def main():
    server = await asyncio.start_server(serve, host, port)
    if "WATCHDOG_USEC" in os.environ:
        beat = asyncio.ensure_future(heartbeats())
    notify("READY=1\nSTATUS=serving")
    async with server:
        await server.serve_forever()


asyncio.run(main())

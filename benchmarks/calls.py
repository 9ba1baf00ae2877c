"""Measure the service's calls over gRPC, beside a gRPC service that does nothing: `python -m benchmarks.calls`.

The client is `h2load`, which is written in C and takes little of the processors' time (Debian: nghttp2-client). The
processor time of a call is that of the service's process.
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import typer

from benchmarks.table import Table, machine, versions
from encoder_service.encoder import load_encoder
from encoder_service.rpc import wire
from encoder_service.v1 import encoder_pb2, search_pb2
from tests.soak.running import digits, pngs, serving, store

# Numbers of calls in flight, and seconds of each measurement. With more calls in flight, the service may reject some,
# which h2load counts as answered.
_IN_FLIGHT = (1, 8)
_SECONDS = 5
_BATCH = 64
# Number of rounds. In each, every call is measured once with each number in flight.
_ROUNDS = 2
_EMPTY = "/benchmarks.Empty/Call"
_SEARCH = "/encoder_service.v1.SearchService/Search"
_BATCH_SEARCH = "/encoder_service.v1.SearchService/BatchSearch"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of a call.

    Attributes:
        rate: Calls per second.
        p50_ms: Median latency, in milliseconds.
        cpu_ms: Processor time of the service for one call, in milliseconds.
    """

    rate: float
    p50_ms: float
    cpu_ms: float


def compare(rounds: int = _ROUNDS) -> Table:
    """Measure each call and return one row for each call and number of calls in flight."""
    if shutil.which("h2load") is None:
        sys.exit("expected the program h2load, which makes the calls, found none: install nghttp2-client")
    seen: dict[tuple[str, int], list[Measured]] = {}
    with (
        store(60_000) as url,
        serving(url) as service,
        _empty_service() as (empty, empty_pid),
        tempfile.TemporaryDirectory() as scratch,
    ):
        for _ in range(rounds):
            for name, (method, request) in _calls().items():
                address, pid = (empty, empty_pid) if method == _EMPTY else (service.address, service.process.pid)
                for count in _IN_FLIGHT:
                    measured = _measure(f"http://{address}{method}", request, count, pid, Path(scratch))
                    seen.setdefault((name, count), []).append(measured)
    rows = [
        (
            name,
            str(count),
            f"{median(run.rate for run in runs):,.0f}",
            f"{median(run.p50_ms for run in runs):.2f}",
            f"{median(run.cpu_ms for run in runs):.2f}",
        )
        for (name, count), runs in seen.items()
    ]
    note = f"{(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n{versions(['grpcio', 'qdrant-edge-py'])}."
    columns = ("call", "in flight", "calls a second", "p50, ms", "processor time of the service, ms a call")
    return Table("Calls over gRPC, 60,000 images", columns, rows, note)


def _calls() -> dict[str, tuple[str, bytes]]:
    """Return the method and the request of each call that is measured."""
    files = pngs(_BATCH)
    code = load_encoder("mnist").encode_images(digits(1))[0]
    by_image = search_pb2.SearchRequest(gallery="mnist", image=encoder_pb2.Image(encoded=files[0]))
    by_code = search_pb2.SearchRequest(gallery="mnist", code=wire.code_to_proto(code))
    batch = search_pb2.BatchSearchRequest(
        requests=[search_pb2.SearchRequest(gallery="mnist", image=encoder_pb2.Image(encoded=file)) for file in files]
    )
    return {
        "nothing, in a service of its own": (_EMPTY, b""),
        "`Search` by code": (_SEARCH, by_code.SerializeToString()),
        "`Search` by image": (_SEARCH, by_image.SerializeToString()),
        f"`BatchSearch` of {_BATCH} images": (_BATCH_SEARCH, batch.SerializeToString()),
    }


def _measure(url: str, request: bytes, in_flight: int, pid: int, scratch: Path) -> Measured:
    body, log = scratch / "body", scratch / "log"
    body.write_bytes(b"\0" + struct.pack(">I", len(request)) + request)  # as gRPC frames a message
    log.unlink(missing_ok=True)
    before_s = _cpu_s(pid)
    command = [
        *("h2load", "-D", str(_SECONDS), "-c", "1", "-t", "1", "-m", str(in_flight), "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", str(log), url),
    ]
    subprocess.run(command, check=True, capture_output=True)
    # each line has the time at which a call began, its HTTP status, and its duration in microseconds
    durations = [int(line.split()[2]) for line in log.read_text().splitlines()]
    return Measured(len(durations) / _SECONDS, median(durations) / 1e3, (_cpu_s(pid) - before_s) / len(durations) * 1e3)


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _empty_service() -> Iterator[tuple[str, int]]:
    """Run a gRPC service whose only call does nothing, and yield its address and its process id."""
    command = [sys.executable, "-m", "benchmarks.calls", "empty"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.wait()


app = typer.Typer(add_completion=False, help=__doc__)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, rounds: int = _ROUNDS) -> None:
    """Measure, and print the table."""
    if context.invoked_subcommand is None:
        print(machine())
        print(compare(rounds))


@app.command(hidden=True)
def empty() -> None:
    """Serve a call that does nothing, until the process is killed."""
    server = grpc.server(ThreadPoolExecutor(8))
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    service, _, method = _EMPTY[1:].partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    app()

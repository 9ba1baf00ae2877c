"""Measure commands and searches as a user sees them: `python -m benchmarks.service`.

Client and service run on the same machine, and the figures are medians. For comparison, the benchmark also measures the
method of the article that docs/training.md names: encode one image with Keras's `predict`, and find its neighbours
among the same 60,000 codes with scikit-learn's `kneighbors`.
"""

import io
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from PIL import Image

from benchmarks.memory import process_memory_mb
from benchmarks.table import Table, machine
from benchmarks.timing import seconds
from encoder_service.client import Client
from encoder_service.encoder import load_encoder
from encoder_service.images import normalise
from ingest.sources import open_source

_BIN = Path(sys.executable).parent
# Number of concurrent searches when throughput is measured.
_IN_FLIGHT = 32
# Number of rounds of the comparison. In each round, the article's method searches once, and each shipped encoder
# 20 times.
_ROUNDS = 30


def compare() -> Table:
    """Load MNIST, run the measurements, and return one row for each."""
    queries = [_png(item.image()) for item in open_source("mnist", "test", limit=1000)]
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = f"edge:{folder}/store"
        load_s = seconds(lambda: _command("ingest", "load", "mnist", "--store", store))
        rows.append(
            ("`ingest load mnist`, whole process", f"{load_s:.1f} s", f"{60_000 / load_s:,.0f} images a second")
        )
        query_file = Path(folder, "query.png")
        query_file.write_bytes(queries[7])
        search = ("encoder-service", "search", str(query_file), "--json", "--gallery", "mnist", "--store", store)
        search_ms = _median_ms(lambda: _command(*search), 7)
        rows.append(
            ("`encoder-service search FILE --json` without a service, whole process", f"{search_ms:.0f} ms", "")
        )
        _command("ingest", "load", "mnist", "--store", store, "--gallery", "seed", "--encoder", "seed")
        with _service(store) as (pid, address, ready_s), Client(address) as client:
            rows.append(("`encoder-service serve`, until ready, two galleries", f"{ready_s:.2f} s", ""))
            rows += _searches(client, queries)
            rows.append(("memory of this service, resident", f"{process_memory_mb(pid):.0f} MB", ""))
            rows += _beside_article(client, queries)
    note = (__doc__ or "").partition("\n\n")[2].strip()
    return Table("Commands and searches", ("measurement", "figure", ""), rows, note)


def _searches(client: Client, queries: list[bytes]) -> Iterator[tuple[str, str, str]]:
    search = partial(client.search, gallery="mnist")
    for query in queries:
        search(query)
    times = [seconds(partial(search, query)) * 1e3 for query in queries]
    p99 = f"p99 {quantiles(times, n=100)[98]:.2f} ms"
    yield "one search over gRPC from Python, PNG, 5 hits", f"{median(times):.2f} ms", p99
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        together_s = seconds(lambda: list(pool.map(search, queries)))
    yield f"searches a second from Python, {_IN_FLIGHT} in flight", f"{len(queries) / together_s:.0f}", ""


def _beside_article(client: Client, queries: list[bytes]) -> Iterator[tuple[str, str, str]]:
    """Run the article's method and ours alternately, so that other load on the machine slows both equally."""
    article = _article_search()
    article()
    article_s: list[float] = []
    ours_s: dict[str, list[float]] = {"seed": [], "mnist": []}
    for _ in range(_ROUNDS):
        article_s.append(seconds(article))
        for name, times in ours_s.items():
            times += [seconds(partial(client.search, query, name)) for query in queries[:20]]
    yield "alternately: the article's method", f"{median(article_s) * 1e3:.1f} ms", ""
    for name, times in ours_s.items():
        ratio = f"{median(article_s) / median(times):.0f} times as fast"
        yield f"alternately: one search over gRPC, encoder `{name}`", f"{median(times) * 1e3:.2f} ms", ratio


def _article_search() -> Callable[[], object]:
    from sklearn.neighbors import NearestNeighbors

    from training.model import seed

    images = [item.image() for item in open_source("mnist", "train")]
    inputs = normalise(images, (28, 28, 1))
    neighbours = NearestNeighbors(n_neighbors=5).fit(load_encoder("seed").encode(inputs))
    keras_encoder = seed().encoder
    return lambda: neighbours.kneighbors(keras_encoder.predict(inputs[:1], verbose=0))


@contextmanager
def _service(store: str) -> Iterator[tuple[int, str, float]]:
    """Start the service, and yield its process id, its address and the seconds until it was ready."""
    begun = time.perf_counter()
    command = [str(_BIN / "encoder-service"), "serve", "--port", "0", "--store", store]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        address = service.stdout.readline().split()[-1]
        yield service.pid, address, time.perf_counter() - begun
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait()


def _median_ms(call: Callable[[], object], runs: int) -> float:
    call()
    return median(seconds(call) for _ in range(runs)) * 1e3


def _command(name: str, *arguments: str) -> None:
    subprocess.run([_BIN / name, *arguments], check=True, capture_output=True)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    print(machine())
    print(compare())

"""Measure the speed of the service: `python -m benchmarks.service` (or `make bench`).

Client and service run on the same machine, and the figures are medians. For comparison, the benchmark also measures the
method of the article that docs/training.md names: encode one image with Keras's `predict`, and find its neighbours
among the same 60,000 codes with scikit-learn's `kneighbors`.
"""

import io
import os
import platform
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


def main() -> None:
    """Load MNIST, run the measurements and print them."""
    queries = [_png(item.image()) for item in open_source("mnist", "test", limit=1000)]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        store = f"edge:{folder}/store"
        load_s = _seconds(lambda: _command("ingest", "load", "mnist", "--store", store))
        print(f"ingest load mnist, whole process      {load_s:8.2f} s   {60_000 / load_s:,.0f} images/s")
        query_file = Path(folder, "query.png")
        query_file.write_bytes(queries[7])
        search = ("encoder-service", "search", str(query_file), "--json", "--gallery", "mnist", "--store", store)
        print(f"search FILE --json, whole process     {_median_ms(lambda: _command(*search), 7) / 1e3:8.2f} s")
        _command("ingest", "load", "mnist", "--store", store, "--gallery", "seed", "--encoder", "seed")
        with _service(store) as (pid, address), Client(address) as client:
            _measure_searches(client, queries)
            print(f"resident memory, two galleries open   {process_memory_mb(pid):8.0f} MB")
            _compare_with_article(client, queries)


def _measure_searches(client: Client, queries: list[bytes]) -> None:
    search = partial(client.search, gallery="mnist")
    for query in queries:
        search(query)
    times = [_seconds(partial(search, query)) * 1e3 for query in queries]
    print(f"one search over gRPC, PNG, 5 hits     {median(times):8.2f} ms  p99 {quantiles(times, n=100)[98]:.2f}")
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        together_s = _seconds(lambda: list(pool.map(search, queries)))
    print(f"searches a second, {_IN_FLIGHT} in flight      {len(queries) / together_s:8.0f}")


def _compare_with_article(client: Client, queries: list[bytes]) -> None:
    """Run the article's method and ours alternately, so that other load on the machine slows both equally."""
    article = _article_search()
    article()
    article_s: list[float] = []
    ours_s: dict[str, list[float]] = {"seed": [], "mnist": []}
    for _ in range(_ROUNDS):
        article_s.append(_seconds(article))
        for name, times in ours_s.items():
            times += [_seconds(partial(client.search, query, name)) for query in queries[:20]]
    print(f"alternately: the article's method     {median(article_s) * 1e3:8.2f} ms")
    for name, times in ours_s.items():
        ratio = median(article_s) / median(times)
        print(f"          one search, encoder {name:<8}{median(times) * 1e3:8.2f} ms  {ratio:.0f} times as fast")


def _article_search() -> Callable[[], object]:
    from sklearn.neighbors import NearestNeighbors

    from training.model import seed

    images = [item.image() for item in open_source("mnist", "train")]
    inputs = normalise(images, (28, 28, 1))
    neighbours = NearestNeighbors(n_neighbors=5).fit(load_encoder("seed").encode(inputs))
    keras_encoder = seed().encoder
    return lambda: neighbours.kneighbors(keras_encoder.predict(inputs[:1], verbose=0))


@contextmanager
def _service(store: str) -> Iterator[tuple[int, str]]:
    """Start the service, print the seconds until it is ready, and yield its process id and address."""
    begun = time.perf_counter()
    command = [str(_BIN / "encoder-service"), "serve", "--port", "0", "--store", store]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        address = service.stdout.readline().split()[-1]
        print(f"encoder-service serve, until ready    {time.perf_counter() - begun:8.2f} s")
        yield service.pid, address
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait()


def _median_ms(call: Callable[[], object], runs: int) -> float:
    call()
    return median(_seconds(call) for _ in range(runs)) * 1e3


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _command(name: str, *arguments: str) -> None:
    subprocess.run([_BIN / name, *arguments], check=True, capture_output=True)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()

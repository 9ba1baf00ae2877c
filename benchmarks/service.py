"""How fast the service is, beside the article's way: `python -m benchmarks.service` (or `make bench`).

Everything is measured in one run, client and service on the same machine. The article's way is Keras `predict` on one
image, then scikit-learn `kneighbors` over the same 60,000 codes. Medians.
"""

import io
import os
import platform
import re
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

import numpy as np
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import load_encoder
from encoder_service.images import normalise
from ingest.sources import open_source

_BIN = Path(sys.executable).parent
_IN_FLIGHT = 32
_ROUNDS = 30


def main() -> None:
    """Load MNIST, measure, print."""
    queries = [_png(item.image()) for item in open_source("mnist", "test", limit=1000)]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        store = f"edge:{folder}/store"
        load_s = _seconds(lambda: _command("ingest", "load", "mnist", "--store", store))
        print(f"ingest load mnist, whole process      {load_s:8.2f} s   {60_000 / load_s:,.0f} images/s")
        query_file = Path(folder, "query.png")
        query_file.write_bytes(queries[7])
        search = ("encoder-service", "search", str(query_file), "--json", "--name", "mnist", "--store", store)
        print(f"search FILE --json, whole process     {_median_ms(lambda: _command(*search), 7) / 1e3:8.2f} s")
        _command("ingest", "load", "mnist", "--store", store, "--name", "seed", "--encoder", "seed")
        with _service(store) as (pid, address), Client(address) as client:
            _measure_searches(client, queries)
            print(f"resident memory, two galleries open   {_resident_mb(pid):8.0f} MB")
            _compare_with_article(client, queries)


def _measure_searches(client: Client, queries: list[bytes]) -> None:
    search = partial(client.search, gallery="mnist")
    for query in queries:
        search(query)
    times = [_seconds(partial(search, query)) * 1e3 for query in queries]
    print(f"one search over gRPC, PNG in, 5 out   {median(times):8.2f} ms  p99 {quantiles(times, n=100)[98]:.2f}")
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        together_s = _seconds(lambda: list(pool.map(search, queries)))
    print(f"searches a second, {_IN_FLIGHT} in flight      {len(queries) / together_s:8.0f}")


def _compare_with_article(client: Client, queries: list[bytes]) -> None:
    """Take turns, so that whatever else the machine does slows both."""
    article = _article_search()
    article()
    article_s: list[float] = []
    ours_s: dict[str, list[float]] = {"seed": [], "mnist": []}
    for _ in range(_ROUNDS):
        article_s.append(_seconds(article))
        for name, times in ours_s.items():
            times += [_seconds(partial(client.search, query, name)) for query in queries[:20]]
    print(f"in turns: the article's way           {median(article_s) * 1e3:8.2f} ms")
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
    """Start the service, print how long it took, give its process id and address."""
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


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float(np.nan)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()

"""Compare Qdrant Edge, as galleries use it, with other ways to search codes: `python -m benchmarks.stores`.

Every candidate stores the codes of MNIST's 60,000 training images and searches for the five nearest to each of 2,000
test images, one at a time, on one thread where the candidate lets that be chosen. Graph searches use the settings of
the profile `memory`: m 16, ef_construct 100, ef 64. Each candidate is built in one process and searched in another.

Galleries store a label, a key and a thumbnail with each code, and write all of it to disk before they acknowledge it.
Some of the others keep codes only, and some only in memory. The searches that are measured begin when a gallery has
read its files in the background.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.memory import process_memory_mb
from benchmarks.table import Table, machine, versions
from benchmarks.timing import seconds
from encoder_service.encoder import load_encoder
from encoder_service.images import thumbnail_png
from gallery import Entry, GallerySpec, Query
from gallery.edge.shard import EdgeGallery
from gallery.profiles import PROFILES
from ingest.progress import Stages
from ingest.sources import open_source

Codes = NDArray[np.float32]
# Returns the row numbers of the five codes that are nearest to a code.
Search = Callable[[Codes], Any]

# Settings of graph searches: neighbours of a point, candidates at insertion, candidates of a search.
_M, _EF_CONSTRUCT, _EF = 16, 100, 64
_HITS = 5
# Number of queries, and of searches before the first that is measured.
_QUERIES, _WARM_UP = 2000, 200
# Number of times that each candidate is built and searched.
_ROUNDS = 1
_THUMBNAIL = thumbnail_png(next(iter(open_source("mnist", "train", limit=1))).image())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to store and search codes.

    Attributes:
        name: Its name in the table.
        package: The package that it comes from.
        has_payload: Whether it stores labels or keys with the codes.
        build: Stores codes, (n, 128), in a folder, and builds the index.
        load: Opens the folder for searches.
    """

    name: str
    package: str
    has_payload: bool
    build: Callable[[Path, Codes], None]
    load: Callable[[Path], Search]


def _entry(row: int, code: Codes) -> Entry:
    return Entry(str(row), code, str(row % 10), f"{row:064x}", _THUMBNAIL)


def _edge(profile: str) -> Candidate:
    def gallery(folder: Path) -> EdgeGallery:
        return EdgeGallery(folder / "shard", GallerySpec("codes", "mnist", "f" * 64, 128), PROFILES[profile])

    def build(folder: Path, codes: Codes) -> None:
        opened = gallery(folder)
        for rows in _batches(len(codes), 1024):
            opened.upsert([_entry(row, codes[row]) for row in rows])
        opened.index()
        opened.close()

    def load(folder: Path) -> Search:
        opened = gallery(folder)
        return lambda code: [int(hit.key) for hit in opened.search(Query(code))]

    return Candidate(f"gallery, profile `{profile}`", "qdrant-edge-py", True, build, load)


def _hnswlib() -> Candidate:
    import hnswlib

    def build(folder: Path, codes: Codes) -> None:
        index = hnswlib.Index("l2", codes.shape[1])
        index.init_index(len(codes), ef_construction=_EF_CONSTRUCT, M=_M)
        index.add_items(codes)
        index.save_index(str(folder / "index"))

    def load(folder: Path) -> Search:
        index = hnswlib.Index("l2", 128)
        index.load_index(str(folder / "index"))
        index.set_ef(_EF)
        return lambda code: index.knn_query(code, _HITS, num_threads=1)[0][0]

    return Candidate("hnswlib", "hnswlib", False, build, load)


def _faiss(name: str, factory: str) -> Candidate:
    import faiss

    def build(folder: Path, codes: Codes) -> None:
        index = faiss.index_factory(codes.shape[1], factory)
        if hasattr(index, "hnsw"):
            index.hnsw.efConstruction = _EF_CONSTRUCT
        index.add(codes)
        faiss.write_index(index, str(folder / "index"))

    def load(folder: Path) -> Search:
        faiss.omp_set_num_threads(1)
        index = faiss.read_index(str(folder / "index"))
        if hasattr(index, "hnsw"):
            index.hnsw.efSearch = _EF
        return lambda code: index.search(code[None], _HITS)[1][0]

    return Candidate(name, "faiss-cpu", False, build, load)


def _usearch() -> Candidate:
    from usearch.index import Index

    def index() -> Any:
        return Index(
            ndim=128, metric="l2sq", dtype="f32", connectivity=_M, expansion_add=_EF_CONSTRUCT, expansion_search=_EF
        )

    def build(folder: Path, codes: Codes) -> None:
        built = index()
        built.add(np.arange(len(codes)), codes)
        built.save(str(folder / "index"))

    def load(folder: Path) -> Search:
        loaded = index()
        loaded.load(str(folder / "index"))
        return lambda code: loaded.search(code, _HITS, threads=1).keys

    return Candidate("usearch", "usearch", False, build, load)


def _chroma() -> Candidate:
    import chromadb

    hnsw = {"space": "l2", "ef_construction": _EF_CONSTRUCT, "max_neighbors": _M, "ef_search": _EF}

    def collection(folder: Path) -> Any:
        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        return client.get_or_create_collection("codes", configuration={"hnsw": hnsw}, embedding_function=None)

    def build(folder: Path, codes: Codes) -> None:
        opened = collection(folder)
        for rows in _batches(len(codes), 5000):
            opened.add(
                [str(row) for row in rows], codes[rows.start : rows.stop], [{"label": str(row % 10)} for row in rows]
            )

    def load(folder: Path) -> Search:
        opened = collection(folder)
        return lambda code: [int(key) for key in opened.query(code[None], n_results=_HITS)["ids"][0]]

    return Candidate("Chroma", "chromadb", True, build, load)


def _lancedb() -> Candidate:
    import lancedb
    import pyarrow as pa

    def build(folder: Path, codes: Codes) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
        columns = {"row": pa.array(range(len(codes))), "label": pa.array([str(r % 10) for r in range(len(codes))])}
        table = lancedb.connect(folder).create_table("codes", pa.table({"vector": vectors, **columns}))
        table.create_index(
            metric="l2",
            vector_column_name="vector",
            index_type="IVF_HNSW_SQ",
            num_partitions=1,
            m=_M,
            ef_construction=_EF_CONSTRUCT,
        )

    def load(folder: Path) -> Search:
        table = lancedb.connect(folder).open_table("codes")
        return lambda code: [
            found["row"]
            for found in table.search(code).ef(_EF).refine_factor(4).limit(_HITS).select(["row", "_distance"]).to_list()
        ]

    return Candidate("LanceDB", "lancedb", True, build, load)


def _sklearn() -> Candidate:
    from sklearn.neighbors import NearestNeighbors

    def build(folder: Path, codes: Codes) -> None:
        (folder / "index").write_bytes(pickle.dumps(NearestNeighbors(n_neighbors=_HITS).fit(codes)))

    def load(folder: Path) -> Search:
        neighbours = pickle.loads((folder / "index").read_bytes())
        return lambda code: neighbours.kneighbors(code[None], return_distance=False)[0]

    return Candidate("scikit-learn", "scikit-learn", False, build, load)


def _qdrant_local() -> Candidate:
    from qdrant_client import QdrantClient, models

    def build(folder: Path, codes: Codes) -> None:
        client = QdrantClient(path=str(folder))
        client.create_collection("codes", models.VectorParams(size=128, distance=models.Distance.EUCLID))
        client.upload_collection("codes", codes, ids=range(len(codes)), batch_size=1024)
        client.close()

    def load(folder: Path) -> Search:
        client = QdrantClient(path=str(folder))
        return lambda code: [point.id for point in client.query_points("codes", code, limit=_HITS).points]

    return Candidate("Qdrant's client, local mode", "qdrant-client", True, build, load)


CANDIDATES: dict[str, Callable[[], Candidate]] = {
    **{f"edge-{profile}": partial(_edge, profile) for profile in PROFILES},
    "hnswlib": _hnswlib,
    "faiss-hnsw": partial(_faiss, "FAISS, HNSW", f"HNSW{_M}"),
    "faiss-flat": partial(_faiss, "FAISS, exact", "Flat"),
    "usearch": _usearch,
    "chroma": _chroma,
    "lancedb": _lancedb,
    "sklearn": _sklearn,
    "qdrant-local": _qdrant_local,
}


@dataclass(frozen=True, slots=True)
class Searched:
    """The measurements of one process that searched.

    Attributes:
        open_s: Seconds to open the folder and answer the first search.
        p50_ms: Median latency of a search, in milliseconds.
        p99_ms: 99th percentile of the latency, in milliseconds.
        recall_at_5: Share of the exact five nearest codes that were found, 0 to 1.
        memory_mb: Memory that opening and searching took, in MB: all resident memory, with pages of files.
    """

    open_s: float
    p50_ms: float
    p99_ms: float
    recall_at_5: float
    memory_mb: float


def compare_all() -> Table:
    """Build and search every candidate."""
    with Stages() as stages:
        return compare(list(CANDIDATES), _ROUNDS, stages)


def compare(names: list[str], rounds: int, stages: Stages) -> Table:
    """Build and search each candidate, and return one row for each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _prepare(folder, stages)
        built: dict[str, list[float]] = {name: [] for name in names}
        searched: dict[str, list[Searched]] = {name: [] for name in names}
        sizes: dict[str, float] = {}
        with stages.stage("candidates", rounds * len(names), "run") as advance:
            for _ in range(rounds):
                for name in names:
                    with tempfile.TemporaryDirectory(dir=scratch) as own:
                        built[name].append(float(_in_process("build", name, folder, Path(own))))
                        sizes[name] = _size_mb(Path(own))
                        searched[name].append(Searched(**_in_process("search", name, folder, Path(own))))
                    advance(1)
    rows = [_row(CANDIDATES[name](), built[name], sizes[name], searched[name]) for name in names]
    packages = sorted({CANDIDATES[name]().package for name in names})
    note = f"{__doc__.partition(chr(10) * 2)[2].strip()}\n\n{versions(packages)}."
    columns = (
        "candidate",
        "build, s",
        "disk, MB",
        "payload",
        "open, s",
        "p50, ms",
        "p99, ms",
        "recall@5",
        "memory, MB",
    )
    return Table("Five nearest of 60,000 codes", columns, rows, note)


def _prepare(folder: Path, stages: Stages) -> None:
    """Write the codes, the queries and the exact five nearest codes of each query to files."""
    encoder = load_encoder("mnist")
    for name, split, limit in (("codes", "train", None), ("queries", "test", _QUERIES)):
        images = [item.image() for item in open_source("mnist", split, limit=limit)]
        with stages.stage(f"encoding {split}", len(images)) as advance:
            codes = []
            for rows in _batches(len(images), 1000):
                codes.append(encoder.encode_images(images[rows.start : rows.stop]))
                advance(len(rows))
        np.save(folder / f"{name}.npy", np.concatenate(codes))
    stored, queries = np.load(folder / "codes.npy"), np.load(folder / "queries.npy")
    distances = np.square(stored).sum(axis=1) - 2 * queries @ stored.T
    np.save(folder / "nearest.npy", np.argsort(distances, axis=1)[:, :_HITS])


def _in_process(step: str, name: str, data: Path, own: Path) -> Any:
    command = [sys.executable, "-m", "benchmarks.stores", "step", step, name, str(data), str(own)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _build(candidate: Candidate, data: Path, own: Path) -> float:
    codes = np.load(data / "codes.npy")
    return seconds(partial(candidate.build, own, codes))


def _search(candidate: Candidate, data: Path, own: Path) -> Searched:
    queries, nearest = np.load(data / "queries.npy"), np.load(data / "nearest.npy")
    before_mb = process_memory_mb(os.getpid())
    begun = time.perf_counter()
    search = candidate.load(own)
    search(queries[0])
    open_s = time.perf_counter() - begun
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join()
    for code in queries[:_WARM_UP]:
        search(code)
    times, found = [], 0
    for code, rows in zip(queries, nearest, strict=True):
        begun = time.perf_counter()
        hits = search(code)
        times.append((time.perf_counter() - begun) * 1e3)
        found += len(set(map(int, hits)) & set(rows.tolist()))
    p99_ms = float(np.quantile(times, 0.99))
    return Searched(open_s, median(times), p99_ms, found / nearest.size, process_memory_mb(os.getpid()) - before_mb)


def _row(candidate: Candidate, build_s: list[float], disk_mb: float, searched: list[Searched]) -> tuple[str, ...]:
    def middle(field: str) -> float:
        return float(median(getattr(run, field) for run in searched))

    return (
        candidate.name,
        f"{median(build_s):.1f}",
        f"{disk_mb:.0f}",
        "yes" if candidate.has_payload else "no",
        f"{middle('open_s'):.2f}",
        f"{middle('p50_ms'):.3f}",
        f"{middle('p99_ms'):.3f}",
        f"{middle('recall_at_5'):.4f}",
        f"{middle('memory_mb'):.0f}",
    )


def _batches(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 2**20


app = typer.Typer(add_completion=False, help=__doc__)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, candidate: list[str] | None = None, rounds: int = _ROUNDS) -> None:
    """Compare all candidates, or those named with --candidate."""
    if context.invoked_subcommand is None:
        print(machine())
        with Stages() as stages:
            print(compare(candidate or list(CANDIDATES), rounds, stages))


@app.command(hidden=True)
def step(kind: str, name: str, data: Path, own: Path) -> None:
    """Build or search one candidate, and print the measurements as JSON."""
    chosen = CANDIDATES[name]()
    print(json.dumps(_build(chosen, data, own) if kind == "build" else asdict(_search(chosen, data, own))))


if __name__ == "__main__":
    app()

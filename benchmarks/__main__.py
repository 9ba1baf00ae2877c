"""Run the benchmarks that fit into a quarter of an hour, and write benchmarks/RESULTS.md: `python -m benchmarks`."""

import datetime
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks import calls, encoding, loading, service, stores
from benchmarks.table import Table, machine

_RESULTS = Path(__file__).parent / "RESULTS.md"
_PLOT = Path(__file__).parent / "stores.png"


def main() -> None:
    """Print each table as soon as it is measured, and write all of them at the end."""
    measurements: dict[str, Callable[[], Table]] = {
        "service": service.compare,
        "calls": calls.compare,
        "encoding": encoding.compare,
        "loading": loading.compare,
        "stores": stores.compare_all,
    }
    print(machine())
    tables = []
    for name, measure in measurements.items():
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        # in a process of its own, because a process can choose TensorFlow's number of threads only once
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            tables.append(pool.submit(measure).result())
        print(tables[-1], flush=True)
    tables[-1].plot("p50, ms", _PLOT)
    head = (
        "# Results of the benchmarks\n\n"
        f"`make bench` has measured all of this in one run, on {datetime.date.today():%Y-%m-%d}: {machine()}. Figures "
        "are medians. Client and service run on the same machine.\n"
    )
    plot = f"![The time of a search for five codes, for each store, as bars]({_PLOT.name})\n"
    _RESULTS.write_text("\n".join([head, *(table.markdown() for table in tables), plot]))


if __name__ == "__main__":
    main()

"""Shutdowns and kills of a service under load: `python -m tests.soak.endings`.

After each of twenty SIGTERMs, every accepted call must have been answered. After twenty SIGKILLs while images were
added, every acknowledged image must be in the gallery exactly once.
"""

import random
import signal
import sys
import threading
import time
from contextlib import closing

import grpc

from benchmarks.table import machine
from encoder_service.client import Client
from encoder_service.v1 import encoder_pb2, search_pb2, search_pb2_grpc
from encoder_service.writer import NewImage
from gallery import open_store
from gallery.errors import LookalikeError
from tests.soak.running import Running, judge, pngs, serving, store

# Shutdowns, and as many kills.
_TIMES = 20
# Threads that search at the same time.
_CALLERS = 8


def main() -> None:
    """End services, and count lost calls and lost images."""
    print(machine())
    good = True
    with store(3000) as url:
        files = pngs(200)
        answered = rejected = 0
        lost: list[str] = []
        for turn in range(_TIMES):
            with serving(url) as service:
                outcomes = _terminated(service, files, random.Random(turn).uniform(0.2, 1.0))
            answered += outcomes.count("OK")
            rejected += outcomes.count("rejected")
            lost += [outcome for outcome in outcomes if outcome.startswith("lost")]
        good &= judge(
            f"SIGTERM under load, {_TIMES} times: {answered:,} calls answered, {rejected:,} rejected during shutdown, "
            f"{len(lost)} accepted but lost {lost[:2] or ''}",
            not lost and answered > 0,
        )
        acknowledged: set[str] = set()
        for turn in range(_TIMES):
            with serving(url) as service:
                acknowledged |= _killed(service, files, turn)
        with closing(open_store(url).open("mnist")) as gallery:
            keys = [entry.key for batch in gallery.scroll() for entry in batch]
        missing, twice = len(acknowledged - set(keys)), len(keys) - len(set(keys))
        good &= judge(
            f"SIGKILL while images are added, {_TIMES} times: {len(acknowledged):,} images acknowledged, "
            f"{missing} missing, {twice} duplicated",
            missing == twice == 0 and len(acknowledged) > 0,
        )
    sys.exit(not good)


def _terminated(service: Running, files: list[bytes], after_s: float) -> list[str]:
    """Search without a pause, send SIGTERM, and return the outcome of each call."""
    outcomes: list[str] = []

    def call() -> None:
        with grpc.insecure_channel(service.address) as channel:
            search = search_pb2_grpc.SearchServiceStub(channel).Search
            for turn in range(100_000):
                picture = encoder_pb2.Image(encoded=files[turn % len(files)])
                try:
                    search(search_pb2.SearchRequest(gallery="mnist", image=picture), timeout=30)
                    outcomes.append("OK")
                except grpc.RpcError as error:
                    # these two details mean that the call had begun; any other, that the service no longer accepted it
                    rejected = error.code() is grpc.StatusCode.UNAVAILABLE and not any(
                        detail in str(error.details()) for detail in ("Cancelling all calls", "Socket closed")
                    )
                    outcomes.append("rejected" if rejected else f"lost: {error.code().name} {error.details()}")
                    return

    callers = [threading.Thread(target=call) for _ in range(_CALLERS)]
    for caller in callers:
        caller.start()
    time.sleep(after_s)
    service.process.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join()
    assert service.process.wait(30) == 0
    return outcomes


def _killed(service: Running, files: list[bytes], turn: int) -> set[str]:
    """Add images, kill the service at a random one, and return the keys that it acknowledged."""
    last = random.Random(turn).randrange(1, 400)
    acknowledged = []
    with Client(service.address) as client:
        try:
            images = (NewImage(f"{turn}/{index}", files[index % len(files)]) for index in range(100_000))
            for index, answer in enumerate(client.add(images, "mnist")):
                assert answer is False
                acknowledged.append(f"{turn}/{index}")
                if index == last:
                    service.process.kill()
        except LookalikeError:
            pass
    return set(acknowledged)


if __name__ == "__main__":
    main()

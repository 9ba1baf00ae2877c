"""The lines that show progress where stderr is not a terminal."""

from types import SimpleNamespace

import pytest

from ingest.progress import Stages


def test_slow_steps_are_shown_in_seconds_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 5.0, 8.0, 10.0, 10.5])
    monkeypatch.setattr("ingest.progress.time", SimpleNamespace(monotonic=lambda: next(times)))
    with Stages().stage("training", 10, "step") as advance:
        advance(1)
    with Stages().stage("searching", 30, "query") as advance:
        pass
    assert capsys.readouterr().err.splitlines() == [
        "training 1 of 10 steps, 5.0 s each, 45 s left",
        "training: 1 step in 8.0 s, 8.0 s each",
        "searching: 0.5 s",
    ]

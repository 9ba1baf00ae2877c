"""Whether a gallery is what its ledger and its sources say.

Asked of every version before it goes live, and by `ingest check` at any time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import Encoder, load_encoder
from gallery import Gallery, Query, Store
from gallery.errors import LookalikeError
from ingest.loading.ledger import Ledger, Row, Status
from ingest.progress import Advance, Stages
from ingest.sources import open_source

# Codes of one image may differ by rounding, as between one batch size and another, or one processor and another.
_ROUNDING = 1e-3
_NOTES = 5


def count_problems(gallery: Gallery, ledger: Ledger) -> list[str]:
    """Compare how many images a gallery holds with how many its ledger knows to be there."""
    held, known = gallery.count(), ledger.counts()[Status.OK]
    return [] if held == known else [f"the gallery holds {held:,} images, and its ledger says {known:,}"]


def code_problems(gallery: Gallery, encoder: Encoder, inputs: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Encode inputs again, compare the codes with those stored, and search for each.

    Args:
        gallery: Holds the codes.
        encoder: That which made them.
        inputs: By key, each (h, w, c).
    """
    problems: list[str] = []
    if not inputs:
        return problems
    keys = list(inputs)
    codes = encoder.encode(np.stack([inputs[key] for key in keys]))
    for key, code, entry in zip(keys, codes, gallery.get(keys), strict=True):
        if entry is None:
            problems.append(f"{key} is not in the gallery, and its ledger says that it is")
            continue
        away = float(np.linalg.norm(entry.code - code))
        if away > _ROUNDING * max(1.0, float(np.linalg.norm(code))):
            problems.append(f"{key}: its code is {away:.3g} away from what the encoder makes of its image")
        found = gallery.search(Query(entry.code))
        if not found or found[0].distance > _ROUNDING * max(1.0, float(np.linalg.norm(entry.code))):
            problems.append(f"{key}: a search for its own code does not find it")
    return problems


def check(store: Store, name: str, sample: int, stages: Stages) -> tuple[Sequence[str], int]:
    """Compare a gallery's live version with its manifest, its ledger, and a sample of its sources' images.

    Returns:
        A line for each thing that is wrong, and how many codes were made again and compared.

    Raises:
        StoreDamagedError: Its files can't be read.
        StoreLockedError: Another process has it open.
    """
    spec = store.spec(name)
    with stages.stage("files", None):
        problems = store.differences(name)
    if problems:
        return problems, 0
    encoder = load_encoder(spec.encoder)
    spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
    with closing(store.open(name)) as gallery, _ledger(store, name, gallery, stages) as ledger:
        wrong = count_problems(gallery, ledger)
        with stages.stage("images", None) as advance:
            inputs, notes = _sampled_inputs(ledger.sample(sample), encoder, advance)
        for note in notes[:_NOTES]:
            stages.say(f"note: {note}")
        if len(notes) > _NOTES:
            stages.say(f"note: and {len(notes) - _NOTES:,} more like these")
        return wrong + code_problems(gallery, encoder, inputs), len(inputs)


@contextmanager
def _ledger(store: Store, name: str, gallery: Gallery, stages: Stages) -> Iterator[Ledger]:
    """Yield the gallery's ledger; where a service has changed the gallery since, a copy that knows of it."""
    with closing(Ledger(store.local_folder(name))) as ledger, TemporaryDirectory() as scratch:
        if not store.modified_by_service(name):
            yield ledger
            return
        stages.say("note: images came or went through a service; the next `ingest load` puts them into the index")
        ledger.copy_to(Path(scratch))
        with closing(Ledger(Path(scratch))) as copied:
            copied.match(gallery.scroll())
            yield copied


def _sampled_inputs(
    sample: Mapping[str, Iterable[Row]], encoder: Encoder, advance: Advance
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Read images again, to encode them again.

    Args:
        sample: The images' rows, by the place of their source.
        encoder: Knows the shape of an input.
        advance: Told of every image that is passed.

    Returns:
        The inputs by key, and a line for each source or image that is not there any more, or no longer the same.
    """
    inputs: dict[str, NDArray[np.float32]] = {}
    notes: list[str] = []
    for place, rows in sample.items():
        wanted = {row.key: row for row in rows}
        if not place:
            notes.append(f"{len(wanted):,} images of the sample were loaded elsewhere, and could not be encoded again")
            continue
        try:
            source = open_source(place)
            for item in source:
                advance(1, source.count)
                row = wanted.pop(item.key, None)
                if row is None:
                    continue
                if item.sha256 == row.sha256:
                    inputs[item.key] = encoder.normalise([item.image()])[0]
                else:
                    notes.append(f"{item.key} has changed in {place} since it was loaded")
                if not wanted:
                    break
        except LookalikeError as error:
            notes.append(f"images of {place} could not be encoded again: {error}")
            continue
        notes += [f"{key} is no longer in {place}" for key in wanted]
    return inputs, notes

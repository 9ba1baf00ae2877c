"""The `autoencoder` command."""

import importlib.util
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.encoder import user_models
from encoder_service.terminal import JsonOption
from ingest.sources import SourceName
from ingest.sources.datasets import DATASETS
from training.errors import RecipeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_HELP = "Train encoders. Needs TensorFlow: pip install '.[train]' in a clone of Lookalike."

app = terminal.new_app(_HELP)


@app.callback(help=_HELP)
def autoencoder() -> None:
    """Make Typer keep `train` as a subcommand: without a callback, a single command would have no name."""


@app.command()
def train(
    source: Annotated[
        str, typer.Argument(help="mnist, fashion-mnist, or the path of a folder, archive or array of images.")
    ],
    name: Annotated[
        str, typer.Option(help="Name of the encoder. It is saved under this name in the user's models folder.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Save the encoder in this folder instead, under the folder's name.")
    ] = None,
    arch: Annotated[
        str,
        typer.Option(
            help="Architecture: contrastive, photos or seed. Default: contrastive for a dataset, photos for a path."
        ),
    ] = "",
    size: Annotated[
        int,
        typer.Option(
            min=0,
            help="Height and width of the encoder's inputs, in pixels. 0 means 28 for a dataset and 64 for a path.",
        ),
    ] = 0,
    channels: Annotated[
        int, typer.Option(help="1 for grey, 3 for colour. 0 means grey for a dataset and colour for a path.")
    ] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training images. Default: the architecture's own number.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Train on a path, not a dataset, for about this many minutes at this machine's current load."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed. The same seed gives the same weights on the same machine with the same number of cores."
        ),
    ] = 7,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images to train on.")] = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Start from random weights, not from those of the shipped encoder photos."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted training.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder without labels.

    Writes the encoder, its model card and pictures of the training. Ctrl-C ends the training early and keeps the best
    epoch so far. A training that is killed can be resumed with --resume.
    """
    if not (name or out):
        raise terminal.UsageError("expected a name for the encoder, such as --name photos, or --out FOLDER")
    if importlib.util.find_spec("tensorflow") is None:
        raise RecipeError(
            "training needs TensorFlow, which is not installed: pip install '.[train]' in a clone of Lookalike"
        )
    if not (out or _NAME.fullmatch(name)):
        raise RecipeError(
            f"--name {name!r}: expected letters, digits, '.', '-' and '_', beginning with a letter or digit"
        )
    folder = out or user_models() / name
    is_dataset = source in DATASETS
    if not is_dataset and (dataset := SourceName.parse(source).dataset):
        raise RecipeError(
            f"expected {dataset.name}, got {source}: a training reads the split train, and holds the split test out"
        )
    if is_dataset and channels == 3:
        raise RecipeError(f"--channels 3: expected a path, got the dataset {source}, whose images are grey")
    shape = {"size": size or (28 if is_dataset else 64), "channels": channels or (1 if is_dataset else 3)}
    if shape["channels"] not in (1, 3):
        raise RecipeError(f"channels: expected 1 or 3, got {channels}")
    # stop TensorFlow, which reads this on import, from logging hints about this processor; errors are still raised
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_back_stderr():
        from training.recipes import train_and_export

    card = train_and_export(
        source,
        arch,
        folder,
        **shape,
        seed=seed,
        epochs=epochs,
        minutes=minutes,
        limit=limit,
        from_scratch=from_scratch,
        resume=resume,
    )
    if as_json:
        print(json.dumps(card))
        return
    metrics = card["metrics"]
    print(f"{folder}: encoder {card['name']} ({card['fingerprint'][:8]}…), epoch {card['epochs']['kept']} kept")
    print(f"test MSE {metrics['test_mse']:.5f} (if every answer were the mean image: {metrics['mean_image_mse']:.5f})")
    print(f"next: ingest load {shlex.quote(source)} --encoder {shlex.quote(str(out.resolve()) if out else name)}")


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Print what the block writes to stderr, in C++ too, only if it fails.

    TensorFlow logs lines on this machine's processor when it is imported, whatever log level is set.
    """
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def main() -> None:
    """Run the command."""
    terminal.run(app)

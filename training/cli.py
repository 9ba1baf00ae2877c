"""The `autoencoder` command."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.encoder import user_models
from encoder_service.terminal import JsonOption
from ingest.sources.datasets import DATASETS
from training.errors import RecipeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

app = typer.Typer(
    help="Train encoders. Needs TensorFlow: pip install 'lookalike[train]'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


@app.callback()
def autoencoder() -> None:
    """Train encoders. Needs TensorFlow: pip install 'lookalike[train]'."""


@app.command()
def train(
    source: Annotated[str, typer.Argument(help="mnist, fashion-mnist, or a folder of images.")],
    name: Annotated[str, typer.Option(help="Name of the encoder, kept in the user's models folder.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the encoder instead; its name is the encoder's.")] = None,
    arch: Annotated[str, typer.Option(help="Architecture: contrastive, or seed.")] = "contrastive",
    size: Annotated[
        int, typer.Option(min=0, help="Height and width of the encoder's inputs, in pixels; 0 for the source's own.")
    ] = 0,
    channels: Annotated[int, typer.Option(help="1 for grey, 3 for colour; 0 for the source's own.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often every image is seen; the recipe's own.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed: the same one gives the same weights.")] = 7,
    limit: Annotated[int | None, typer.Option(min=1, help="Train on at most so many images.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was cut off.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder without labels, and write it with its model card and pictures. Ctrl-C keeps the best so far.

    A dataset's inputs are 28 pixels and grey; a folder's are 64 pixels and in colour.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise RecipeError("training needs TensorFlow, which is not installed: pip install 'lookalike[train]'")
    if not (name or out):
        raise RecipeError("expected --name for the user's models folder, or --out FOLDER, got neither")
    if not (out or _NAME.fullmatch(name)):
        raise RecipeError(
            f"--name {name!r}: expected letters, digits, '.', '-' and '_', beginning with a letter or digit"
        )
    folder = out or user_models() / name
    is_dataset = source in DATASETS
    shape = {"size": size or (28 if is_dataset else 64), "channels": channels or (1 if is_dataset else 3)}
    if shape["channels"] not in (1, 3):
        raise RecipeError(f"channels: expected 1 or 3, got {channels}")
    from training.recipes import train_and_export

    card = train_and_export(source, arch, folder, **shape, seed=seed, epochs=epochs, limit=limit, resume=resume)
    if as_json:
        print(json.dumps(card))
        return
    metrics = card["metrics"]
    print(f"{folder}: encoder {card['name']} ({card['fingerprint'][:8]}…), epoch {card['epochs']['kept']} kept")
    print(f"test MSE {metrics['test_mse']:.5f}, where the mean image gives {metrics['mean_image_mse']:.5f}")


def main() -> None:
    """Run the command."""
    terminal.run(app)

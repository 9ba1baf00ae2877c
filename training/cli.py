"""The `autoencoder` command."""

import importlib.util
import json
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.terminal import JsonOption
from training.errors import RecipeError

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
    source: Annotated[str, typer.Argument(help="mnist or fashion-mnist; its test split is never trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for the encoder; its name is the encoder's name.")],
    arch: Annotated[str, typer.Option(help="Architecture: seed.")] = "seed",
    epochs: Annotated[int | None, typer.Option(min=1, help="How often every image is seen; the recipe's own.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed: the same one gives the same weights.")] = 7,
    limit: Annotated[int | None, typer.Option(min=1, help="Train on at most so many images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder on a dataset, without its labels, and write it with its model card."""
    if importlib.util.find_spec("tensorflow") is None:
        raise RecipeError("training needs TensorFlow, which is not installed: pip install 'lookalike[train]'")
    from training.recipes import train_and_export

    card = train_and_export(source, arch, out, seed=seed, epochs=epochs, limit=limit)
    if as_json:
        print(json.dumps(card))
        return
    metrics = card["metrics"]
    print(f"{out}: encoder {card['name']} ({card['fingerprint'][:8]}…)")
    print(f"test MSE {metrics['test_mse']:.5f}, where answering black gives {metrics['all_black_mse']:.5f}")


def main() -> None:
    """Run the command."""
    terminal.run(app)

"""The `ingest plan` command."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from encoder_service.terminal import JsonOption
from gallery.plurals import counted
from gallery.profiles import DEFAULT_PROFILE, PROFILES


def plan(
    images: Annotated[str, typer.Option(help="Number of images, such as 60000, 100M or 1B.")],
    profile: Annotated[str, typer.Option(help=f"Storage profile, one of {', '.join(PROFILES)}.")] = DEFAULT_PROFILE,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Number of Qdrant nodes. Default: the smallest number with enough memory.")
    ] = None,
    ram: Annotated[str, typer.Option(help="Memory of a node.")] = "16GB",
    replicas: Annotated[int, typer.Option(min=1, help="Number of nodes that hold each image.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Estimate the machines that a gallery needs.

    Prints the number of nodes, their memory and disk space, and the time to load and index the images. The estimates
    come from measured coefficients.
    """
    from ingest import plan as planning

    count = planning.amount(images, "--images")
    result = planning.plan(count, profile, planning.amount(ram, "--ram"), nodes, replicas)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    print(f"{count:,.0f} images, profile {profile}, {replicas} replica{'s' * (replicas > 1)}, nodes of {ram}")
    print(f"nodes   {result.nodes:,}")
    for name, size in (("RAM", result.ram_bytes), ("disk", result.disk_bytes)):
        print(f"{name:<8}{planning.as_bytes(size)} in all, {planning.as_bytes(size / result.nodes)} a node")
    print(f"load    {planning.as_time(result.load_s)}")
    print(f"index   {planning.as_time(result.index_s)}")
    segments = counted(result.segments, "segment")
    print(f"build   {segments} a node; the fewest segments need {planning.as_bytes(result.build_bytes)}")
    print()
    for line in result.formula:
        print(line)
    single = f"--profile {result.single_node_profile}"
    if result.nodes < result.fewest_nodes:
        print(
            f"note: too little memory, so searches would wait for the disk: expected at least {result.fewest_nodes:,} "
            f"nodes, more --ram, or {single}, got --nodes {result.nodes}",
            file=sys.stderr,
        )
    elif result.nodes > replicas and result.single_node_profile != profile:
        print(f"With {single}, a single node of {ram} can serve all images.")

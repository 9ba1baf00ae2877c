"""100,000 mutated requests to a running service, made by Hypothesis: `python -m tests.soak.mutated`.

A request is a valid one of some RPC whose bytes were flipped, cut, doubled or replaced, with metadata that nobody
expects. None may be answered with INTERNAL or UNKNOWN, and the service lives on. `tests.soak.decoder` does the same
as often to what reads them, guided by coverage.
"""

import io
import sys
from collections import Counter
from typing import Any

import grpc
import typer
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from tests.soak.running import Running, judge, machine, pngs, serving, store

_FORBIDDEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
_Metadata = tuple[tuple[str, str | bytes], ...]
_KEYS = ("authorization", "x-request-id", "traceparent", "user-agent", "content-type-x", "k-bin")


def main(count: int = 100_000) -> None:
    """Send them."""
    print(machine())
    with store(500) as url, serving(url) as service:
        statuses, bad = _send(service, count)
        print(", ".join(f"{number:,} {status}" for status, number in statuses.most_common()))
        for line in bad[:5]:
            print(f"  {line}")
        good = judge(f"{statuses.total():,} mutated requests, {len(bad)} INTERNAL, UNKNOWN or UNAVAILABLE", not bad)
        good &= judge("the service lives", service.process.poll() is None)
    sys.exit(not good)


def _send(service: Running, count: int) -> tuple[Counter[str], list[str]]:
    """Return how the requests ended, and those that ended as none may."""
    statuses: Counter[str] = Counter()
    bad: list[str] = []
    with grpc.insecure_channel(service.address) as channel:

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(_valid()), _mutations(), _metadata())
        def send(base: tuple[str, bytes], mutations: list[tuple[str, float, bytes]], metadata: _Metadata):  # type: ignore[no-untyped-def]
            method, content = base
            status, told = _outcome(channel, method, _mutated(content, mutations), metadata)
            statuses[status.name] += 1
            if status in _FORBIDDEN:
                bad.append(f"{method}: {told}, after {mutations} with {metadata}")

        send()
    return statuses, bad


def _outcome(
    channel: grpc.Channel, method: str, content: bytes, metadata: _Metadata
) -> tuple[grpc.StatusCode, str | None]:
    name = f"/encoder_service.v1.{method}"
    try:
        if method.endswith(("Stream", "AddImages")):
            stream: Any = channel.stream_stream(name)
            list(stream(iter([content] * 2), timeout=30, metadata=metadata))
        else:
            call: Any = channel.unary_unary(name)
            call(content, timeout=30, metadata=metadata)
    except grpc.RpcError as raised:
        error: Any = raised
        return error.code(), error.debug_error_string()
    return grpc.StatusCode.OK, None


def _valid() -> list[tuple[str, bytes]]:
    files = [*pngs(3), *_other_formats()]
    images = [encoder_pb2.Image(encoded=content) for content in files]
    images.append(encoder_pb2.Image(raw=encoder_pb2.RawImage(width=5, height=4, channel_count=3, pixels=bytes(60))))
    code = encoder_pb2.Code(values=[0.5] * 128)
    searches = [search_pb2.SearchRequest(gallery="mnist", image=image, limit=3) for image in images]
    searches.append(search_pb2.SearchRequest(code=code, exclude_keys=["a", "b"], max_distance=9.0))
    searches.append(
        search_pb2.SearchRequest(key="mnist/train/1", filter=search_pb2.Filter(labels=["1"]), include_thumbnails=True)
    )
    made: list[tuple[str, Message]] = [("SearchService/Search", one) for one in searches]
    made += [("SearchService/BatchSearch", search_pb2.BatchSearchRequest(requests=searches[-2:]))]
    made += [("EncoderService/Encode", encoder_pb2.EncodeRequest(image=image)) for image in images]
    made += [("EncoderService/EncodeStream", encoder_pb2.EncodeStreamRequest(image=images[0]))]
    made += [("EncoderService/Decode", encoder_pb2.DecodeRequest(code=code))]
    made += [("EncoderService/GetEncoder", encoder_pb2.GetEncoderRequest())]
    add = gallery_pb2.AddImagesRequest(gallery="mnist", key="k", image=images[0], label="l")
    made += [("GalleryService/AddImages", add)]
    made += [("GalleryService/DeleteImages", gallery_pb2.DeleteImagesRequest(gallery="mnist", keys=["k", "l"]))]
    made += [("GalleryService/GetGallery", gallery_pb2.GetGalleryRequest(gallery="mnist"))]
    made += [("GalleryService/ListGalleries", gallery_pb2.ListGalleriesRequest())]
    return [(method, message.SerializeToString()) for method, message in made]


def _other_formats() -> list[bytes]:
    picture = Image.radial_gradient("L").resize((24, 24)).convert("RGB")
    contents = []
    for form in ("JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA"):
        file = io.BytesIO()
        picture.save(file, form)
        contents.append(file.getvalue())
    return contents


def _mutations() -> st.SearchStrategy[list[tuple[str, float, bytes]]]:
    kinds = st.sampled_from(["flip", "cut", "double", "insert", "replace", "end"])
    return st.lists(st.tuples(kinds, st.floats(0, 1), st.binary(min_size=1, max_size=12)), max_size=6)


def _mutated(content: bytes, mutations: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, more in mutations:
        at = int(place * len(content))
        rest = content[at:]
        match kind:
            case "flip":
                rest = bytes([rest[0] ^ more[0]]) + rest[1:] if rest else rest
            case "cut":
                rest = rest[len(more) :]
            case "double":
                rest = rest[: more[0]] + rest
            case "insert":
                rest = more + rest
            case "replace":
                rest = more + rest[len(more) :]
            case "end":
                rest = b""
        content = content[:at] + rest
    return content


def _metadata() -> st.SearchStrategy[_Metadata]:
    values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
    pair = st.sampled_from(_KEYS).flatmap(
        lambda key: st.tuples(st.just(key), st.binary(max_size=20) if key.endswith("-bin") else values)
    )
    pairs: st.SearchStrategy[Any] = st.lists(pair, max_size=3)
    return pairs.map(tuple)


if __name__ == "__main__":
    typer.run(main)

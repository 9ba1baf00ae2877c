"""Image search by example: encode images into codes, search galleries of codes, and serve both over gRPC.

Each public name is imported on first use, so that a program loads gRPC or Pillow only if it uses a name that needs it.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from encoder_service.client import Client
    from encoder_service.encoder import Encoder, EncoderSpec, load_encoder
    from encoder_service.limits import Limits
    from encoder_service.searcher import Key, Searcher, SearchRequest, SearchResult
    from encoder_service.writer import NewImage

__all__ = [
    "Client",
    "Encoder",
    "EncoderSpec",
    "Key",
    "Limits",
    "NewImage",
    "SearchRequest",
    "SearchResult",
    "Searcher",
    "load_encoder",
]

_MODULES = {
    "Client": "client",
    "Encoder": "encoder",
    "EncoderSpec": "encoder",
    "Key": "searcher",
    "Limits": "limits",
    "NewImage": "writer",
    "SearchRequest": "searcher",
    "SearchResult": "searcher",
    "Searcher": "searcher",
    "load_encoder": "encoder",
}

if not typing.TYPE_CHECKING:  # a type checker that saw `__getattr__` would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

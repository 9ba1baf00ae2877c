"""Create a gallery's collection, configured by the gallery's storage profile, and the indexes of its payload."""

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from gallery.profiles import Memory, Profile, Quantised, find_profile
from gallery.remote.connection import SLOW_CALL_S, QdrantConnection
from gallery.spec import GallerySpec, Placement

# Timeout of the creation of a collection, in seconds. It bounds the wait for a cluster node that is down.
_CREATE_S = 30
_MEMORY = {
    Memory.COLD: models.Memory.COLD,
    Memory.CACHED: models.Memory.CACHED,
    Memory.PINNED: models.Memory.PINNED,
}


def create_collection(
    connection: QdrantConnection, collection: str, spec: GallerySpec, placement: Placement, metadata: Mapping[str, Any]
) -> None:
    """Create a collection for a gallery. `RemoteGallery.index` builds its graph later."""
    profile = find_profile(spec.profile)
    connection.call(
        lambda client, timeout_s: client.create_collection(
            collection,
            vectors_config=models.VectorParams(
                size=spec.code_size, distance=models.Distance.EUCLID, memory=_MEMORY[profile.codes]
            ),
            shard_number=placement.shards,
            replication_factor=placement.replicas,
            write_consistency_factor=placement.write_consistency,
            hnsw_config=models.HnswConfigDiff(
                m=0,
                payload_m=0,
                ef_construct=profile.ef_construct,
                inline_storage=profile.inline or None,
                memory=_MEMORY[profile.graph],
            ),
            optimizers_config=models.OptimizersConfigDiff(max_segment_size=profile.max_segment_mb * 1024),
            quantization_config=_quantisation(profile),
            payload=models.PayloadStorageParams(memory=_MEMORY[profile.payload]),
            id_tracker=models.IdTrackerParams(memory=_MEMORY[profile.ids]),
            metadata=dict(metadata),
            timeout=timeout_s,
        ),
        _CREATE_S,
    )


def placement_of(connection: QdrantConnection, collection: str) -> Placement:
    """Return how a collection is distributed over the nodes."""
    params = connection.call(lambda client, _: client.get_collection(collection)).config.params
    return Placement(params.shard_number, params.replication_factor, params.write_consistency_factor)


def limit_segments(connection: QdrantConnection, collection: str, segment_mb: int) -> None:
    """Set the largest size of a collection's segments, in MB of full codes. Existing segments stay as they are."""
    optimizers = models.OptimizersConfigDiff(max_segment_size=segment_mb * 1024)
    connection.call(
        lambda client, timeout_s: client.update_collection(collection, optimizers_config=optimizers, timeout=timeout_s),
        SLOW_CALL_S,
    )


def index_payload(connection: QdrantConnection, collection: str, spec: GallerySpec) -> None:
    """Make the server index keys and labels. It is safe to repeat this."""
    schema = models.KeywordIndexParams(
        type=models.KeywordIndexType.KEYWORD, memory=_MEMORY[find_profile(spec.profile).payload], enable_hnsw=False
    )

    def index(field: str) -> None:
        connection.call(
            lambda client, timeout_s: client.create_payload_index(
                collection, field, schema, wait=True, timeout=timeout_s
            ),
            SLOW_CALL_S,
        )

    index("key")
    index("label")


def _quantisation(profile: Profile) -> models.QuantizationConfig | None:
    memory = _MEMORY[profile.shortened]
    match profile.quantised:
        case Quantised.NONE:
            return None
        case Quantised.INT8:
            int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, memory=memory)
            return models.ScalarQuantization(scalar=int8)
        case Quantised.TURBO4:
            return _turbo(models.TurboQuantBitSize.BITS4, memory)
        case Quantised.TURBO2:
            return _turbo(models.TurboQuantBitSize.BITS2, memory)


def _turbo(bits: models.TurboQuantBitSize, memory: models.Memory) -> models.TurboQuantization:
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, memory=memory))

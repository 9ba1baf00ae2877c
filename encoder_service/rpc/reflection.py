"""Serve gRPC reflection, with which clients download the protos: version v1, and v1alpha for older clients."""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

_V1ALPHA: str = reflection.SERVICE_NAME
_V1 = _V1ALPHA.replace("v1alpha", "v1")


def reflection_handlers(names: Iterable[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the gRPC handlers of both versions of reflection, which differ only in their package name.

    Args:
        names: Full names of the services that clients can look up, in addition to reflection itself.
    """
    _define_v1()
    servicer = reflection.ReflectionServicer((*names, _V1, _V1ALPHA))
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": info}) for name in (_V1, _V1ALPHA))


def _define_v1() -> None:
    """Register the proto of reflection v1, so that clients can download it too. gRPC registers only v1alpha."""
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(_V1)
    except KeyError:
        v1alpha = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
        text = json_format.MessageToJson(v1alpha).replace("v1alpha", "v1")
        pool.AddSerializedFile(json_format.Parse(text, FileDescriptorProto()).SerializeToString())

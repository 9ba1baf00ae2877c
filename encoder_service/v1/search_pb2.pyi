from encoder_service.v1 import encoder_pb2 as _encoder_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Relation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELATION_UNSPECIFIED: _ClassVar[Relation]
    RELATION_SAME: _ClassVar[Relation]
    RELATION_SIMILAR: _ClassVar[Relation]
    RELATION_UNRELATED: _ClassVar[Relation]
RELATION_UNSPECIFIED: Relation
RELATION_SAME: Relation
RELATION_SIMILAR: Relation
RELATION_UNRELATED: Relation

class SearchRequest(_message.Message):
    __slots__ = ("gallery", "image", "code", "key", "limit", "filter", "max_distance", "exclude_keys", "exact", "include_thumbnails", "as_is", "expand", "include_reconstruction", "include_code")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MAX_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_KEYS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    AS_IS_FIELD_NUMBER: _ClassVar[int]
    EXPAND_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_CODE_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    image: _encoder_pb2.Image
    code: _encoder_pb2.Code
    key: str
    limit: int
    filter: Filter
    max_distance: float
    exclude_keys: _containers.RepeatedScalarFieldContainer[str]
    exact: bool
    include_thumbnails: bool
    as_is: bool
    expand: int
    include_reconstruction: bool
    include_code: bool
    def __init__(self, gallery: _Optional[str] = ..., image: _Optional[_Union[_encoder_pb2.Image, _Mapping]] = ..., code: _Optional[_Union[_encoder_pb2.Code, _Mapping]] = ..., key: _Optional[str] = ..., limit: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., max_distance: _Optional[float] = ..., exclude_keys: _Optional[_Iterable[str]] = ..., exact: _Optional[bool] = ..., include_thumbnails: _Optional[bool] = ..., as_is: _Optional[bool] = ..., expand: _Optional[int] = ..., include_reconstruction: _Optional[bool] = ..., include_code: _Optional[bool] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, labels: _Optional[_Iterable[str]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("key", "distance", "label", "thumbnail_png", "distance_percentile", "relation")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_PNG_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    key: str
    distance: float
    label: str
    thumbnail_png: bytes
    distance_percentile: float
    relation: Relation
    def __init__(self, key: _Optional[str] = ..., distance: _Optional[float] = ..., label: _Optional[str] = ..., thumbnail_png: _Optional[bytes] = ..., distance_percentile: _Optional[float] = ..., relation: _Optional[_Union[Relation, str]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("hits", "gallery", "gallery_version", "encoder_fingerprint", "encode_ms", "search_ms", "encoder", "query_thumbnail_png", "reconstruction_error", "query_percentile", "prepared", "expanded_count", "input_png", "reconstruction_png", "code")
    HITS_FIELD_NUMBER: _ClassVar[int]
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    GALLERY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    QUERY_THUMBNAIL_PNG_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    QUERY_PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    EXPANDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUT_PNG_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_PNG_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    gallery: str
    gallery_version: int
    encoder_fingerprint: str
    encode_ms: float
    search_ms: float
    encoder: str
    query_thumbnail_png: bytes
    reconstruction_error: float
    query_percentile: float
    prepared: str
    expanded_count: int
    input_png: bytes
    reconstruction_png: bytes
    code: _encoder_pb2.Code
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., gallery: _Optional[str] = ..., gallery_version: _Optional[int] = ..., encoder_fingerprint: _Optional[str] = ..., encode_ms: _Optional[float] = ..., search_ms: _Optional[float] = ..., encoder: _Optional[str] = ..., query_thumbnail_png: _Optional[bytes] = ..., reconstruction_error: _Optional[float] = ..., query_percentile: _Optional[float] = ..., prepared: _Optional[str] = ..., expanded_count: _Optional[int] = ..., input_png: _Optional[bytes] = ..., reconstruction_png: _Optional[bytes] = ..., code: _Optional[_Union[_encoder_pb2.Code, _Mapping]] = ...) -> None: ...

class BatchSearchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SearchRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[SearchRequest, _Mapping]]] = ...) -> None: ...

class BatchSearchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[SearchResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[SearchResponse, _Mapping]]] = ...) -> None: ...

from encoder_service.v1 import encoder_pb2 as _encoder_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CompactionStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPACTION_STAGE_UNSPECIFIED: _ClassVar[CompactionStage]
    COMPACTION_STAGE_COPYING: _ClassVar[CompactionStage]
    COMPACTION_STAGE_INDEXING: _ClassVar[CompactionStage]
    COMPACTION_STAGE_DONE: _ClassVar[CompactionStage]
    COMPACTION_STAGE_NOT_NEEDED: _ClassVar[CompactionStage]
COMPACTION_STAGE_UNSPECIFIED: CompactionStage
COMPACTION_STAGE_COPYING: CompactionStage
COMPACTION_STAGE_INDEXING: CompactionStage
COMPACTION_STAGE_DONE: CompactionStage
COMPACTION_STAGE_NOT_NEEDED: CompactionStage

class Gallery(_message.Message):
    __slots__ = ("name", "version", "image_count", "encoder", "encoder_fingerprint", "code_size", "profile", "sources", "calibration", "published_at", "precision_at_5", "query_count", "duplicate_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CODE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_AT_5_FIELD_NUMBER: _ClassVar[int]
    QUERY_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    image_count: int
    encoder: str
    encoder_fingerprint: str
    code_size: int
    profile: str
    sources: _containers.RepeatedScalarFieldContainer[str]
    calibration: Calibration
    published_at: str
    precision_at_5: float
    query_count: int
    duplicate_count: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., image_count: _Optional[int] = ..., encoder: _Optional[str] = ..., encoder_fingerprint: _Optional[str] = ..., code_size: _Optional[int] = ..., profile: _Optional[str] = ..., sources: _Optional[_Iterable[str]] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ..., published_at: _Optional[str] = ..., precision_at_5: _Optional[float] = ..., query_count: _Optional[int] = ..., duplicate_count: _Optional[int] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("errors", "distances", "same_distance", "similar_distance", "min_flatness", "max_flatness", "is_relative")
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    SAME_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    MIN_FLATNESS_FIELD_NUMBER: _ClassVar[int]
    MAX_FLATNESS_FIELD_NUMBER: _ClassVar[int]
    IS_RELATIVE_FIELD_NUMBER: _ClassVar[int]
    errors: _containers.RepeatedScalarFieldContainer[float]
    distances: _containers.RepeatedScalarFieldContainer[float]
    same_distance: float
    similar_distance: float
    min_flatness: float
    max_flatness: float
    is_relative: bool
    def __init__(self, errors: _Optional[_Iterable[float]] = ..., distances: _Optional[_Iterable[float]] = ..., same_distance: _Optional[float] = ..., similar_distance: _Optional[float] = ..., min_flatness: _Optional[float] = ..., max_flatness: _Optional[float] = ..., is_relative: _Optional[bool] = ...) -> None: ...

class ListGalleriesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGalleriesResponse(_message.Message):
    __slots__ = ("galleries",)
    GALLERIES_FIELD_NUMBER: _ClassVar[int]
    galleries: _containers.RepeatedCompositeFieldContainer[Gallery]
    def __init__(self, galleries: _Optional[_Iterable[_Union[Gallery, _Mapping]]] = ...) -> None: ...

class GetGalleryRequest(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    def __init__(self, gallery: _Optional[str] = ...) -> None: ...

class GetGalleryResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class GetImagesRequest(_message.Message):
    __slots__ = ("gallery", "keys")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gallery: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ...) -> None: ...

class GetImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[StoredImage]
    def __init__(self, images: _Optional[_Iterable[_Union[StoredImage, _Mapping]]] = ...) -> None: ...

class StoredImage(_message.Message):
    __slots__ = ("key", "label", "thumbnail_png")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_PNG_FIELD_NUMBER: _ClassVar[int]
    key: str
    label: str
    thumbnail_png: bytes
    def __init__(self, key: _Optional[str] = ..., label: _Optional[str] = ..., thumbnail_png: _Optional[bytes] = ...) -> None: ...

class GetMapRequest(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    def __init__(self, gallery: _Optional[str] = ...) -> None: ...

class GetMapResponse(_message.Message):
    __slots__ = ("map_json_gz",)
    MAP_JSON_GZ_FIELD_NUMBER: _ClassVar[int]
    map_json_gz: bytes
    def __init__(self, map_json_gz: _Optional[bytes] = ...) -> None: ...

class AddImagesRequest(_message.Message):
    __slots__ = ("gallery", "key", "image", "label", "keep_stored")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KEEP_STORED_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    key: str
    image: _encoder_pb2.Image
    label: str
    keep_stored: bool
    def __init__(self, gallery: _Optional[str] = ..., key: _Optional[str] = ..., image: _Optional[_Union[_encoder_pb2.Image, _Mapping]] = ..., label: _Optional[str] = ..., keep_stored: _Optional[bool] = ...) -> None: ...

class AddImagesResponse(_message.Message):
    __slots__ = ("index", "key", "added", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    key: str
    added: Added
    error: _encoder_pb2.ItemError
    def __init__(self, index: _Optional[int] = ..., key: _Optional[str] = ..., added: _Optional[_Union[Added, _Mapping]] = ..., error: _Optional[_Union[_encoder_pb2.ItemError, _Mapping]] = ...) -> None: ...

class Added(_message.Message):
    __slots__ = ("unchanged",)
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    unchanged: bool
    def __init__(self, unchanged: _Optional[bool] = ...) -> None: ...

class DeleteImagesRequest(_message.Message):
    __slots__ = ("gallery", "keys")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gallery: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteImagesResponse(_message.Message):
    __slots__ = ("deleted_count",)
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    deleted_count: int
    def __init__(self, deleted_count: _Optional[int] = ...) -> None: ...

class CompactGalleryRequest(_message.Message):
    __slots__ = ("gallery", "version")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    version: int
    def __init__(self, gallery: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class CompactGalleryResponse(_message.Message):
    __slots__ = ("gallery", "stage", "copied_count")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COPIED_COUNT_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    stage: CompactionStage
    copied_count: int
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ..., stage: _Optional[_Union[CompactionStage, str]] = ..., copied_count: _Optional[int] = ...) -> None: ...

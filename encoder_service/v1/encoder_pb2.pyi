from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Image(_message.Message):
    __slots__ = ("encoded", "raw")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    raw: RawImage
    def __init__(self, encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ...) -> None: ...

class RawImage(_message.Message):
    __slots__ = ("width", "height", "channel_count", "pixels")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    channel_count: int
    pixels: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., channel_count: _Optional[int] = ..., pixels: _Optional[bytes] = ...) -> None: ...

class Code(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: Image
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("code", "encoder_fingerprint", "encode_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MS_FIELD_NUMBER: _ClassVar[int]
    code: Code
    encoder_fingerprint: str
    encode_ms: float
    def __init__(self, code: _Optional[_Union[Code, _Mapping]] = ..., encoder_fingerprint: _Optional[str] = ..., encode_ms: _Optional[float] = ...) -> None: ...

class EncodeStreamRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: Image
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class EncodeStreamResponse(_message.Message):
    __slots__ = ("index", "code", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: Code
    error: ItemError
    def __init__(self, index: _Optional[int] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("status", "message")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    status: str
    message: str
    def __init__(self, status: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: Code
    def __init__(self, code: _Optional[_Union[Code, _Mapping]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("image_png", "encoder_fingerprint")
    IMAGE_PNG_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    image_png: bytes
    encoder_fingerprint: str
    def __init__(self, image_png: _Optional[bytes] = ..., encoder_fingerprint: _Optional[str] = ...) -> None: ...

class GetEncoderRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEncoderResponse(_message.Message):
    __slots__ = ("encoder", "limits")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    encoder: EncoderSpec
    limits: Limits
    def __init__(self, encoder: _Optional[_Union[EncoderSpec, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class EncoderSpec(_message.Message):
    __slots__ = ("name", "fingerprint", "input_height", "input_width", "input_channel_count", "code_size", "decoder_sha256", "background", "framing", "fit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    INPUT_CHANNEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    CODE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DECODER_SHA256_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    FRAMING_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    input_height: int
    input_width: int
    input_channel_count: int
    code_size: int
    decoder_sha256: str
    background: int
    framing: str
    fit: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ..., input_channel_count: _Optional[int] = ..., code_size: _Optional[int] = ..., decoder_sha256: _Optional[str] = ..., background: _Optional[int] = ..., framing: _Optional[str] = ..., fit: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_image_bytes", "max_image_pixels", "max_hit_count", "max_batch_count", "max_message_bytes", "max_concurrent_call_count", "max_concurrent_stream_count", "max_stream_item_count", "max_batch_hit_count", "max_stream_item_bytes", "max_key_length")
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_STREAM_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_ITEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_KEY_LENGTH_FIELD_NUMBER: _ClassVar[int]
    max_image_bytes: int
    max_image_pixels: int
    max_hit_count: int
    max_batch_count: int
    max_message_bytes: int
    max_concurrent_call_count: int
    max_concurrent_stream_count: int
    max_stream_item_count: int
    max_batch_hit_count: int
    max_stream_item_bytes: int
    max_key_length: int
    def __init__(self, max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_hit_count: _Optional[int] = ..., max_batch_count: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_concurrent_call_count: _Optional[int] = ..., max_concurrent_stream_count: _Optional[int] = ..., max_stream_item_count: _Optional[int] = ..., max_batch_hit_count: _Optional[int] = ..., max_stream_item_bytes: _Optional[int] = ..., max_key_length: _Optional[int] = ...) -> None: ...

"""The service over a real socket, as a client sees it."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image, ImageDraw, ImageFont

from encoder_service.client import Client
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import ImageError, ImageTooLargeError, RequestError, ServiceError
from encoder_service.images import decode
from encoder_service.limits import LIMITS
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.searcher import Key, SearchRequest, Subject
from encoder_service.v1 import encoder_pb2, encoder_pb2_grpc, search_pb2, search_pb2_grpc
from gallery import GallerySpec, SearchOptions, open_store
from gallery.errors import EncoderMismatchError, InvalidInputError, NotFoundError
from gallery.exact import ExactGallery
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import load
from ingest.progress import Stages
from tests.commands import BIN
from tests.digits import Digits, build, png

SearchMessage = search_pb2.SearchRequest


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="module")
def search(channel: grpc.Channel) -> Callable[[SearchMessage], search_pb2.SearchResponse]:
    return search_pb2_grpc.SearchServiceStub(channel).Search


def test_a_search_returns_the_five_nearest_images_of_the_gallery(
    client: Client, encoder: Encoder, queries: list[Image.Image], tmp_path: Path
) -> None:
    truth = ExactGallery(GallerySpec("truth", "seed", encoder.spec.fingerprint, 128))
    load(Digits(), encoder, truth, Ledger(tmp_path), Stages())
    for query in queries[:20]:
        result = client.search(png(query))
        code = encoder.encode_images([query])[0]
        distances = sorted(float(np.linalg.norm(entry.code - code)) for entry in next(truth.scroll(400)))[:5]
        np.testing.assert_allclose([hit.distance for hit in result.hits], distances, rtol=1e-4)


def test_a_result_names_its_gallery_and_encoder(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    result = client.search(png(queries[0]))
    assert (result.gallery, result.version, result.encoder) == ("digits", 1, "seed")
    assert result.fingerprint == encoder.spec.fingerprint
    assert result.encode_ms > 0
    assert result.search_ms > 0


def test_file_pixels_and_code_of_one_image_find_the_same_hits(
    client: Client, queries: list[Image.Image], tmp_path: Path
) -> None:
    by_file = client.search(png(queries[3])).hits
    (tmp_path / "query.png").write_bytes(png(queries[3]))
    assert client.search(tmp_path / "query.png").hits == by_file
    assert client.search_batch([SearchRequest(tmp_path / "query.png")])[0].hits == by_file
    assert client.search(client.encode(tmp_path / "query.png")).hits == by_file
    assert client.search(queries[3]).hits == by_file
    assert client.search(queries[3].convert("RGB")).hits == by_file
    assert client.search(client.encode(png(queries[3]))).hits == by_file


@pytest.mark.parametrize("subject", ["query.png", "digits/train/0", None, [0.0] * 128])
def test_a_subject_of_another_type_is_rejected(client: Client, subject: Any) -> None:
    expected = f"expected a Path for a file or a Key for a stored image, got {type(subject).__name__}"
    with pytest.raises(InvalidInputError, match=expected):
        client.search(subject)


def test_a_file_that_cannot_be_read_is_one_clear_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^\S+/missing\.png: can't be read: No such file or directory$"):
        client.search(tmp_path / "missing.png")
    (tmp_path / "large.png").write_bytes(bytes(LIMITS.max_image_bytes + 1))
    with pytest.raises(ImageTooLargeError, match=r"^\S+/large\.png: expected at most 10,485,760 bytes"):
        client.search(tmp_path / "large.png")


def test_a_query_by_key_is_not_among_its_own_hits(client: Client) -> None:
    result = client.search(Key("digits/train/0"), options=SearchOptions(with_thumbnails=True))
    assert len(result.hits) == 5
    assert "digits/train/0" not in [hit.key for hit in result.hits]
    assert result.query_thumbnail_png[:4] == b"\x89PNG"
    assert all(hit.thumbnail_png[:4] == b"\x89PNG" for hit in result.hits)


def test_options_reach_the_gallery(client: Client, queries: list[Image.Image]) -> None:
    plain = client.search(queries[0], options=SearchOptions(limit=9, exact=True)).hits
    assert len(plain) == 9
    without = client.search(queries[0], options=SearchOptions(exclude_keys=(plain[0].key,))).hits
    assert without[0].key == plain[1].key
    near = client.search(queries[0], options=SearchOptions(limit=9, max_distance=plain[3].distance + 1e-3)).hits
    assert [hit.key for hit in near] == [hit.key for hit in plain[:4]]
    threes = client.search(queries[0], options=SearchOptions(labels=("3",))).hits
    assert {hit.label for hit in threes} == {"3"}


@pytest.mark.parametrize(("limit", "count"), [(0, 5), (1, 1), (1000, 400)])
def test_limits_in_range_are_accepted(
    search: Callable[[SearchMessage], search_pb2.SearchResponse], limit: int, count: int, queries: list[Image.Image]
) -> None:
    request = SearchMessage(image=encoder_pb2.Image(encoded=png(queries[0])), limit=limit)
    assert len(search(request).hits) == count


ZERO_CODE = encoder_pb2.Code(values=[0.0] * 128)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (SearchMessage(), INVALID, "query: expected `image`, `code` or `key`, got none"),
        (SearchMessage(image=encoder_pb2.Image()), INVALID, "image: expected `encoded` or `raw`, got neither"),
        (SearchMessage(image=encoder_pb2.Image(encoded=b"")), INVALID, "got none"),
        (SearchMessage(image=encoder_pb2.Image(encoded=b"junk")), INVALID, "4 bytes that can't be decoded"),
        (SearchMessage(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=2, height=2, pixels=b"abc"))),
         INVALID, "2 × 2 × 1 = 4 bytes, got 3"),
        (SearchMessage(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=-2, height=2))), INVALID, "got -2 × 2"),
        (SearchMessage(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=9, height=9, channel_count=2))),
         INVALID, "channel_count: expected 1, 3 or 4, got 2"),
        (SearchMessage(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=2**30, height=2**30))),
         INVALID, "at most 64,000,000 pixels"),
        (SearchMessage(code=encoder_pb2.Code(values=[0.0] * 127)), INVALID, "expected 128 numbers, got 127"),
        (SearchMessage(code=encoder_pb2.Code(values=[float("nan")] * 128)), INVALID, "finite numbers, got nan"),
        (SearchMessage(code=encoder_pb2.Code(values=[1e39] * 128)), INVALID, "finite numbers, got inf"),
        (SearchMessage(code=ZERO_CODE, limit=1001), INVALID, "limit: expected 1 to 1,000, got 1,001"),
        (SearchMessage(code=ZERO_CODE, limit=-1), INVALID, "limit: expected 1 to 1,000, got -1"),
        (SearchMessage(code=ZERO_CODE, max_distance=-1), INVALID, "max_distance: expected 0 or more, got -1.0"),
        (SearchMessage(code=ZERO_CODE, max_distance=float("nan")), INVALID, "max_distance"),
        (SearchMessage(code=ZERO_CODE, exclude_keys=["k"] * 1001), INVALID, "exclude_keys: expected at most 1,000"),
        (SearchMessage(code=ZERO_CODE, filter=search_pb2.Filter(labels=["k"] * 1001)), INVALID, "filter.labels"),
        (SearchMessage(code=ZERO_CODE, gallery="none"), NOT_FOUND, "no gallery 'none'"),
        (SearchMessage(code=ZERO_CODE, gallery="../etc"), INVALID, "gallery name"),
        (SearchMessage(key="digits/train/400"), NOT_FOUND, "no image 'digits/train/400' in gallery 'digits'"),
        (SearchMessage(key=""), NOT_FOUND, "no image ''"),
        (SearchMessage(code=ZERO_CODE, expand=-1), INVALID, "expand: expected 0 to 8, got -1"),
        (SearchMessage(code=ZERO_CODE, expand=9), INVALID, "expand: expected 0 to 8, got 9"),
        (SearchMessage(key="digits/train/0", expand=4), INVALID,
         "expand: expected an image or a code, got the key 'digits/train/0': search with the image itself"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_its_status_and_the_reason(
    search: Callable[[SearchMessage], search_pb2.SearchResponse],
    request_: SearchMessage,
    status: grpc.StatusCode,
    message: str,
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        search(request_)
    assert raised.value.code() is status
    assert message in str(raised.value.details())
    assert "\n" not in str(raised.value.details())


def test_a_batch_is_answered_in_order(client: Client, queries: list[Image.Image]) -> None:
    results = client.search_batch([SearchRequest(png(query)) for query in queries[:10]])
    for query, result in zip(queries[:10], results, strict=True):
        assert [hit.key for hit in result.hits] == [hit.key for hit in client.search(png(query)).hits]


def test_one_bad_query_fails_its_batch_and_is_named(client: Client, queries: list[Image.Image]) -> None:
    good = SearchRequest(png(queries[0]))
    bad: dict[str, Subject] = {
        r"requests\[2\]: image: expected": b"junk",
        r"requests\[2\]: code: expected 128 numbers": np.zeros(3, np.float32),
        r"requests\[2\]: no image": Key("no such key"),
        r"missing\.png: requests\[2\]: can't be read": Path("missing.png"),
    }
    for message, subject in bad.items():
        with pytest.raises((InvalidInputError, NotFoundError), match=message):
            client.search_batch([good, good, SearchRequest(subject), good])


def test_a_batch_of_several_galleries_or_a_wrong_size_is_rejected(channel: grpc.Channel) -> None:
    batch = search_pb2_grpc.SearchServiceStub(channel).BatchSearch
    search, elsewhere = SearchMessage(code=ZERO_CODE), SearchMessage(code=ZERO_CODE, gallery="b")
    for requests, message in (([], "got 0"), ([search] * 257, "got 257"), ([search, elsewhere], "'', 'b'")):
        with pytest.raises(grpc.RpcError) as raised:
            batch(search_pb2.BatchSearchRequest(requests=requests))
        assert raised.value.code() is INVALID
        assert message in str(raised.value.details())


def test_a_message_that_is_too_large_is_not_sent(client: Client, queries: list[Image.Image]) -> None:
    large = Image.new("RGBA", (4096, 4096))
    with pytest.raises(RequestError, match=r"request: expected at most 67,108,864 bytes, got 67,108,8\d\d"):
        client.search(large)
    codes = client.encode_stream([png(queries[0]), large, png(queries[1])])
    assert isinstance(next(codes), np.ndarray)
    with pytest.raises(RequestError, match=r"request: expected at most 67,108,864 bytes"):
        next(codes)


def test_encode_returns_the_encoders_code(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    np.testing.assert_allclose(client.encode(png(queries[0])), encoder.encode_images([queries[0]])[0], atol=1e-6)
    with pytest.raises(InvalidInputError, match="can't be decoded"):
        client.encode(b"junk")


def test_a_bad_image_in_a_stream_is_an_item_error_and_the_stream_continues(
    client: Client, queries: list[Image.Image]
) -> None:
    answers = list(client.encode_stream([png(queries[0]), b"junk", png(queries[1])]))
    assert len(answers) == 3
    assert isinstance(answers[1], InvalidInputError)
    for answer, query in ((answers[0], queries[0]), (answers[2], queries[1])):
        assert isinstance(answer, np.ndarray)
        np.testing.assert_array_equal(answer, client.encode(png(query)))


def test_a_stream_is_answered_as_its_images_arrive(channel: grpc.Channel, queries: list[Image.Image]) -> None:
    answered: SimpleQueue[int] = SimpleQueue()

    def requests() -> Iterator[encoder_pb2.EncodeStreamRequest]:
        for index in range(5):
            yield encoder_pb2.EncodeStreamRequest(image=encoder_pb2.Image(encoded=png(queries[index])))
            # send the next image only once this one has been answered
            assert answered.get(timeout=10) == index

    for response in encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream(requests(), timeout=20):
        answered.put(response.index)
        last = response.index
    assert last == 4


def test_decode_returns_the_reconstruction_of_a_code(
    client: Client, encoder: Encoder, queries: list[Image.Image]
) -> None:
    code = client.encode(png(queries[0]))
    picture = np.asarray(decode(client.decode(code)), np.float32) / 255
    np.testing.assert_allclose(picture, encoder.decode(code[None])[0, :, :, 0], atol=1 / 255)
    for bad in (code[:127], np.full(128, np.inf, np.float32)):
        with pytest.raises(InvalidInputError, match="code: expected"):
            client.decode(bad)


def test_a_code_far_from_all_others_can_be_decoded_too(client: Client) -> None:
    assert decode(client.decode(np.full(128, 3e38, np.float32))).size == (28, 28)


def test_a_result_says_how_unusual_the_query_is(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    result = client.search(queries[0])
    inputs = encoder.normalise(queries[:1])
    expected = float(encoder.reconstruction_errors(inputs, encoder.encode(inputs))[0])
    assert result.reconstruction_error == pytest.approx(expected, rel=1e-4)
    assert result.query_percentile is not None
    percentiles = [hit.distance_percentile for hit in result.hits]
    assert None not in percentiles
    assert percentiles == sorted(percentiles, key=lambda value: value or 0.0)


def test_noise_is_distinguished_from_digits(client: Client, queries: list[Image.Image]) -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (28, 28), np.uint8))
    result = client.search(noise)
    assert result.query_percentile == 100
    assert result.hits[0].distance_percentile == 100
    percentiles = [client.search(query).query_percentile or 0.0 for query in queries]
    # 400 images calibrate a gallery only roughly
    assert sum(percentile < 99 for percentile in percentiles) >= 90


def test_blank_images_are_distinguished_from_digits(client: Client) -> None:
    for colour in ("black", "grey", "white"):
        result = client.search(Image.new("L", (28, 28), colour))
        assert (result.query_percentile, result.is_unusual) == (100, True), colour


def test_letters_and_rotated_digits_are_distinguished_from_digits(store_url: str, queries: list[Image.Image]) -> None:
    store, encoder = open_store(store_url), load_encoder("mnist")
    build(store, encoder)
    with Server(store, encoder) as server, Client(server.address) as client:
        rotated = [query.transpose(Image.Transpose.ROTATE_90) for query in queries[:20]]
        assert all(client.search(image).is_unusual for image in [*map(draw_letter, "ABEFKMNRTWX"), *rotated])
        # 400 images calibrate a gallery only roughly
        assert sum(client.search(query).is_unusual for query in queries) <= 15


def draw_letter(letter: str) -> Image.Image:
    image = Image.new("L", (28, 28))
    ImageDraw.Draw(image).text((14, 14), letter, fill=255, font=ImageFont.load_default(24), anchor="mm")
    return image


def test_only_an_image_has_a_reconstruction_error(client: Client, queries: list[Image.Image]) -> None:
    subjects: list[Subject] = [Key("digits/train/0"), client.encode(queries[0])]
    for subject in subjects:
        result = client.search(subject)
        assert (result.reconstruction_error, result.query_percentile) == (None, None)


def test_the_service_reports_its_encoder_and_limits(client: Client, encoder: Encoder) -> None:
    assert client.encoder() == encoder.spec
    assert client.limits() == LIMITS


@pytest.mark.parametrize("name", ["", "encoder_service.v1.EncoderService", "encoder_service.v1.SearchService"])
def test_health_is_reported_for_each_service(channel: grpc.Channel, name: str) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING


def test_health_can_be_watched_and_an_unknown_name_is_answered_once(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    unknown = list(health.Watch(health_pb2.HealthCheckRequest(service="unknown"), timeout=10))
    assert [answer.status for answer in unknown] == [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]
    known = health.Watch(health_pb2.HealthCheckRequest(service="liveness"), timeout=10)
    assert next(known).status == health_pb2.HealthCheckResponse.SERVING
    known.cancel()


def test_health_says_serving_only_once_started(encoder: Encoder) -> None:
    server = Server(open_store("exact:"), encoder)
    try:
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.RpcError):
                health.Check(health_pb2.HealthCheckRequest(), timeout=0.5)
            server.start()
            response = health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10)
            assert response.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        server.stop()


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {
        "encoder_service.v1.EncoderService",
        "encoder_service.v1.SearchService",
        "grpc.health.v1.Health",
    }


def test_a_generic_client_gets_hits_through_reflection_alone(address: str, queries: list[Image.Image]) -> None:
    request = json.dumps({"image": {"encoded": base64.b64encode(png(queries[0])).decode()}, "limit": 3})
    url = f"http://{address}/encoder_service.v1.SearchService/Search"
    command = [str(BIN / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", request, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [hit["key"][:13] for hit in json.loads(done.stdout)["hits"]] == ["digits/train/"] * 3


def test_a_gallery_of_another_encoder_is_rejected(encoder: Encoder, queries: list[Image.Image]) -> None:
    store = open_store("exact:")
    store.build(GallerySpec("foreign", "other", "0" * 64, 128)).publish()
    build(store, encoder, "own", count=20)
    with Server(store, encoder) as server, Client(server.address) as client:
        with pytest.raises(EncoderMismatchError, match=r"'foreign' was made by encoder 'other' .* is not installed"):
            client.search(queries[0], "foreign")
        assert client.search(queries[0], "own").hits
        with pytest.raises(InvalidInputError, match=r"gallery: expected a name .* one of foreign, own"):
            client.search(queries[0])


def test_each_gallery_is_searched_with_its_own_encoder(encoder: Encoder, queries: list[Image.Image]) -> None:
    store = open_store("exact:")
    build(store, encoder, "by-seed", count=40)
    build(store, load_encoder("mnist"), "by-mnist", count=40)
    with Server(store, encoder) as server, Client(server.address) as client:
        for name in ("seed", "mnist"):
            result = client.search(queries[0], f"by-{name}")
            assert (result.encoder, len(result.hits)) == (name, 5)
            expected = load_encoder(name).encode_images(queries[:1])[0]
            assert client.search(expected, f"by-{name}").hits == result.hits


def test_a_service_that_does_not_answer_is_one_clear_error() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServiceError, match=r"service at 127\.0\.0\.1:1: UNAVAILABLE"):
        client.search(b"x")


def test_a_port_in_use_is_one_clear_error(address: str, encoder: Encoder) -> None:
    port = int(address.split(":")[1])
    with pytest.raises(ServiceError, match=f"can't listen on 127.0.0.1:{port}: choose another --port"):
        Server(open_store("exact:"), encoder, Config(port=port))


def test_a_maximum_distance_of_zero_asks_for_exact_copies(client: Client, queries: list[Image.Image]) -> None:
    exact = SearchOptions(max_distance=0)
    assert not client.search(png(queries[0]), options=exact).hits
    assert len(client.search(png(queries[0]), options=SearchOptions(max_distance=1e300)).hits) == 5

"""The service over a real socket, as any client sees it."""

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
from encoder_service.errors import ServiceError
from encoder_service.images import decode
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.searcher import SearchRequest
from encoder_service.v1 import encoder_pb2, encoder_pb2_grpc, search_pb2, search_pb2_grpc
from gallery import GallerySpec, SearchOptions, open_store
from gallery.errors import EncoderMismatchError, InvalidInputError, NotFoundError
from gallery.exact import ExactGallery
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import load
from ingest.progress import Stages
from tests.commands import BIN
from tests.digits import Digits, build, png

Pb = search_pb2.SearchRequest


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="module")
def search(channel: grpc.Channel) -> Callable[[search_pb2.SearchRequest], search_pb2.SearchResponse]:
    return search_pb2_grpc.SearchServiceStub(channel).Search


def test_a_search_gives_the_five_nearest_of_the_gallery(
    client: Client, encoder: Encoder, queries: list[Image.Image], tmp_path: Path
) -> None:
    truth = ExactGallery(GallerySpec("truth", "seed", encoder.spec.fingerprint, 128))
    load(Digits(), encoder, truth, Ledger(tmp_path), Stages())
    for query in queries[:20]:
        result = client.search(png(query))
        code = encoder.encode_images([query])[0]
        distances = sorted(float(np.linalg.norm(e.code - code)) for e in next(truth.scroll(400)))[:5]
        np.testing.assert_allclose([hit.distance for hit in result.hits], distances, rtol=1e-4)


def test_an_answer_says_where_it_comes_from(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    result = client.search(png(queries[0]))
    assert (result.gallery, result.version, result.encoder) == ("digits", 1, "seed")
    assert result.fingerprint == encoder.spec.fingerprint
    assert result.encode_ms > 0
    assert result.search_ms > 0


def test_file_pixels_and_code_of_one_picture_find_the_same(
    client: Client, encoder: Encoder, queries: list[Image.Image]
) -> None:
    by_file = client.search(png(queries[3])).hits
    assert client.search(queries[3]).hits == by_file
    assert client.search(queries[3].convert("RGB")).hits == by_file
    assert client.search(client.encode(png(queries[3]))).hits == by_file


def test_a_query_by_key_never_answers_itself(client: Client) -> None:
    result = client.search("digits/train/0", options=SearchOptions(with_thumbnails=True))
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
    sevens = client.search(queries[0], options=SearchOptions(labels=("3",))).hits
    assert {hit.label for hit in sevens} == {"3"}


@pytest.mark.parametrize(("limit", "count"), [(0, 5), (1, 1), (1000, 400)])
def test_limits_in_range_are_kept(
    search: Callable[[Pb], search_pb2.SearchResponse], limit: int, count: int, queries: list[Image.Image]
) -> None:
    request = Pb(image=encoder_pb2.Image(encoded=png(queries[0])), limit=limit)
    assert len(search(request).hits) == count


NINES = encoder_pb2.Code(values=[0.0] * 128)


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        (Pb(), "INVALID_ARGUMENT", "query: expected `image`, `code` or `key`, got none"),
        (Pb(image=encoder_pb2.Image()), "INVALID_ARGUMENT", "image: expected `encoded` or `raw`, got neither"),
        (Pb(image=encoder_pb2.Image(encoded=b"")), "INVALID_ARGUMENT", "got none"),
        (Pb(image=encoder_pb2.Image(encoded=b"junk")), "INVALID_ARGUMENT", "4 bytes that can't be decoded"),
        (Pb(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=2, height=2, pixels=b"abc"))),
         "INVALID_ARGUMENT", "2 × 2 × 1 = 4 bytes, got 3"),
        (Pb(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=-2, height=2))), "INVALID_ARGUMENT", "got -2 × 2"),
        (Pb(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=9, height=9, channel_count=2))),
         "INVALID_ARGUMENT", "channel_count: expected 1, 3 or 4, got 2"),
        (Pb(image=encoder_pb2.Image(raw=encoder_pb2.RawImage(width=2**30, height=2**30))),
         "INVALID_ARGUMENT", "at most 64,000,000 pixels"),
        (Pb(code=encoder_pb2.Code(values=[0.0] * 127)), "INVALID_ARGUMENT", "expected 128 numbers, got 127"),
        (Pb(code=encoder_pb2.Code(values=[float("nan")] * 128)), "INVALID_ARGUMENT", "finite numbers, got nan"),
        (Pb(code=encoder_pb2.Code(values=[1e39] * 128)), "INVALID_ARGUMENT", "finite numbers, got inf"),
        (Pb(code=NINES, limit=1001), "INVALID_ARGUMENT", "limit: expected 1 to 1,000, got 1,001"),
        (Pb(code=NINES, limit=-1), "INVALID_ARGUMENT", "limit: expected 1 to 1,000, got -1"),
        (Pb(code=NINES, max_distance=-1), "INVALID_ARGUMENT", "max_distance: expected 0 or more, got -1.0"),
        (Pb(code=NINES, max_distance=float("nan")), "INVALID_ARGUMENT", "max_distance"),
        (Pb(code=NINES, exclude_keys=["k"] * 1001), "INVALID_ARGUMENT", "exclude_keys: expected at most 1,000"),
        (Pb(code=NINES, filter=search_pb2.Filter(labels=["k"] * 1001)), "INVALID_ARGUMENT", "filter.labels"),
        (Pb(code=NINES, gallery="none"), "NOT_FOUND", "no gallery 'none'"),
        (Pb(code=NINES, gallery="../etc"), "INVALID_ARGUMENT", "gallery name"),
        (Pb(key="digits/train/400"), "NOT_FOUND", "no image 'digits/train/400' in gallery 'digits'"),
        (Pb(key=""), "NOT_FOUND", "no image ''"),
    ],
)  # fmt: skip
def test_bad_requests_get_their_status_and_say_why(
    search: Callable[[Pb], search_pb2.SearchResponse], request_: Pb, status: str, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        search(request_)
    assert raised.value.code().name == status
    assert says in str(raised.value.details())
    assert "\n" not in str(raised.value.details())


def test_a_batch_answers_in_order(client: Client, queries: list[Image.Image]) -> None:
    results = client.search_batch([SearchRequest(png(query)) for query in queries[:10]])
    for query, result in zip(queries, results, strict=False):
        assert [hit.key for hit in result.hits] == [hit.key for hit in client.search(png(query)).hits]


def test_one_bad_query_fails_its_batch_and_is_named(client: Client, queries: list[Image.Image]) -> None:
    good = SearchRequest(png(queries[0]))
    for bad, says in ((b"junk", "image"), (np.zeros(3, np.float32), "128 numbers"), ("no such key", "no image")):
        with pytest.raises((InvalidInputError, NotFoundError), match=rf"requests\[2\]: .*{says}"):
            client.search_batch([good, good, SearchRequest(bad), good])


def test_a_batch_is_for_one_gallery_and_of_a_sane_size(channel: grpc.Channel) -> None:
    batch = search_pb2_grpc.SearchServiceStub(channel).BatchSearch
    one = Pb(code=NINES)
    for requests, says in (([], "got 0"), ([one] * 257, "got 257"), ([one, Pb(code=NINES, gallery="b")], "'', 'b'")):
        with pytest.raises(grpc.RpcError) as raised:
            batch(search_pb2.BatchSearchRequest(requests=requests))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert says in str(raised.value.details())


def test_encode_gives_the_encoders_code(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    np.testing.assert_allclose(client.encode(png(queries[0])), encoder.encode_images([queries[0]])[0], atol=1e-6)
    with pytest.raises(InvalidInputError, match="can't be decoded"):
        client.encode(b"junk")


def test_a_bad_image_in_a_stream_is_an_item_error_and_the_stream_goes_on(
    client: Client, queries: list[Image.Image]
) -> None:
    answers = list(client.encode_stream([png(queries[0]), b"junk", png(queries[1])]))
    assert len(answers) == 3
    assert isinstance(answers[1], InvalidInputError)
    for answer, query in ((answers[0], queries[0]), (answers[2], queries[1])):
        assert isinstance(answer, np.ndarray)
        np.testing.assert_array_equal(answer, client.encode(png(query)))


def test_a_stream_is_answered_as_it_comes(channel: grpc.Channel, queries: list[Image.Image]) -> None:
    answered: SimpleQueue[int] = SimpleQueue()

    def requests() -> Iterator[encoder_pb2.EncodeStreamRequest]:
        for index in range(5):
            yield encoder_pb2.EncodeStreamRequest(image=encoder_pb2.Image(encoded=png(queries[index])))
            # the next image is sent only once this one has been answered
            assert answered.get(timeout=10) == index

    for response in encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream(requests(), timeout=20):
        answered.put(response.index)
        last = response.index
    assert last == 4


def test_decode_gives_the_picture_of_a_code(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    code = client.encode(png(queries[0]))
    picture = np.asarray(decode(client.decode(code)), np.float32) / 255
    np.testing.assert_allclose(picture, encoder.decode(code[None])[0, :, :, 0], atol=1 / 255)
    for bad in (code[:127], np.full(128, np.inf, np.float32)):
        with pytest.raises(InvalidInputError, match="code: expected"):
            client.decode(bad)


def test_a_code_far_from_all_others_has_a_picture_too(client: Client) -> None:
    assert decode(client.decode(np.full(128, 3e38, np.float32))).size == (28, 28)


def test_an_answer_says_how_usual_the_query_is(client: Client, encoder: Encoder, queries: list[Image.Image]) -> None:
    result = client.search(queries[0])
    inputs = encoder.normalise(queries[:1])
    expected = float(encoder.reconstruction_errors(inputs, encoder.encode(inputs))[0])
    assert result.reconstruction_error == pytest.approx(expected, rel=1e-4)
    assert result.query_percentile is not None
    percentiles = [hit.distance_percentile for hit in result.hits]
    assert None not in percentiles
    assert percentiles == sorted(percentiles, key=lambda value: value or 0.0)


def test_noise_is_told_apart_from_digits(client: Client, queries: list[Image.Image]) -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (28, 28), np.uint8))
    result = client.search(noise)
    assert result.query_percentile == 100
    assert result.hits[0].distance_percentile == 100
    usual = [client.search(query).query_percentile or 0.0 for query in queries]
    # of a gallery of 400, what is usual is known only roughly
    assert sum(percentile < 99 for percentile in usual) >= 90


def test_letters_and_turned_digits_are_told_apart_from_digits(store_url: str, queries: list[Image.Image]) -> None:
    store, encoder = open_store(store_url), load_encoder("mnist")
    build(store, encoder)
    server = Server(store, encoder)
    server.start()
    with Client(server.address) as client:
        turned = [query.transpose(Image.Transpose.ROTATE_90) for query in queries[:20]]
        assert all(client.search(stranger).is_unusual for stranger in [*map(letter, "ABEFKMNRTWX"), *turned])
        # of a gallery of 400, what is usual is known only roughly
        assert sum(client.search(query).is_unusual for query in queries) <= 15
    server.stop()


def letter(one: str) -> Image.Image:
    picture = Image.new("L", (28, 28))
    ImageDraw.Draw(picture).text((14, 14), one, fill=255, font=ImageFont.load_default(24), anchor="mm")
    return picture


def test_only_an_image_has_a_reconstruction_error(client: Client, queries: list[Image.Image]) -> None:
    for subject in ("digits/train/0", client.encode(queries[0])):
        result = client.search(subject)
        assert (result.reconstruction_error, result.query_percentile) == (None, None)


def test_the_service_tells_its_encoder_and_limits(client: Client, encoder: Encoder) -> None:
    told = client.encoder()
    assert (told.encoder.name, told.encoder.fingerprint) == ("seed", encoder.spec.fingerprint)
    assert (told.encoder.input_height, told.encoder.input_width, told.encoder.input_channel_count) == (28, 28, 1)
    assert (told.encoder.code_size, told.limits.max_hit_count) == (128, 1000)
    assert (told.limits.max_image_bytes, told.limits.max_image_pixels) == (10 * 1024 * 1024, 64_000_000)


@pytest.mark.parametrize("name", ["", "encoder_service.v1.EncoderService", "encoder_service.v1.SearchService"])
def test_health_is_told_for_each_service(channel: grpc.Channel, name: str) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING


def test_health_can_be_watched_and_of_a_name_that_is_none_is_told_once(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    unknown = list(health.Watch(health_pb2.HealthCheckRequest(service="none such"), timeout=10))
    assert [answer.status for answer in unknown] == [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]
    known = health.Watch(health_pb2.HealthCheckRequest(service="liveness"), timeout=10)
    assert next(known).status == health_pb2.HealthCheckResponse.SERVING
    known.cancel()


def test_health_says_serving_only_once_started(encoder: Encoder) -> None:
    server = Server(open_store("exact:"), encoder)
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        check = health.Check
        with pytest.raises(grpc.RpcError):
            check(health_pb2.HealthCheckRequest(), timeout=0.5)
        server.start()
        status = check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    server.stop()


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {
        "encoder_service.v1.EncoderService",
        "encoder_service.v1.SearchService",
        "grpc.health.v1.Health",
    }


def test_a_stock_client_gets_hits_through_reflection_alone(address: str, queries: list[Image.Image]) -> None:
    request = json.dumps({"image": {"encoded": base64.b64encode(png(queries[0])).decode()}, "limit": 3})
    url = f"http://{address}/encoder_service.v1.SearchService/Search"
    command = [str(BIN / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", request, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [hit["key"][:13] for hit in json.loads(done.stdout)["hits"]] == ["digits/train/"] * 3


def test_a_gallery_of_another_encoder_is_refused(encoder: Encoder, queries: list[Image.Image]) -> None:
    store = open_store("exact:")
    building = store.build(GallerySpec("foreign", "other", "0" * 64, 128))
    building.publish()
    build(store, encoder, "own", count=20)
    server = Server(store, encoder)
    server.start()
    with Client(server.address) as client:
        with pytest.raises(EncoderMismatchError, match=r"'foreign' was made by encoder 'other' .*, which is not here"):
            client.search(queries[0], "foreign")
        assert client.search(queries[0], "own").hits
        with pytest.raises(InvalidInputError, match=r"gallery: expected a name .* one of foreign, own"):
            client.search(queries[0])
    server.stop()


def test_each_gallery_brings_its_encoder(encoder: Encoder, queries: list[Image.Image]) -> None:
    store = open_store("exact:")
    build(store, encoder, "by-seed", count=40)
    build(store, load_encoder("mnist"), "by-mnist", count=40)
    server = Server(store, encoder)
    server.start()
    with Client(server.address) as client:
        for name in ("seed", "mnist"):
            result = client.search(queries[0], f"by-{name}")
            assert (result.encoder, len(result.hits)) == (name, 5)
            expected = load_encoder(name).encode_images(queries[:1])[0]
            assert client.search(expected, f"by-{name}").hits == result.hits
    server.stop()


def test_a_service_that_is_not_there_is_one_clear_error() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServiceError, match=r"service at 127\.0\.0\.1:1: UNAVAILABLE"):
        client.search(b"x")


def test_a_port_in_use_is_one_clear_error(address: str, encoder: Encoder) -> None:
    port = int(address.split(":")[1])
    with pytest.raises(ServiceError, match=f"can't listen on 127.0.0.1:{port}: choose another --port"):
        Server(open_store("exact:"), encoder, Config(port=port))

"""Traces, as an OpenTelemetry collector receives them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.v1 import encoder_pb2, search_pb2, search_pb2_grpc
from gallery import open_store
from tests.digits import build, png

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    address = ""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def Export(  # noqa: N802 (the protocol names it)
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = grpc.server(ThreadPoolExecutor(2))
    collector = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(0).wait()


def test_a_call_and_its_stages_continue_the_caller_s_trace(
    collector: Collector,
    store_url: str,
    encoder: Encoder,
    queries: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    store = open_store(store_url)
    build(store, encoder)
    config = Config(port=0, traces=True)
    with Server(store, encoder, config) as server, grpc.insecure_channel(server.address) as channel:
        search = search_pb2_grpc.SearchServiceStub(channel).Search
        request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0])))
        search(request, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
        with pytest.raises(grpc.RpcError):
            search(search_pb2.SearchRequest())
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    assert spans.keys() == {"/encoder_service.v1.SearchService/Search", "encode", "search"}
    call = spans["/encoder_service.v1.SearchService/Search"]
    assert call.parent_span_id.hex() == PARENT
    for stage in ("encode", "search"):
        assert spans[stage].parent_span_id == call.span_id
        assert call.start_time_unix_nano <= spans[stage].start_time_unix_nano < spans[stage].end_time_unix_nano
    assert spans["encode"].end_time_unix_nano == spans["search"].start_time_unix_nano
    (failed,) = [span for span in collector.spans if span.trace_id.hex() != TRACE]
    attributes = {attribute.key: attribute.value.int_value for attribute in failed.attributes}
    assert attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_a_call_over_http_continues_the_caller_s_trace(
    collector: Collector, store_url: str, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    store = open_store(store_url)
    build(store, encoder)
    with Server(store, encoder, Config(port=0, http_port=0, traces=True)) as server:
        url = f"http://127.0.0.1:{server.http_port}/encoder_service.v1.SearchService/Search"
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert httpx.post(url, json={"key": "digits/train/0"}, headers=headers).status_code == 200
        assert httpx.post(url, json={}, headers=headers).status_code == 400
    calls = [span for span in collector.spans if span.parent_span_id.hex() == PARENT]
    statuses = [a.value.int_value for span in calls for a in span.attributes if a.key == "rpc.grpc.status_code"]
    assert sorted(statuses) == [grpc.StatusCode.OK.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]]

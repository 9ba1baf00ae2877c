"""Traces for OpenTelemetry: a span for each call, continuing the caller's trace, and in it one for each stage.

Needs the extra `traces`. Where they go is said by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import time

import grpc

from gallery.errors import InvalidInputError


class Traces:
    """Makes the spans and sends them."""

    def __init__(self) -> None:
        """Begin to send.

        Raises:
            InvalidInputError: The extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.instrumentation.grpc import filters, server_interceptor
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InvalidInputError(
                f"--traces: expected the extra `traces`: pip install 'lookalike[traces]' ({error})"
            ) from error
        self._provider = TracerProvider(resource=Resource({SERVICE_NAME: "lookalike"}).merge(Resource.create()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("encoder_service")
        self.interceptor: grpc.ServerInterceptor = server_interceptor(  # type: ignore[no-untyped-call]
            self._provider, filters.negate(filters.health_check())
        )

    def stage(self, stage: str, milliseconds: float, ended_ms_ago: float) -> None:
        """Add a stage that has ended to the call under way in this thread."""
        end = time.time_ns() - int(ended_ms_ago * 1e6)
        self._tracer.start_span(stage, start_time=end - int(milliseconds * 1e6)).end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

"""Export OpenTelemetry traces: a span for each call, as part of the caller's trace, and child spans for its stages.

This needs the extra `traces`. OpenTelemetry's own environment variables configure the export, such as
OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import threading
import time
from collections.abc import Mapping

import grpc

from gallery.errors import InvalidInputError

# Maximum seconds for exporting the remaining spans at shutdown.
_MAX_CLOSING_S = 1.0


class Traces:
    """Creates spans and exports them in the background."""

    def __init__(self) -> None:
        """Start the exporter.

        Raises:
            InvalidInputError: The extra `traces` is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.instrumentation.grpc import filters, server_interceptor
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InvalidInputError(
                f"--traces: expected the extra `traces`: pip install '.[traces]' in a clone of Lookalike ({error})"
            ) from error
        resource = Resource({SERVICE_NAME: "lookalike"}).merge(Resource.create())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("encoder_service")
        self.interceptor: grpc.ServerInterceptor = server_interceptor(  # type: ignore[no-untyped-call]
            self._provider, filters.negate(filters.health_check())
        )

    def add_stages(self, milliseconds: Mapping[str, float]) -> None:
        """Add a child span for each stage of the call that this thread executes.

        The stages ran one after the other, and the last has just ended. So the spans' times are computed backwards from
        now.

        Args:
            milliseconds: Duration of each stage by its name, in the order in which the stages ran.
        """
        end = time.time_ns()
        for stage, duration in reversed(list(milliseconds.items())):
            start = end - int(duration * 1e6)
            self._tracer.start_span(stage, start_time=start).end(end)
            end = start

    def close(self) -> None:
        """Export the remaining spans and stop. If that takes more than a second, the spans are lost."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(_MAX_CLOSING_S)

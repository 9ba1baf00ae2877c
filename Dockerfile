# The encoder service and the ingest command, without TensorFlow: encoders are trained elsewhere and come along.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gallery gallery
COPY encoder_service encoder_service
COPY ingest ingest
COPY training training
RUN python -m venv --without-pip /opt/lookalike \
    && pip --python /opt/lookalike/bin/python install --no-cache-dir --constraint constraints.txt ".[traces]"

FROM python:3.11-slim
COPY --from=build /opt/lookalike /opt/lookalike
# data/ keeps fetched datasets and ledgers, and galleries where there is no server
RUN useradd --uid 10001 --create-home --home-dir /data lookalike
USER 10001
ENV HOME=/data PATH=/opt/lookalike/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
VOLUME /data
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["encoder-service", "health"]
ENTRYPOINT ["encoder-service"]
CMD ["serve", "--host", "0.0.0.0"]

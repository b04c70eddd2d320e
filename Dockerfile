# The service. `make image-check` carries out these steps without Docker.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements-uv.txt ./
RUN python -m venv /uv \
    && /uv/bin/pip install --no-cache-dir --require-hashes -r requirements-uv.txt
COPY requirements.txt ./
# Without pip: nothing is installed into a running service.
RUN python -m venv --without-pip /app \
    && /uv/bin/uv pip install --python /app/bin/python --require-hashes --compile-bytecode -r requirements.txt
# The build back end comes from the same lock as everywhere else.
COPY pyproject.toml README.md LICENSE requirements-dev.txt ./
COPY server server
COPY client client
COPY generated generated
RUN /uv/bin/uv build --wheel --require-hashes --build-constraints requirements-dev.txt --out-dir /build/dist \
    && /uv/bin/uv pip install --python /app/bin/python --no-deps --compile-bytecode /build/dist/*.whl

FROM python:3.11-slim-bookworm
# A number and no name, since a cluster checks runAsNonRoot against a number.
RUN install -d -m 0700 -o 1001 -g 1001 /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    HOME=/data \
    SANDBOX_DATA_DIR=/data \
    PYTHONUNBUFFERED=1
WORKDIR /data
VOLUME ["/data"]
USER 1001:1001
EXPOSE 50051
# For Docker. The probes of a cluster ask /readyz and /healthz at metrics-listen (see docs/kubernetes.md).
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["sandbox-server", "health"]
ENTRYPOINT ["sandbox-server"]

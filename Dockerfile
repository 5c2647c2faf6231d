# The image is the tree: `python -m app …` runs in it as it runs beside the Makefile.

FROM python:3.11-slim-bookworm AS build

COPY requirements/run.txt requirements/swagger-ui.txt /build/requirements/
# Wheels only: a dependency that needs a compiler fails here instead of dragging one in. The environment has no pip
# of its own, so none reaches the last stage.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes --no-deps -r /build/requirements/run.txt \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes --no-deps -r /build/requirements/swagger-ui.txt

WORKDIR /srv/payments
COPY app/ app/
COPY handlers/ handlers/
COPY clients/ clients/
COPY engine/ engine/
COPY resilience/ resilience/
COPY metrics/ metrics/
COPY simulators/ simulators/
# Compiled now, because the running user may write nothing here. The rights do not depend on the builder's umask.
RUN python -m compileall -q --invalidation-mode unchecked-hash . \
    && chmod -R a+rX,go-w .


FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="payment-engine" \
      org.opencontainers.image.licenses="MIT"

# The base image's pip goes, since nothing is installed from here on. /var/lib/payments is the one place to write to:
# a volume mounted there starts with its owner.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel \
    && groupadd --system --gid 10001 payments \
    && useradd --system --uid 10001 --gid payments --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin payments \
    && install --directory --owner payments --group payments --mode 0700 /var/lib/payments

COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/payments /srv/payments

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PAYMENTS__SERVER__HOST=0.0.0.0

WORKDIR /srv/payments
USER 10001:10001
EXPOSE 3003 3004 3005
STOPSIGNAL SIGTERM

# Health, not readiness: restarting the engine does not mend a Redis that is away. Processes without the core surface
# (`--roles worker`) answer on PAYMENTS__OPS__PORT.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; port = int(os.environ.get('PAYMENTS__OPS__PORT') or 0) or int(os.environ.get('PAYMENTS__CORE__PORT') or os.environ.get('PAYMENT_SERVICE_PORT') or 3003); probe = http.client.HTTPConnection('127.0.0.1', port, timeout=2); probe.request('GET', '/health'); sys.exit(probe.getresponse().status != 200)"]

ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]

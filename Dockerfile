# The image of whatsms-events: one program, and its roles by `serve --roles`. docs/deploy.md says how to run it.
#
# Build:  docker build --tag whatsms-events .
# The suite runs on this Python; pin it by digest where your builds must be the same for ever.
ARG PYTHON=python:3.11-slim-bookworm

# The stage that builds has pip and hatchling; what is shipped has what runs and nothing else.
FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/whatsms-events \
    && /opt/whatsms-events/bin/python -m pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/whatsms-events/bin/python -m pip install --no-deps --no-build-isolation . \
    && /opt/whatsms-events/bin/python -m pip uninstall --yes hatchling editables trove-classifiers \
    && /opt/whatsms-events/bin/python -m pip uninstall --yes setuptools pip

FROM ${PYTHON}
# A number, so that Kubernetes can see that it is not root; it owns the folder of the SQLite files and nothing else.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/whatsms-events
COPY --from=build /opt/whatsms-events /opt/whatsms-events
ENV PATH=/opt/whatsms-events/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    WHATSMS_EVENTS_DATA_DIR=/var/lib/whatsms-events
USER 10001:10001
WORKDIR /var/lib/whatsms-events
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# Whether the process answers at all: what restarts it must not ask for more. 100 ms of a small Python, not the command.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8081, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["whatsms-events"]
CMD ["serve"]

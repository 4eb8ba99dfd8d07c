#!/usr/bin/env python3
"""Get and start a real Apache Kafka on this machine: one node in KRaft mode, from the jars of Maven Central.

For development and tests; needs Python 3.11, Java 17 or newer and, for the first `fetch`, Maven. See README.md.
"""

# A program of its own, on a person's own machine: it runs java and mvn as that person has installed them.
# ruff: noqa: S603, S606

import argparse
import fcntl
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

HERE: Final = Path(__file__).resolve().parent
VERSION: Final = "4.3.0"  # the same as in pom.xml
HOST: Final = "127.0.0.1"
# Linux gives outgoing connections ports from 32768 on: a listener below can never find its port taken by one of them.
PORTS: Final = range(20_000, 32_768)
LISTENERS: Final = ("client", "internal", "controller")
FETCH_TRIES, FETCH_TIMEOUT_S = 4, 600
MAX_MESSAGE_BYTES: Final = 9 * 1024 * 1024  # a record of 8 MiB and its envelope

PROPERTIES: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # Transaction markers go over a listener of their own, so that neither a proxy nor SASL stands in their way.
    "inter.broker.listener.name": "INTERNAL",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MAX_MESSAGE_BYTES),
    # One node: everything that is replicated three times by default cannot be.
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # After a kill -9 the broker serves again when its dead predecessor's session has run out: 9 s by default.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    # Fit for two cores and a small heap.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.threads": "1",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}


class Refused(SystemExit):
    """What was asked cannot be done here: one line on standard error, exit status 2 (1 where trying again may help)."""

    def __init__(self, message: str, status: int = 2) -> None:
        sys.stderr.write(f"kafka.py: {message}\n")
        super().__init__(status)


def default_cache() -> Path:
    """Name the folder that holds the jars of this version."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "whatsms-events" / f"kafka-{VERSION}"


def java() -> str:
    """Find a Java of version 17 or newer, JAVA_HOME's first. Exits with status 2 where there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        raise Refused(f"no java in {home + '/bin' if home else 'PATH'}: install Java 17 or newer")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < 17:
        raise Refused(f"{found} is Java {version[1] if version else 'of no known version'}: Kafka needs 17 or newer")
    return found


def has_jars(folder: Path) -> bool:
    """Tell whether `folder` holds the broker: it only ever comes into place whole."""
    return any(folder.glob("kafka_*.jar"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` alone: two Mavens at once can spoil each other's repository."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(cache: Path) -> Path:
    """Have the jars in `cache`, whole or not at all. Exits with status 2 without Maven, with 1 when it fails."""
    if has_jars(cache):
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    with locked(cache.parent / f".{cache.name}.lock"):
        if has_jars(cache):  # another fetch was faster
            return cache
        maven = shutil.which("mvn")
        if maven is None:
            raise Refused(f"no mvn in PATH to get the jars with: install Maven, or put the jars into {cache}")
        for left in cache.parent.glob(f".{cache.name}.*/"):  # by a fetch that was killed: we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{cache.name}.", dir=cache.parent) as temporary:
            jars = Path(temporary) / "jars"
            copy_dependencies(maven, jars)
            if cache.is_dir() and any(cache.iterdir()):
                raise Refused(f"cannot put the jars into {cache}: something else is there")
            jars.rename(cache)
    return cache


def copy_dependencies(maven: str, target: Path) -> None:
    """Let Maven copy the jars into `target`, with more than one try. Exits with status 1 when it goes on failing."""
    goal = [maven, "-q", "-B", "-C", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    goal.append(f"-DoutputDirectory={target}")
    said = ""
    for attempt in range(FETCH_TRIES):
        if said:
            sys.stderr.write(f"kafka.py: Maven failed ({said}); trying again\n")
            time.sleep(2 ** (attempt - 1))
        shutil.rmtree(target, ignore_errors=True)
        sys.stderr.write(f"kafka.py: fetching Apache Kafka {VERSION} with Maven, about 44 MB\n")
        try:
            done = subprocess.run(goal, capture_output=True, text=True, check=False, timeout=FETCH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            said = f"nothing after {FETCH_TIMEOUT_S} s"
        else:
            if done.returncode == 0 and has_jars(target):
                return
            said = next((line for line in done.stdout.splitlines() if "ERROR" in line), done.stderr.strip()[-300:])
    raise Refused(f"Maven could not get the jars in {FETCH_TRIES} tries: {said}", status=1)


def is_free(port: int) -> bool:
    """Tell whether nobody listens on `port` of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def choose_ports(folder: Path, wanted: dict[str, int | None]) -> dict[str, int]:
    """Choose each listener's port: the one asked for, else the one of the last start in `folder`, else a free one."""
    file = folder / "ports"
    lines = file.read_text().split() if file.exists() else []
    ports = {name: int(port) for name, port in map(key_value, lines)}
    ports |= {name: port for name, port in wanted.items() if port}
    for name in LISTENERS:
        if name not in ports:
            ports[name] = next(p for p in random.sample(PORTS, 1000) if p not in ports.values() and is_free(p))
        elif not is_free(ports[name]):
            raise Refused(f"port {ports[name]} is in use: is a broker running in {folder}?")
    file.write_text("".join(f"{name}={port}\n" for name, port in ports.items()))
    return ports


def sasl_properties(options: argparse.Namespace) -> dict[str, str]:
    """Make the client listener speak SASL over TLS, for one user, by PLAIN and by SCRAM-SHA-512."""
    module, prefix = "org.apache.kafka.common.security", "listener.name.client"
    properties = {
        f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        f"{prefix}.plain.sasl.jaas.config":
            f'{module}.plain.PlainLoginModule required user_{options.user}="{options.password}";',
        f"{prefix}.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        f"{prefix}.ssl.keystore.type": "PEM",
        f"{prefix}.ssl.keystore.location": str(options.keystore.resolve()),
    }  # fmt: skip
    if options.truststore:
        properties |= {
            f"{prefix}.ssl.truststore.type": "PEM",
            f"{prefix}.ssl.truststore.location": str(options.truststore.resolve()),
            f"{prefix}.ssl.client.auth": "requested",
        }
    return properties


def server_properties(options: argparse.Namespace, ports: dict[str, int]) -> dict[str, str]:
    """Write down the whole configuration of the broker: the fixed part, listeners, SASL, and what was asked for."""
    protocol = "SASL_SSL" if options.sasl_ssl else "PLAINTEXT"
    return {
        **PROPERTIES,
        "controller.quorum.voters": f"1@{HOST}:{ports['controller']}",
        "listeners": ",".join(f"{name.upper()}://{HOST}:{ports[name]}" for name in LISTENERS),
        "advertised.listeners": f"CLIENT://{options.advertised},INTERNAL://{HOST}:{ports['internal']}",
        "listener.security.protocol.map": f"CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(options.dir / "data"),
        **(sasl_properties(options) if options.sasl_ssl else {}),
        **dict(options.property),
    }


def java_command(jars: Path, folder: Path, *arguments: str) -> list[str]:
    """Build the command that runs a Kafka class with our logging."""
    return [
        java(), "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}", f"-Dbroker.log={folder / 'broker.log'}",
        "-cp", f"{jars}/*", *arguments,
    ]  # fmt: skip


def format_storage(jars: Path, options: argparse.Namespace, properties: Path) -> None:
    """Give an empty data folder its cluster id, and the SCRAM user. Exits with 1 when Kafka refuses."""
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # Joined by "=": an id may start with "-" and would be read as an option.
    arguments = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
    if options.sasl_ssl:
        arguments += ["--add-scram", f"SCRAM-SHA-512=[name={options.user},password={options.password}]"]
    command = java_command(jars, options.dir, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise Refused(f"cannot format {options.dir}: {(done.stdout + done.stderr).strip()[:500]}", status=1)


def start(options: argparse.Namespace) -> NoReturn:
    """Print the broker's address, then become the broker: this process's id is the broker's. Ends with SIGTERM."""
    if options.sasl_ssl and not (options.keystore and options.user and options.password):
        raise Refused("--sasl-ssl needs --keystore, --user and --password")
    if options.sasl_ssl and set('",\\]') & set(options.user + options.password):
        raise Refused("a user or password with one of \" , \\ ] cannot be written into Kafka's configuration")
    options.dir = options.dir.resolve()
    jars = fetch(options.cache)
    options.dir.mkdir(parents=True, exist_ok=True)
    wanted = (options.port, options.internal_port, options.controller_port)
    ports = choose_ports(options.dir, dict(zip(LISTENERS, wanted, strict=True)))
    options.advertised = options.advertised or f"{HOST}:{ports['client']}"
    file = options.dir / "server.properties"
    file.touch(mode=0o600)  # for the password
    # JSON escapes what Java's properties want escaped: backslashes, and what is not ASCII.
    lines = [f"{key}={json.dumps(value)[1:-1]}\n" for key, value in server_properties(options, ports).items()]
    file.write_text("".join(lines))
    if not (options.dir / "data" / "meta.properties").exists():
        format_storage(jars, options, file)
    sys.stdout.write(f"{options.advertised}\n")
    sys.stdout.flush()
    command = java_command(jars, options.dir, "kafka.Kafka", str(file))
    os.execv(command[0], command)


def key_value(text: str) -> tuple[str, str]:
    """Read `key=value`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


def parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    top = argparse.ArgumentParser(prog="kafka.py", description=(__doc__ or "").partition("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cache", type=Path, default=default_cache(), help="folder of the jars (%(default)s)")
    commands.add_parser("fetch", parents=[shared], help="get the jars with Maven, once; print their folder")
    one = commands.add_parser("start", parents=[shared], help="run a broker in the foreground; print its address")
    one.add_argument("--dir", type=Path, required=True, help="folder of its data, configuration and log")
    one.add_argument("--port", type=int, help="port for clients (that of the last start here, else a free one)")
    one.add_argument("--internal-port", type=int, help="port for the broker's calls to itself, always plain")
    one.add_argument("--controller-port", type=int, help="port of the controller")
    one.add_argument("--advertised", metavar="HOST:PORT", help="address that clients are told (a proxy's, say)")
    one.add_argument("--sasl-ssl", action="store_true", help="clients need TLS and a password (PLAIN, SCRAM-SHA-512)")
    one.add_argument("--keystore", type=Path, help="PEM: private key in PKCS #8 and certificate chain")
    one.add_argument("--truststore", type=Path, help="PEM: certificate authorities of clients that show a certificate")
    one.add_argument("--user", help="the one user of --sasl-ssl")
    one.add_argument("--password", default=os.environ.get("KAFKA_PASSWORD"), help="theirs (else KAFKA_PASSWORD)")
    one.add_argument("--property", type=key_value, action="append", default=[], metavar="K=V", help="of the broker")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    options = parser().parse_args(arguments)
    options.cache = options.cache.expanduser().resolve()
    java()
    if options.command == "fetch":
        sys.stdout.write(f"{fetch(options.cache)}\n")
    else:
        start(options)


if __name__ == "__main__":
    main()

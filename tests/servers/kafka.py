"""Real Apache Kafka for the tests, by deploy/kafka/kafka.py: one node that may be killed, frozen and restarted."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it has no __all__
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from servers.ports import HOST, free_port
from servers.process import START_DEADLINE_S, Server, UnavailableError

SCRIPT: Final = Path(__file__).resolve().parents[2] / "deploy" / "kafka" / "kafka.py"
PROBE_S: Final = 1.0
WHAT_FORMATTING_WRITES: Final = ("meta.properties", "bootstrap.checkpoint")
_formatted: Final[dict[str, bytes]] = {}


@dataclass(frozen=True, slots=True)
class RunningKafka:
    """A broker that somebody else runs; it cannot be killed or restarted."""

    bootstrap: str


@dataclass(frozen=True, slots=True)
class SaslSsl:
    """What a client needs to speak to a broker over TLS with a password; SASL PLAIN and SCRAM-SHA-512 both work."""

    ca_file: Path
    keystore: Path
    user: str = "whatsms"
    password: str = "twenty blue herons"


def make_sasl_ssl(folder: Path) -> SaslSsl:
    """Make a certificate authority and the broker's certificate in `folder`."""
    authority = trustme.CA()
    identity = authority.issue_cert(HOST, "localhost")
    key = load_pem_private_key(identity.private_key_pem.bytes(), password=None)
    # Kafka reads keys in PKCS #8 only.
    keystore, ca_file = folder / "keystore.pem", folder / "ca.pem"
    with keystore.open("wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.writelines(certificate.bytes() for certificate in identity.cert_chain_pems)
    authority.cert_pem.write_to_path(str(ca_file))
    return SaslSsl(ca_file=ca_file, keystore=keystore)


def have_jars() -> None:
    """Get the broker's jars if they are not there. Raises UnavailableError: no Java 17, no Maven, no network."""
    done = subprocess.run([sys.executable, SCRIPT, "fetch"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(done.stderr.strip().splitlines()[-1])


class Broker(Server):
    """One Kafka node in KRaft mode. Restarting keeps its data and its ports.

    `advertised_port`, set before the start, tells clients to come by a proxy: `bootstrap` is then the proxy's address,
    `direct` never is.
    """

    # A broker of a test lives for seconds: the better compiler takes more processor time than its code gives back.
    environ = MappingProxyType({"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"})

    def __init__(
        self,
        folder: Path,
        *,
        sasl_ssl: SaslSsl | None = None,
        properties: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.port, self.internal_port, self.controller_port = free_port(), free_port(), free_port()
        self.advertised_port: int | None = None
        self.sasl_ssl = sasl_ssl
        self.properties = properties or {}

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.advertised_port or self.port}"

    @property
    def direct(self) -> str:
        """The address of a listener that needs no password and that no proxy can cut: for witnesses."""
        return f"{HOST}:{self.internal_port}"

    def command(self) -> Sequence[str]:
        """Start the script, which becomes the broker."""
        command = [
            sys.executable, str(SCRIPT), "start", "--dir", str(self.folder), "--port", str(self.port),
            "--internal-port", str(self.internal_port), "--controller-port", str(self.controller_port),
            "--advertised", self.bootstrap,
        ]  # fmt: skip
        if self.sasl_ssl:
            command += ["--sasl-ssl", "--keystore", str(self.sasl_ssl.keystore)]
            command += ["--user", self.sasl_ssl.user, "--password", self.sasl_ssl.password]
        for key, value in self.properties.items():
            command += ["--property", f"{key}={value}"]
        return command

    def logs(self) -> Sequence[Path]:
        """Name what the process said and the broker's own log."""
        return [*super().logs(), self.folder / "broker.log"]

    async def start(self, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Start it like any server. A new folder is formatted by Kafka's tool once for all brokers of a session."""
        data = self.folder / "data"
        if not self.sasl_ssl and not data.exists() and _formatted:
            data.mkdir()
            for name, content in _formatted.items():
                (data / name).write_bytes(content)
        await super().start(deadline_s=deadline_s)
        if not self.sasl_ssl and not _formatted:
            _formatted.update((name, (data / name).read_bytes()) for name in WHAT_FORMATTING_WRITES)

    async def serves(self) -> bool:
        """Tell whether its ports are open, its controller takes orders and every partition has a leader."""
        for port in (self.port, self.internal_port):
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                return False
            writer.close()
        return await asyncio.to_thread(is_ready, self.direct)

    async def remove(self) -> None:
        """Kill it and delete its data."""
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def is_ready(bootstrap: str) -> bool:
    """Tell whether the broker would create a topic now and leads every partition it has."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": int(PROBE_S * 1000)})
    try:
        # Refused while the broker is fenced: a topic needs a broker to lie on.
        probe = admin.create_topics([NewTopic("probe", 1, 1)], validate_only=True, request_timeout=PROBE_S)
        probe["probe"].result(PROBE_S * 2)
        topics = admin.list_topics(timeout=PROBE_S).topics.values()
    except (KafkaException, TimeoutError):
        return False
    return all(p.leader >= 0 and p.error is None for topic in topics for p in topic.partitions.values())


def create_topic(bootstrap: str, name: str, *, partitions: int = 2, **config: str) -> None:
    """Create a topic without our own code. Raises KafkaException."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(10)

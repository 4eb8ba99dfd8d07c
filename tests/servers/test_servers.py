"""The test servers themselves: what they promise to the tests that rely on them."""

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from confluent_kafka import Producer

from servers.kafka import Broker, RunningKafka, create_topic
from servers.ports import free_port, until_watched, watched_sockets
from servers.postgres import Postgres, embedded, installed
from servers.process import StartError
from servers.proxy import END_TXN, PRODUCE, TcpProxy
from servers.witness import read_committed

# Their methods have no types.
AnyProducer: Any = AIOKafkaProducer
AnyClient: Any = AIOKafkaClient


@asynccontextmanager
async def aiokafka_client(broker: Broker, mechanism: str, password: str | None = None) -> AsyncIterator[Any]:
    """Open aiokafka's client over SASL_SSL."""
    assert broker.sasl_ssl is not None
    before = watched_sockets()
    client = AnyClient(
        bootstrap_servers=broker.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,
        sasl_plain_username=broker.sasl_ssl.user,
        sasl_plain_password=password or broker.sasl_ssl.password,
        ssl_context=ssl.create_default_context(cafile=broker.sasl_ssl.ca_file),
    )
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()
        await until_watched(before)


async def publish(bootstrap: str, topic: str, values: list[bytes], *, commit: bool = True) -> None:
    """Send values in one transaction, spread over two partitions, and commit or abort it."""
    producer = AnyProducer(bootstrap_servers=bootstrap, transactional_id=f"tx-{topic}")
    await producer.start()
    try:
        await producer.begin_transaction()
        for number, value in enumerate(values):
            await producer.send_and_wait(topic, value, partition=number % 2)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    """Send one value to partition 0, without a transaction, and wait until it is acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})
    producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0


async def test_witness_reads_committed_records_only(kafka: RunningKafka, topic_prefix: str) -> None:
    """The witness sees every committed record and no aborted one, also where an aborted one is the last."""
    topic = f"{topic_prefix}.events"
    create_topic(kafka.bootstrap, topic)
    await publish(kafka.bootstrap, topic, [b"1", b"2", b"3"])
    await publish(kafka.bootstrap, topic, [b"x", b"y"], commit=False)
    assert sorted(m.value() or b"" for m in read_committed(kafka.bootstrap, [topic])) == [b"1", b"2", b"3"]


async def test_broker_keeps_data_and_address_over_kill(own_broker: Broker, topic_prefix: str) -> None:
    """A broker that was killed and started again has the same address and what was acknowledged before."""
    bootstrap, first = own_broker.bootstrap, own_broker.pid
    create_topic(bootstrap, topic_prefix)
    # No transaction: a broker that is killed right after a commit may leave it hanging, and that is no matter here.
    produce(bootstrap, topic_prefix, b"kept")
    await own_broker.kill()
    assert own_broker.pid is None
    await own_broker.start()
    assert (own_broker.bootstrap, own_broker.pid != first) == (bootstrap, True)
    produce(bootstrap, topic_prefix, b"new")
    assert [m.value() for m in read_committed(bootstrap, [topic_prefix])] == [b"kept", b"new"]


async def test_frozen_broker_answers_again_when_thawed(own_broker: Broker, topic_prefix: str) -> None:
    """A frozen broker answers nothing and is there; thawed, it goes on."""
    await own_broker.freeze()
    assert not await own_broker.serves()
    assert own_broker.pid is not None
    await own_broker.thaw()
    create_topic(own_broker.bootstrap, topic_prefix)
    await own_broker.stop()
    assert own_broker.pid is None


async def test_failed_start_shows_the_end_of_the_log(new_broker: Broker) -> None:
    """A broker that cannot start says why."""
    new_broker.properties["log.dirs"] = "/dev/null/data"
    with pytest.raises(StartError, match="/dev/null/data"):
        await new_broker.start()
    assert new_broker.pid is None
    await new_broker.remove()


async def test_postgres_url_is_an_empty_durable_database(postgres_url: str) -> None:
    """Each test has a database without tables, on a server that is set to be durable."""
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        settings = [await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
    finally:
        await connection.close()
    assert (tables, settings) == (0, ["on", "on"])


async def test_postgres_recovers_from_kill(own_postgres: Postgres) -> None:
    """A PostgreSQL server that was killed and started again has what was committed before."""
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    await own_postgres.kill()
    connection.terminate()
    await own_postgres.start()
    connection = await asyncpg.connect(own_postgres.url)
    assert await connection.fetchval("SELECT n FROM t") == 1
    await connection.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_sasl_ssl_broker_takes_the_password(sasl_broker: Broker, mechanism: str) -> None:
    """A client that knows the authority and the password gets in, by either mechanism."""
    async with aiokafka_client(sasl_broker, mechanism) as client:
        assert len(client.cluster.brokers()) == 1


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_sasl_ssl_broker_refuses_another_password(sasl_broker: Broker, mechanism: str) -> None:
    """A client with a wrong password does not get in."""
    with pytest.raises(KafkaError):
        async with aiokafka_client(sasl_broker, mechanism, "wrong"):
            pass


async def test_lost_answer_is_a_request_that_was_executed(
    proxied_broker: tuple[Broker, TcpProxy], topic_prefix: str
) -> None:
    """A client whose answer was lost sends again, and the record that the broker has already is there once."""
    broker, proxy = proxied_broker
    create_topic(broker.direct, topic_prefix)
    proxy.lose_answer(PRODUCE)
    await publish(broker.bootstrap, topic_prefix, [b"1", b"2"])
    assert proxy.faults == 1
    proxy.lose_answer(END_TXN)
    await publish(broker.bootstrap, topic_prefix, [b"3"])
    assert proxy.faults == 2
    assert sorted(m.value() or b"" for m in read_committed(broker.direct, [topic_prefix])) == [b"1", b"2", b"3"]


async def test_proxy_cuts_and_stalls(own_postgres: Postgres) -> None:
    """A stalled connection goes on where it was; a cut one is broken, and a new one works again after a refusal."""
    async with TcpProxy(own_postgres.port) as proxy:
        url = own_postgres.url.replace(str(own_postgres.port), str(proxy.port))
        connection = await asyncpg.connect(url)
        proxy.stall()
        answer = asyncio.ensure_future(connection.fetchval("SELECT 1"))
        assert await asyncio.wait([answer], timeout=0.2) == (set(), {answer})
        proxy.resume()
        assert await answer == 1
        proxy.cut(refuse=True)
        with pytest.raises(asyncpg.PostgresConnectionError):
            await connection.execute("SELECT 1")
        with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
            await asyncpg.connect(url)
        proxy.resume()
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE t (n int)")
        proxy.lose_answer()
        with pytest.raises(asyncpg.PostgresConnectionError):
            await connection.execute("INSERT INTO t VALUES (1)")
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM t") == 1
        proxy.cut_after(10)
        with pytest.raises(asyncpg.PostgresConnectionError):
            await connection.execute("INSERT INTO t VALUES (2)")
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM t") == 1
        await connection.close()


def test_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A server does not outlive a test run that is killed."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from servers.process import Server
class Sleep(Server):
    def command(self): return [sys.executable, "-c", "import time; time.sleep(600)"]
    async def serves(self): return True
server = Sleep(Path({str(tmp_path)!r}))
asyncio.run(server.start())
print(server.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert is_alive(pid)
        run.kill()
    until = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Tell whether the process is there and no zombie that only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.postgres
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("find", [installed, embedded])
async def test_every_postgresql_of_this_machine_runs(
    find: Callable[[], list[Path]], closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed PostgreSQL runs, and so does the one in the wheel, also from a folder that only we can enter."""
    if not find():
        pytest.skip(f"no {find.__name__} PostgreSQL on this machine")
    if closed:
        monkeypatch.setattr("servers.postgres.is_open", lambda _: False)
    server = Postgres(find()[0])
    try:
        server.initialise()
        await server.start()
        await server.freeze()
        await server.stop()
    finally:
        await server.remove()


def test_free_ports_differ_and_lie_below_the_outgoing_ones() -> None:
    """Ports that were handed out are not handed out again, and no outgoing connection can take them."""
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    assert max(ports) < 32768

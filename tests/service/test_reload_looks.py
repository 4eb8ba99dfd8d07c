"""How the files of the settings are looked at: one look at a time, and again while they are refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from threading import Event

import pytest
from structlog.testing import capture_logs

from servers.compare import until
from servers.metric import sample
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError
from whatsms_events.service.reload import Reload, SettingsFiles
from whatsms_events.service.supervisor import beside

LIMIT_S = 30
OTHER = Settings.model_validate({"private": {"token": "a-token-of-twenty-letters"}})


class Files:
    """Files of settings that hang, cannot be read or have a mistake as the test says."""

    def __init__(self) -> None:
        self.content = b"first"
        self.wanted = Settings()
        self.problem: Exception | None = None
        self.gate = Event()
        self.gate.set()
        self.looks, self.hangs = 0, False

    def fingerprint(self) -> bytes:
        """Wait for the gate, as on a file server that hangs."""
        self.looks += 1
        self.hangs = not self.gate.is_set()
        assert self.gate.wait(LIMIT_S)
        return self.content

    def looked(self, times: int) -> bool:
        """Tell whether so many looks began."""
        return self.looks >= times

    def load(self) -> Settings:
        """Return what is wanted, or raise the problem."""
        if self.problem is not None:
            raise self.problem
        return self.wanted


@asynccontextmanager
async def reloading(files: Files, applied: list[Settings], read_s: float = LIMIT_S) -> AsyncIterator[Reload]:
    """Look at the files while the body runs. A look may take `read_s`: on a busy machine any may take a while."""
    one = Reload(SettingsFiles(files.load, files.fingerprint), Settings(), applied.append, poll_s=0.01, read_s=read_s)
    async with asyncio.timeout(LIMIT_S), beside([one.run()], one.stop):
        yield one


def refused() -> bool:
    """Return what the gauge says."""
    return sample("whatsms_events_settings_refused") == 1


async def test_a_file_server_that_hangs_holds_one_look_and_not_the_stop() -> None:
    """No other look begins while one hangs; a line and the gauge say so, and the stop does not wait for it."""
    files, applied = Files(), list[Settings]()
    with capture_logs() as lines:
        async with reloading(files, applied, read_s=0.05):
            await until(lambda: files.looks > 3, LIMIT_S, "some looks")
            files.gate.clear()
            await until(lambda: files.hangs and refused(), LIMIT_S, "the hanging look is refused")
            looks, turns = files.looks, 0

            def turned() -> bool:
                nonlocal turns
                turns += 1
                return turns > 20

            await until(turned, LIMIT_S, "time for other looks")
            assert files.looks == looks
        assert not files.gate.is_set()  # so the stop came while the look hung
    files.gate.set()
    assert {line["reason"] for line in lines if line["event"] == "settings.refused"} == {
        "the files were not read within 0.05 s"
    }


async def test_a_look_that_was_only_slow_is_taken() -> None:
    """Where the file server answers again, what has changed meanwhile is applied and nothing is refused any more."""
    files, applied = Files(), list[Settings]()
    async with reloading(files, applied, read_s=0.05):
        files.gate.clear()
        await until(lambda: files.hangs and refused(), LIMIT_S, "the hanging look is refused")
        files.content, files.wanted = b"second", OTHER
        files.gate.set()
        await until(lambda: bool(applied) and not refused(), LIMIT_S, "the change is applied")


@pytest.mark.parametrize(
    "problem", [ConfigError("kafka.ca_file: cannot be read"), FileNotFoundError(2, "No such file")]
)
async def test_settings_that_were_refused_are_tried_again(problem: Exception) -> None:
    """A mistake may be mended where no content shows it, such as in a certificate: the next looks find that out, and
    the log says the reason once, and again for who asks.
    """
    files, applied = Files(), list[Settings]()
    with capture_logs() as lines:
        async with reloading(files, applied) as one:
            await until(lambda: files.looks > 3, LIMIT_S, "some looks")
            files.content, files.wanted, files.problem = b"second", OTHER, problem
            await until(refused, LIMIT_S, "the mistake is refused")
            looks = files.looks
            await until(lambda: files.looks > looks + 5, LIMIT_S, "more looks")
            said = [line for line in lines if line["event"] == "settings.refused"]
            assert len(said) == 1
            one.ask()
            await until(lambda: len(lines) > len(said), LIMIT_S, "the answer to who asked")
            files.problem = None
            await until(lambda: bool(applied) and not refused(), LIMIT_S, "the change is applied")
    assert applied == [OTHER]
    assert [line["event"] for line in lines] == ["settings.refused", "settings.refused", "settings.applied"]


def with_tenants(*slugs: str, **more: object) -> Settings:
    """Return settings with these tenants."""
    tenants = {slug: {"tenant_id": slug, "webhook_secrets": {"main": "whsec-of-all"}} for slug in slugs}
    return Settings.model_validate({"tenants": tenants, **more})


async def test_a_new_tenant_is_named_until_the_restart() -> None:
    """A change that has nothing to do with the new tenant does not hide that its watchdog does not run; a tenant that
    went and came back is named likewise.
    """
    files, applied = Files(), list[Settings]()
    new, back = (f"tenants.{slug} (its watchdog and backfill)" for slug in ("new", "back"))
    steps: list[tuple[Settings, list[str]]] = [
        (with_tenants("back", "new"), [new]),
        (with_tenants("back", "new", public={"port": 9001}), ["public.port", new]),
        (with_tenants("new", public={"port": 9002}), ["public.port", new]),
        (with_tenants("back", "new"), [back, new]),
    ]
    one = Reload(
        SettingsFiles(files.load, files.fingerprint), with_tenants("back"), applied.append, poll_s=0.01, read_s=LIMIT_S
    )
    with capture_logs() as lines:
        async with asyncio.timeout(LIMIT_S), beside([one.run()], one.stop):
            for number, (files.wanted, _) in enumerate(steps):
                files.content = str(number).encode()
                await until(partial(files.looked, files.looks + 4), LIMIT_S, "the step is read")
    found = [line["fields"] for line in lines if line["event"] == "settings.waiting"]
    assert found == [steps[0][1], steps[1][1], steps[3][1]]

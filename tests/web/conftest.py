"""The public listener runs on both event loops: asyncio's own, and uvloop, which `serve` uses where there is one."""

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Final

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

ONE_LOOP: Final[Mapping[str, LoopFactory]] = {"asyncio": asyncio.new_event_loop}


def _both_loops() -> Mapping[str, LoopFactory]:
    if find_spec("uvloop") is None:
        return ONE_LOOP
    import uvloop

    return {**ONE_LOOP, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run each test of a module that says `BOTH_LOOPS = True` on both loops."""
    return _both_loops() if getattr(getattr(item, "module", None), "BOTH_LOOPS", False) else ONE_LOOP

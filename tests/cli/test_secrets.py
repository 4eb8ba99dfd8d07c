"""`secrets status`, on a log that receivers wrote."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from servers import warm
from whatsms_events.storage.database import DatabaseTarget, open_log
from whatsms_events.storage.log.secret_uses import SecretUses

pytestmark = pytest.mark.process

CONFIG = """
data_dir = "."
[tenants.acme]
tenant_id = "t1"
webhook_secrets = {old = "whsec-old-canary", next = "whsec-next-canary", new = "whsec-new-canary"}
[tenants.shop]
tenant_id = "t2"
webhook_secrets = {current = "whsec-shop-canary"}
"""


async def used(folder: Path, now: datetime) -> None:
    """Let a log say that a secret was replaced four days ago."""
    log = await open_log(DatabaseTarget(f"sqlite:///{folder / 'log.db'}"), migrate=True)
    uses = SecretUses(log)
    uses.add("t1", "old", 7, now - timedelta(days=9))
    uses.add("t1", "old", 1, now - timedelta(days=4))
    uses.add("t1", "new", 1, now - timedelta(days=4))
    uses.add("t1", "new", 2, now)
    await uses.save()
    await log.close()


def test_secrets_status_says_which_secret_may_go(tmp_path: Path) -> None:
    """A line for each configured secret, or one JSON object; no secret is shown; an unknown tenant is refused."""
    now = datetime.now(UTC)
    asyncio.run(used(tmp_path, now))
    (tmp_path / "whatsms.toml").write_text(CONFIG)
    config = ["--config", "whatsms.toml"]
    told = warm.run(["secrets", "status", *config], tmp_path)
    assert told.returncode == 0, told.stderr
    last = f"{now - timedelta(days=4):%Y-%m-%dT%H:%M:%SZ}"
    old, nexts, new, shop = told.stdout.splitlines()
    assert old.startswith(f"acme  old  retiring  last {last}  8 deliveries  safe to retire: new fits since")
    assert nexts.startswith("acme  next  never matched  last never  0 deliveries  keep: ")
    assert new.startswith("acme  new  in use  ")
    assert shop.startswith("shop  current  never matched  ")
    found = warm.run(["secrets", "status", "--tenant", "acme", "--json", *config], tmp_path)
    secrets = json.loads(found.stdout)["acme"]
    assert [(one["name"], one["count"], one["safe_to_retire"]) for one in secrets] == [
        ("old", 8, True),
        ("next", 0, False),
        ("new", 3, False),
    ]
    assert "canary" not in told.stdout + found.stdout
    assert warm.run(["secrets", "status", "--tenant", "nobody", *config], tmp_path).returncode == 2

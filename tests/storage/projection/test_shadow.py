"""The shadow of a projection: made, found and removed, and nothing else of the database touched."""

from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import inspect, select

from whatsms_events.errors import ConfigError
from whatsms_events.storage import tables
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.projection.shadow import SCHEMA, has_shadow, open_shadow, remove_shadow, shadow_of

TABLES = tables.projection_metadata.tables


def files(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def test_a_shadow_has_the_tables_of_the_projection_and_is_removed_whole(
    database_url: str, tmp_path: Path
) -> None:
    """It has the same tables without their indexes, and rows of its own; the live tables keep theirs. Removed, nothing
    is left of it, and log and live projection in the same place are as they were. It may be removed twice.
    """
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    live_target = DatabaseTarget(database_url.replace("log.db", "projection.db"))
    live = await open_projection(live_target, migrate=True)
    target = shadow_of(live_target)
    before = files(tmp_path)
    for _ in range(2):  # the second time it is made anew
        shadow = await open_shadow(live, target)
        assert await has_shadow(live, target)
        made = []
        for one in (live, shadow):
            async with one.write() as connection:
                looked = await connection.run_sync(lambda sync: inspect(sync).get_multi_indexes())
                made.append(
                    {name: sorted(str(index["name"]) for index in found) for (_, name), found in looked.items()}
                )
        own = {
            name: sorted(str(one.name) for one in table.indexes if one.info.get("only", live.dialect) == live.dialect)
            for name, table in TABLES.items()
        }
        assert {name: made[0][name] for name in TABLES} == own
        assert {name: made[1][name] for name in TABLES} == {name: [] for name in TABLES}
        async with shadow.write() as connection:
            row = {"tenant": "t", "id": "c", "known": True, "doubtful": False, "versions": "{}"}
            await connection.execute(tables.contact.insert().values(row))
        async with live.read() as connection:
            assert (await connection.execute(select(tables.contact))).all() == []
        await shadow.close()
        await remove_shadow(live, target)
        await remove_shadow(live, target)
        assert not await has_shadow(live, target)
        assert files(tmp_path) == before
    await live.close()
    await log.close()


async def test_a_user_that_may_make_no_schema_is_told_what_to_grant(postgres_url: str) -> None:
    """The message names the schema and the right; with a schema that somebody else made for the user, it works."""
    owner = await open_projection(DatabaseTarget(postgres_url), migrate=True)
    await owner.close()
    name = postgres_url.rsplit("/", 1)[1]
    user = f"user_{name}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE ROLE {user} LOGIN")
    await admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}")
    live_target = DatabaseTarget(f"postgresql://{user}@{postgres_url.split('@')[1]}")
    live = await open_projection(live_target, migrate=False)
    with pytest.raises(ConfigError, match=f"schema {SCHEMA}.*GRANT CREATE ON DATABASE"):
        await open_shadow(live, shadow_of(live_target))
    await admin.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {user}")
    await (await open_shadow(live, shadow_of(live_target))).close()
    await remove_shadow(live, shadow_of(live_target))
    await live.close()
    await admin.execute(f"DROP OWNED BY {user}")
    await admin.execute(f"DROP ROLE {user}")
    await admin.close()

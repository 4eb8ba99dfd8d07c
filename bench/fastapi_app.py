"""What a team would write first: FastAPI and SQLAlchemy, one transaction for each request. Honest, and not slowed down.

It verifies the signature, decodes the body, and answers once the bytes are committed, as durably as our log: SQLite in
WAL mode with synchronous=FULL. One connection, so that no request polls for another one's lock; uvloop and httptools,
no access log.
"""

import hashlib
import hmac
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import DateTime, LargeBinary, String, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables."""


class Delivery(Base):
    """A delivery, unique by its bytes."""

    __tablename__ = "delivery"
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sha256: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    type: Mapped[str] = mapped_column(String)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    raw: Mapped[bytes] = mapped_column(LargeBinary)


def opened(path: str) -> AsyncEngine:
    """Return the engine of a file that loses nothing that was committed."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0)

    @event.listens_for(engine.sync_engine, "connect")
    def durable(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def application(path: str, secret: bytes) -> FastAPI:
    """Return the application."""
    engine = opened(path)
    sessions = async_sessionmaker(engine)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=life)

    @app.post("/webhooks/{slug}", status_code=204)
    async def take(slug: str, request: Request, x_whatsms_signature: str = Header()) -> Response:
        body = await request.body()
        wanted = hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted, x_whatsms_signature.removeprefix("sha256=")):
            raise HTTPException(401, slug)
        row = {
            "sha256": hashlib.sha256(body).digest(),
            "type": json.loads(body)["event"],
            "received_at": datetime.now(UTC),
            "raw": body,
        }
        async with sessions() as session:
            await session.execute(insert(Delivery).values(row).on_conflict_do_nothing())
            await session.commit()
        return Response(status_code=204)

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[1], sys.argv[2].encode()), host="127.0.0.1", port=int(sys.argv[3]), access_log=False,
        log_level="warning",
    )  # fmt: skip

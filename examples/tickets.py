"""Print the open tickets of an account, and their messages where asked to, by WhatSMS's REST API.

    WHATSMS_API_KEY=... python examples/tickets.py

It needs this package for its client, and no service. Careful: reading a ticket's messages may tell the person who wrote
them that they were read, so messages are asked for with `--messages` only.
"""

import argparse
import asyncio
import os
import sys
from typing import Final

from whatsms_events.whatsms import Client

URL: Final = os.environ.get("WHATSMS_URL", "https://api.whatsms.pt/api/v2")


async def main() -> None:
    """Print a line for each open ticket."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--messages", action="store_true", help="print each ticket's messages too")
    given = asked.parse_args()
    async with Client(URL, os.environ["WHATSMS_API_KEY"]) as client:
        async for ticket in client.tickets.list(status="open"):
            sys.stdout.write(f"{ticket.id} {ticket.channel}\n")
            if given.messages and isinstance(ticket.id, str):
                async for message in client.messages.list(ticket.id):
                    sys.stdout.write(f"    {message.created_at} {message.body}\n")


if __name__ == "__main__":
    asyncio.run(main())

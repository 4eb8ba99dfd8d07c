"""The documents as they were made and shipped: what the private listener serves under `/contracts`."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

FOLDER: Final = "made"
INDEX: Final = "index.html"


def published() -> Mapping[str, bytes]:
    """Return every file of the contracts by its name."""
    folder = files("whatsms_events.contracts").joinpath(FOLDER)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda one: one.name)}

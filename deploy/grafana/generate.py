"""Write the JSON of the boards into `dashboards/`: `make docs` runs this, as `python -m deploy.grafana.generate`.

The boards themselves are in `boards`. Each panel links to a section of the runbook: `--runbook` is the address of
`docs/operate.md` where your operators read it.
"""

import argparse
import json
from pathlib import Path
from typing import Final

from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Json

HERE: Final = Path(__file__).resolve().parent
RUNBOOK: Final = "docs/operate.md"


def files(runbook: str = RUNBOOK) -> dict[str, str]:
    """Return the text of each file by its name."""
    return {f"{name}.json": written(board.as_json(runbook)) for name, board in BOARDS.items()}


def written(board: Json) -> str:
    """Return the JSON of a board with a line for each panel, so that a change of one is a change of one line."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in board.items() if key != "panels"]
    panels = board["panels"]
    assert isinstance(panels, list)
    each = ",\n".join(json.dumps(panel) for panel in panels)
    return "{\n" + ",\n".join([*lines, f'"panels": [\n{each}\n]']) + "\n}\n"


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description="Write the JSON of the Grafana boards.")
    parser.add_argument("--runbook", default=RUNBOOK, help="the address of docs/operate.md")
    parser.add_argument("--into", type=Path, default=HERE / "dashboards", help="the folder to write to")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    for name, content in files(given.runbook).items():
        (given.into / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()

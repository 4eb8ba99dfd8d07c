"""Take pictures of the console's pages, light, dark and on a narrow screen: docs/images. `make images`.

The pages are those of a running service that a real browser is signed in to; it is the one that tests walk.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from console.stage import LOOKS, TOKEN, Walker, browsing, chromium, say, told_service, walking  # noqa: E402
from servers.service import SLUG  # noqa: E402
from servers.upstream import account  # noqa: E402

FOLDER: Final = ROOT / "docs" / "images"
FILLED: Final = {
    "conversation": f"/conversations/ticket?tenant={SLUG}&id=t-2",
    "passport": "/passport/at?position=3",
}
"""Pages that the menu does not lead to, or that show nothing there, by the names of their pictures."""


def named(path: str) -> str:
    """Return the name of a page's pictures."""
    return path.strip("/").partition("?")[0].replace("/", "-") or "now"


async def pictures(walker: Walker, look: str, folder: Path) -> list[Path]:
    """Take a picture of each page in the menu and of those that lie behind, and return the files."""
    await walker.sign_in(TOKEN)
    taken = []
    for name, path in ({named(path): path for path in await walker.menu()} | FILLED).items():
        await walker.go(path)
        if path == "/live":  # the only page that draws by itself
            await walker.page.locator("#rows tr").first.wait_for()
        file = folder / f"{name}-{look}.png"
        await walker.page.screenshot(path=file)
        taken.append(file)
    return taken


async def main(folder: Path) -> int:
    """Take all pictures into a folder; return the exit status."""
    path = chromium()
    if path is None:
        sys.stderr.write("no Chromium is installed: apt-get install chromium\n")
        return 1
    with tempfile.TemporaryDirectory() as place:
        async with (
            account(minutes=10) as there,
            told_service(Path(place) / "service", there) as service,
            browsing(path) as browser,
        ):
            at = "2026-01-15T12:00:00Z"
            await say(service, "message.received", at, message={"id": "m-7", "body": "Bom dia, já têm novidades?"})
            for look in LOOKS:
                async with walking(browser, service, look) as walker:
                    for file in await pictures(walker, look, folder):
                        sys.stdout.write(f"wrote {file.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    sys.exit(asyncio.run(main(FOLDER)))

"""Whether the vendor still has a thing, by what a look at its API found and what was told since: the only rule for it.

A look that finds nothing marks a row in the register `gone`. An event about the thing itself shows that it is there if
it happened after that look, or if it arrived after it and told anything new: the vendor tells only of what it has. If
only its arrival is later, it may have been on its way when the thing was deleted: that is a doubt, so the next repair
asks. Events about other things prove nothing: they may show or name the thing long after it was deleted.

`storage/projection/holdings` asks the same in SQL, and a test holds the two together.
"""

from collections.abc import Mapping

from whatsms_events.domain.rows import OWN, Value, Version


def is_gone(marked: Value, versions: Mapping[str, Version]) -> bool:
    """Tell whether the thing is gone, by its row's column `gone` and the versions of its registers."""
    return marked is True and not (_told_newer(versions) or _told_later(versions))


def in_doubt(marked: Value, versions: Mapping[str, Version]) -> bool:
    """Tell whether the thing may be gone all the same: an event about it came after the look, but happened before."""
    return marked is True and _told_later(versions) and not _told_newer(versions)


def _told_newer(versions: Mapping[str, Version]) -> bool:
    look = versions.get("gone")
    return look is not None and any(one.rank >= OWN and one.time > look.time for one in versions.values())


def _told_later(versions: Mapping[str, Version]) -> bool:
    look = versions.get("gone")
    return look is not None and any(one.rank >= OWN and one.position > look.position for one in versions.values())

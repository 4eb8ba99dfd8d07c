"""How much of the queue each tenant may take, so that one that floods leaves room, and turns, to the others."""

from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar

from whatsms_events.errors import OverloadedError

T = TypeVar("T")


class Room:
    """So much of one thing, bytes or places, for all tenants together. `what` names it in the error.

    Where tenants share the room, one may go on taking as long as it holds no more than what is left free. So a single
    tenant that floods gets half of the room, two get a third each, and whoever comes next still finds some.
    """

    def __init__(self, limit: int, what: str, *, shared: bool) -> None:
        self._limit = limit
        self._what = what
        self._shared = shared
        self._held = Counter[str]()
        self.used = 0

    def change(self, limit: int, *, shared: bool) -> None:
        """Have another limit from now on; what is held already is kept."""
        self._limit, self._shared = limit, shared

    def take(self, tenant: str, size: int) -> None:
        """Take room for a tenant; raise OverloadedError where there is none for it."""
        used = self.used + size
        if used > self._limit:
            raise OverloadedError(f"{self._what}: no room")
        held = self._held[tenant] + size
        if self._shared and held > size and held > self._limit - used:
            raise OverloadedError(f"{self._what}: the tenant holds as much as is left for the others")
        self.used = used
        self._held[tenant] = held

    def give_back(self, tenant: str, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        self._held[tenant] -= size
        if not self._held[tenant]:
            del self._held[tenant]


def take_fairly(
    queue: deque[T], *, count: int, size: int, tenant_of: Callable[[T], str], size_of: Callable[[T], int]
) -> list[T]:
    """Take up to `count` things of up to `size` in all from the queue, in its order; at least one where there is one.

    Where there are more, tenants take turns: each gets an equal share, and what one of them does not need goes to the
    others. What is not taken stays in its order.
    """
    quota = None if len(queue) <= count else _shares(Counter(map(tenant_of, queue)), count)
    taken: list[T] = []
    left: list[T] = []
    while queue and len(taken) < count:
        one = queue.popleft()
        if quota is not None and not quota[tenant_of(one)]:
            left.append(one)
            continue
        size -= size_of(one)
        if size < 0 and taken:
            left.append(one)
            break
        if quota is not None:
            quota[tenant_of(one)] -= 1
        taken.append(one)
    queue.extendleft(reversed(left))
    return taken


def _shares(wanted: Counter[str], count: int) -> Counter[str]:
    """Share `count` among the tenants, as equally as what each of them wants allows; no tenant's share is nothing."""
    shares = Counter[str]()
    for place, (tenant, number) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
        shares[tenant] = min(number, max(1, -(-count // (len(wanted) - place))))
        count -= shares[tenant]
    return shares

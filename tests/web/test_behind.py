"""What readers of the event feed hold of large pieces: each once, and together no more than fits."""

import asyncio
from dataclasses import dataclass, field

from whatsms_events.domain.feed import Place
from whatsms_events.web.behind import HeldPieces
from whatsms_events.web.tail import FeedPiece

SIZE = 100
PATIENT_S = 60.0


def piece(position: int) -> FeedPiece:
    """Return a piece of 100 bytes of its own."""
    return FeedPiece(b"%d" % position * SIZE, Place(position), Place(position))


@dataclass(eq=False)
class Reader:
    """Lets go of what it holds when it is cut off, as a reader of the feed does."""

    held: HeldPieces
    cut: list[str] = field(default_factory=list)
    name: str = ""

    def cut_off(self) -> None:
        """Note who it was, and let go."""
        self.cut.append(self.name)
        self.held.let_go(self)


async def test_a_piece_is_held_once_however_many_readers_have_it() -> None:
    """It counts once, is found by its key while anybody holds it, and is gone with the last one."""
    held = HeldPieces(SIZE, PATIENT_S)
    one, readers = piece(1), [Reader(held) for _ in range(50)]
    for reader in readers:
        await held.hold(one, "key", reader)
    assert (held.size, held.shared("key")) == (SIZE, one)
    for reader in readers:
        assert held.size == SIZE
        held.let_go(reader)
        held.let_go(reader)
    assert (held.size, held.shared("key")) == (0, None)


async def test_a_piece_that_does_not_fit_waits_until_another_one_is_let_go() -> None:
    """And a piece that is larger than all the room fits where nothing else is held."""
    held = HeldPieces(SIZE - 1, PATIENT_S)
    first, second = Reader(held), Reader(held)
    await held.hold(piece(1), 1, first)
    waiting = asyncio.create_task(held.hold(piece(2), 2, second))
    await asyncio.sleep(0)  # one turn of the loop, in which the task begins and finds no room
    assert (held.size, waiting.done()) == (SIZE, False)
    held.let_go(first)
    await waiting
    assert (held.size, held.shared(2) is not None) == (SIZE, True)


async def test_who_has_held_a_piece_the_longest_is_cut_off_for_one_that_waits() -> None:
    """Nobody waits for ever, and who began to hold later stays."""
    cut: list[str] = []
    held = HeldPieces(2 * SIZE, 0.0)
    readers = [Reader(held, cut, name) for name in ("first", "second", "third")]
    for number, reader in enumerate(readers):
        await held.hold(piece(number), number, reader)
    assert cut == ["first"]
    assert [held.shared(number) is not None for number in range(3)] == [False, True, True]

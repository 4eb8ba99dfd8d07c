"""The roles of several processes, put together: who stands by for whom, and what nobody does."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from whatsms_events.domain.standing import OTHER_STAYS, PeerReport, RoleReport, RoleWord
from whatsms_events.storage.log.peers import HEARD_S, Peer, PeerId
from whatsms_events.storage.role_holders import RoleHolder
from whatsms_events.web.console.roles import LOST_S, SILENT_LIMIT, RoleNow, Roles

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
US = PeerId("here 1", NOW)


def report(word: RoleWord, why: str = "", todo: str = "") -> RoleReport:
    """Return how a role is."""
    return RoleReport(word=word, why=why, todo=todo, since=NOW)


def told(name: str, silent_s: float = 1, **roles: RoleReport) -> Peer:
    """Return what a process told; "_" in a name stands for a dot."""
    found = {name.replace("_", "."): one for name, one in roles.items()}
    return Peer(PeerId(name, NOW), silent_s, PeerReport(roles=found))


def held(**roles: str) -> dict[str, RoleHolder]:
    """Return who holds each lock."""
    return {name.replace("_", "."): RoleHolder(ours=False, who=who) for name, who in roles.items()}


def all_of(ours: Mapping[str, RoleReport], others: Sequence[Peer], holders: Mapping[str, RoleHolder]) -> Roles:
    """Put the roles of this process and of others together."""
    return Roles(US, ours, others, holders)


def rows(roles: Roles, name: str) -> list[RoleNow]:
    """Return the roles of one process as they are shown."""
    (found,) = (one for one in roles.shown() if one.name == name)
    return list(found.roles)


def test_who_stands_by_says_for_whom() -> None:
    """It is the process that tells that it works, or whoever holds the lock; a backfill that nobody has is idle."""
    stands_by = report("stands by")
    ours = dict.fromkeys(("relay", "consumer", "backfill.shop", "backfill.bank"), stands_by)
    holders = held(consumer="session 7", relay="session 8")
    roles = all_of(ours, [told("b", relay=report("works"), backfill_bank=report("works"))], holders)
    assert rows(roles, "here 1") == [
        RoleNow("backfill.bank", "plain", "stands by", whom="b"),
        RoleNow("backfill.shop", "plain", "idle"),
        RoleNow("consumer", "plain", "stands by", whom="session 7"),
        RoleNow("relay", "plain", "stands by", whom="b"),
    ]
    assert roles.wrong() == []
    assert [(one.names, one.why) for one in roles.untold()] == [("consumer", "session 7")]


def test_what_another_process_fails_at_is_said_with_its_reason() -> None:
    """It counts as undone only where no other process does it, or is about to."""
    still = report("stands still", "no broker", "Mend it.")
    alone = all_of({}, [told("b", relay=still, receiver=report("works"))], {})
    assert rows(alone, "b") == [
        RoleNow("relay", "bad", "stands still", "no broker", NOW, todo="Mend it."),
        RoleNow("receiver", "good", "works"),
    ]
    assert alone.wrong() == ["relay of b stands still: no broker"]
    assert alone.undone() == {"relay": "of b stands still: no broker"}
    for word in ("works", "stands by", "waits"):
        assert all_of({"relay": report(word)}, [told("b", relay=still)], {}).undone() == {}


def test_a_role_that_is_needed_and_that_no_process_tells_of_is_undone() -> None:
    """Not one whose lock somebody holds; and nothing is known where a process of another release told what is not read,
    or where this one has not started.
    """
    needed, works = ("receiver", "relay", "consumer"), report("works")
    ours = {"consumer": works}
    assert all_of(ours, [told("b", receiver=works)], {}).undone(needed) == {"relay": "runs in no process"}
    assert all_of(ours, [told("b", receiver=works)], held(relay="session 7")).undone(needed) == {}
    assert all_of(ours, [Peer(PeerId("newer", NOW), 1, None)], {}).undone(needed) == {}
    assert all_of({}, [], {}).undone(needed) == {}
    gone = all_of(ours, [told("b", 99, receiver=works, relay=works)], {}).undone(needed)
    assert gone["relay"] == "of b has not been heard of for 1 min"


def test_a_process_that_is_not_heard_of_is_wrong_where_nobody_has_its_roles() -> None:
    """Where others have all of them it is named for an hour, and nothing else."""
    lost = told("gone", HEARD_S, relay=report("works"), consumer=report("stands by"))
    roles = all_of({"consumer": report("works")}, [lost], {})
    assert roles.wrong() == ["gone is not heard of any more, and no other process has relay"]
    assert roles.undone() == {"relay": "of gone has not been heard of for 35 s"}
    assert [(one.names, one.word) for one in rows(roles, "gone")] == [("relay", "gone"), ("consumer", "elsewhere")]
    other = told("b", relay=report("works"))
    roles = all_of({"consumer": report("works")}, [lost, other], {})
    assert (roles.wrong(), roles.undone(), roles.odd()) == ([], {}, ["gone"])
    assert all_of({}, [told("gone", LOST_S)], {}).odd() == []


def test_no_tenants_role_is_lost_that_another_process_may_have_and_not_have_told() -> None:
    """One with hundreds of tenants tells of those in trouble first, so two processes tell of others."""
    works = report("works")
    lost = told("gone", 99, backfill_shop=works, relay=works)
    many = Peer(PeerId("b", NOW), 1, PeerReport(roles={"backfill.bank": works}, more=200))
    roles = all_of({"consumer": works}, [lost, many], {})
    assert roles.wrong() == ["gone is not heard of any more, and no other process has relay"]
    few = told("b", backfill_bank=works)
    assert all_of({"consumer": works}, [lost, few], {}).wrong()[0].endswith("has backfill.shop, relay")


def test_a_process_that_is_frozen_is_told_from_one_that_was_killed() -> None:
    """The lock of one that was killed is free; whoever is not heard of and still has its lock must be ended."""
    frozen = told("frozen", 99, relay=report("works"))
    roles = all_of({"relay": report("stands by")}, [frozen], held(relay="process 7 on this machine"))
    (row,) = rows(roles, "frozen")
    assert (row.word, row.why) == ("held", "its lock is held by process 7 on this machine")
    assert row.todo.startswith("It is frozen, or cut off: end it")
    assert roles.untold() == []
    long_frozen = told("frozen", 10 * LOST_S, relay=report("works"))
    roles = all_of({"relay": report("stands by")}, [long_frozen], held(relay="process 7 on this machine"))
    assert roles.odd() == ["frozen"], "as long as it keeps the role from others, all is not well"


def test_a_lock_of_a_process_that_tells_of_its_role_is_not_told_again() -> None:
    """It has the role also where it tries again and again, or has halted. Retention blanks under a lock of another
    name. Whoever stands by for a process that gets no further does not have the lock.
    """
    for word in ("works", "waits", "stands still"):
        roles = all_of({"relay": report("stands by")}, [told("b", relay=report(word))], held(relay="session 7"))
        assert roles.untold() == []
        assert rows(roles, "here 1")[0].whom == "b"
    blanks = [told("b", retention=report("works"))]
    assert all_of({}, blanks, held(blanking="session 7")).untold() == []
    assert all_of({}, [told("b", 99, retention=report("works"))], held(blanking="session 7")).untold() == []
    assert [one.names for one in all_of({}, [told("b")], held(blanking="session 7")).untold()] == ["blanking"]
    stays = told("b", relay=report("stands still", "the process that has the role gets no further", OTHER_STAYS))
    assert [one.names for one in all_of({}, [stays], held(relay="session 7")).untold()] == ["relay"]


def test_the_processes_are_shown_ours_first_and_the_lost_ones_last() -> None:
    """And what this process told the others stands nowhere beside what it knows of itself now."""
    ours = Peer(US, 1, PeerReport(roles={"relay": report("stands still")}))
    others = [told("gone", 99), told("longer gone", 999), told("b")]
    roles = all_of({}, [ours, *others], {})
    assert [one.name for one in roles.shown()] == ["here 1", "b", "gone", "longer gone"]
    assert roles.wrong() == []


def test_a_process_that_is_killed_again_and_again_does_not_fill_the_page() -> None:
    """A few of them are shown, those first whose roles nobody has, and each role that is lost is named once."""
    works = report("works")
    killed = [told(f"old {number}", 100 + number, relay=works) for number in range(60)]
    roles = all_of({"relay": works}, [*killed, told("last", 999, sealer=works)], {})
    assert [one.name for one in roles.shown()][:3] == ["here 1", "last", "old 0"]
    assert (len(roles.shown()), roles.unshown) == (1 + SILENT_LIMIT, 61 - SILENT_LIMIT)
    roles = all_of({"consumer": works}, killed, {})
    assert roles.wrong() == ["old 0 is not heard of any more, and no other process has relay"]


def test_silence_at_any_receiver_counts() -> None:
    """One that hears a tenant says nothing against another that is silent."""
    heard, silent = {"watchdog.shop": {"state": "heard"}}, {"watchdog.shop": {"state": "silent"}}
    processes = [
        Peer(PeerId(name, NOW), 1, PeerReport(details=details))
        for name, details in (("a", heard), ("b", silent), ("c", heard))
    ]
    unread = Peer(PeerId("d", NOW), NOW.microsecond, None)
    roles = all_of({}, [*processes, unread], {})
    assert roles.details() == silent
    assert rows(roles, "d")[0].word == "not known"
    assert all_of({}, [Peer(PeerId("a", NOW), timedelta(minutes=2).seconds, None)], {}).details() == {}

"""Where a person is in everything that is held: also where no reader of an event looks."""

import json
from datetime import timedelta

from workers.test_forgetting import ANA, RUI, TENANT, House, Someone, body, holding, house, needles, wrote

__all__ = ["house"]  # a fixture


def hiding(number: str) -> list[bytes]:
    """Return messages of somebody else whose bytes name a number that is in nothing that was read of them."""
    secret = wrote(RUI, "r-1", "x", authorization=number)
    twice = wrote(RUI, "r-2", "x", phone="1").replace(b'"phone": "1"', f'"phone": "{number}", "phone": "1"'.encode())
    assert number.encode() in secret
    assert number.encode() in twice
    return [secret, twice]


async def test_what_only_the_bytes_have_goes_with_the_bytes(house: House) -> None:
    """A secret by its name, and the first of two fields with one name, are in the bytes of an event alone: these go,
    and what was read of them stays. Bytes in which somebody else wrote the number stay.
    """
    spoken = wrote(RUI, "r-3", f"liga {ANA.number}")
    await house.deliver(wrote(ANA, "m-1"), *hiding(ANA.number), spoken)
    before = {row["position"]: row for row in (await house.everything())["event_log"]}
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    rows = [row for row in (await house.everything())["event_log"] if row["position"] > 1 and row["message_id"]]
    assert [row["data"] for row in rows] == [before[row["position"]]["data"] for row in rows]
    assert [row["raw"] for row in rows] == [None, None, spoken]
    assert (await house.forgetting().run(TENANT, ANA.contact)).counts == {}


async def test_digits_within_a_time_or_a_longer_number_are_nobodys(house: House) -> None:
    """Forget takes nothing of somebody else: their bytes stay where a time or another number has the digits in it."""
    told = json.loads(wrote(RUI, "r-1"))
    others = [told | {"timestamp": one} for one in ("2026-05-01T11:59:00.777636Z", 1777636740000)]
    bodies = [
        wrote(Someone(ANA.mark, "777636", ANA.contact, ANA.ticket), "m-1"),
        *(json.dumps(one).encode() for one in others),
    ]
    await house.deliver(*bodies)
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    rows = (await house.everything())["event_log"]
    assert [row["raw"] for row in rows if row["message_id"]] == [None, *bodies[1:]]


async def test_contacts_are_one_person_however_their_number_is_written(house: House) -> None:
    """By the plain number all of them are found in the tables, and late ones at the door: also as pasted, or as a
    channel writes it.
    """
    digits = "".join(chr(0xFF10 + int(one)) for one in ANA.number)
    forms = [f"whatsapp:+{ANA.number}", "+351\u00a0987\u2011654\u2011321", "351/987654321", digits]
    told = [{"id": f"c-{number}", "name": ANA.mark, "number": form} for number, form in enumerate(forms)]
    await house.deliver(*(body("contact.updated", -3, contact=one) for one in told), wrote(RUI, "r-1"))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.number)
    await house.deliver(*(body("contact.updated", -2, contact=one | {"id": f"late-{one['id']}"}) for one in told))
    assert holding(await house.everything(), [ANA.mark.encode(), *(one.encode() for one in forms)]) == []


async def test_a_number_of_before_is_found_where_it_is_given(house: House) -> None:
    """The contact has another number by now, and a card in somebody else's event has the old one: who is forgotten by
    the old one is forgotten with both.
    """
    card = f"TEL;waid={ANA.number}:+{ANA.number}"
    await house.deliver(wrote(ANA, "m-1"), wrote(RUI, "r-1", "x", vcard=card))
    changed = {"id": ANA.contact, "name": ANA.mark, "number": "351900111222"}
    await house.deliver(body("contact.updated", -1, contact=changed))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.number)
    rows = await house.everything()
    assert holding(rows, [*needles(ANA), b"351900111222"]) == []
    (other,) = [json.loads(row["data"]) for row in rows["event_log"] if row["message_id"] == "r-1"]
    assert other["message"]["body"] == f"{RUI.mark} x"

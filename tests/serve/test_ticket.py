"""Events on their way from one thread to another's loop."""

import asyncio
import threading

import pytest

from moe_jax.inference.contract import Event
from moe_jax.serve.errors import ApiError, closing
from moe_jax.serve.ticket import Ticket


def event(text, finish=""):
    return Event(1, text, (97,), (-1.0,), finish)


async def listen(ticket):
    return [(index, one.text) async for index, one in ticket.events()]


def test_events_come_in_order_from_another_thread_until_all_texts_have_ended():
    sent = [(0, event("a")), (1, event("b", "stop")), (0, event("c")), (0, event("d", "length"))]

    async def run():
        ticket = Ticket(2, lambda ticket: None)
        thread = threading.Thread(target=lambda: [ticket.put(item) for item in sent])
        thread.start()
        heard = await asyncio.wait_for(listen(ticket), 5)
        thread.join()
        return heard

    assert asyncio.run(run()) == [(index, one.text) for index, one in sent]


def test_a_refusal_ends_the_events_where_it_comes():
    async def run():
        ticket = Ticket(1, lambda ticket: None)
        ticket.put((0, event("a")))
        ticket.put(closing())
        events = ticket.events()
        first = await anext(events)
        with pytest.raises(ApiError, match="shutting down"):
            await anext(events)
        return first[1].text

    assert asyncio.run(run()) == "a"


def test_who_cancels_tells_the_engine_of_this_very_ticket():
    cancelled = []

    async def run():
        ticket = Ticket(1, cancelled.append)
        ticket.cancel()
        return ticket

    assert cancelled == [asyncio.run(run())]


def test_an_engine_that_answers_after_its_server_has_gone_is_not_disturbed():
    async def run():
        return Ticket(1, lambda ticket: None)

    ticket = asyncio.run(run())
    ticket.put((0, event("late", "stop")))

"""One asynchronous client for OpenAI-compatible endpoints: many calls in flight over several endpoints, each item with
its deadline, a reason for each that fails, and nothing lost.

`endpoint.py` decides how much an endpoint is given to do, `pool.py` who gets the next free place, `client.py` makes a
call, `exchange.py` decides when it is made again, `crew.py` goes from item to item, `chat.py` reads and writes the
format, `thread.py` lets synchronous code hear of answers as they come.
"""

from mmpu.client.chat import Heard, drawing, messages, offered, texts, top_logprobs, weigh
from mmpu.client.client import Client, Reply, Terms, checked_key, checked_url
from mmpu.client.crew import Crew
from mmpu.client.exchange import Declined, Exchange, Refused, Unusable
from mmpu.client.thread import stream

__all__ = [
    "Client",
    "Crew",
    "Declined",
    "Exchange",
    "Heard",
    "Refused",
    "Reply",
    "Terms",
    "Unusable",
    "checked_key",
    "checked_url",
    "drawing",
    "messages",
    "offered",
    "stream",
    "texts",
    "top_logprobs",
    "weigh",
]

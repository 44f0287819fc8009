"""An evaluation, from systems' answers to a board."""

from mmpu.evaluation.answers import Contender, answers_of, said_by
from mmpu.evaluation.evaluate import STORE, Prepared, Settings, asked, publish
from mmpu.evaluation.metrics import by_sample

__all__ = [
    "STORE",
    "Contender",
    "Prepared",
    "Settings",
    "answers_of",
    "asked",
    "by_sample",
    "publish",
    "said_by",
]

"""An evaluation, from systems' answers to a board."""

from mmpu.evaluation.answers import Contender, Told, answers_of, place_of, said_by, untold
from mmpu.evaluation.evaluate import STORE, Prepared, Settings, asked, publish
from mmpu.evaluation.metrics import by_sample

__all__ = [
    "STORE",
    "Contender",
    "Prepared",
    "Settings",
    "Told",
    "answers_of",
    "asked",
    "by_sample",
    "place_of",
    "publish",
    "said_by",
    "untold",
]

"""AlpacaEval's annotators: their own prompt file, and the probability of «m» against «M» as the win.

The prompt is read from the installed package `alpaca-eval`; what the judge is asked is, for ordinary answers, character
for character what the package asks. The package shows one order, drawn by chance; here both are asked unless the
judge says otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from mmpu.core import Message, Part, Sample
from mmpu.duel import Duel, Order
from mmpu.judges import pairwise
from mmpu.prompts import inert, question

_TURN = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)\n?<\|im_end\|>", re.DOTALL)
_SLOT = re.compile(r"\{(instruction|output_1|output_2)\}")


@dataclass(frozen=True)
class AlpacaEval(pairwise.Pairwise):
    letters: tuple[str, ...] = ("m", "M")
    weighting: Literal["hard", "soft"] = "soft"

    def question(self, duel: Duel, order: Order) -> Sample:
        """The turns of the annotator's prompt; images of the sample come first in the user's turn."""
        first, second = (duel.ours, duel.theirs) if order == "ours_first" else (duel.theirs, duel.ours)
        values = {"instruction": question(duel.sample.prompt), "output_1": first, "output_2": second}

        def fill(text: str) -> str:
            return _SLOT.sub(lambda slot: inert(values[slot[1]]), text)

        images = tuple(p for m in duel.sample.prompt for p in m.parts if p.kind == "image")
        turns = tuple(
            Message(
                cast(Literal["system", "user", "assistant"], role),
                (*(images if role == "user" else ()), Part("text", fill(text))),
            )
            for role, text in _TURN.findall(Path(self.prompt).read_text(encoding="utf-8-sig"))
        )
        return replace(duel.sample, prompt=turns)

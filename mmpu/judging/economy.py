"""What an evaluation will cost, before any is spent: calls, tokens, money; and what difference it could find at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from mmpu.core import Sample, UserError
from mmpu.duel import Judge
from mmpu.judging.run import Question
from mmpu.media import image_size
from mmpu.statistics import minimum_detectable_effect

CHARACTERS_PER_TOKEN = 4.0
TEMPLATE_TOKENS = 12
"""Of a chat template around one user turn, about."""


@dataclass(frozen=True)
class Prices:
    """A judge's price list."""

    input: float
    """Per million prompt tokens."""
    output: float
    """Per million generated tokens."""
    currency: str = "USD"
    pixels_per_token: int = 1024
    """Of an image: 784 for Qwen2.5-VL, 1024 for Qwen3-VL."""


@dataclass(frozen=True)
class Estimate:
    """Of the readings that an evaluation still lacks."""

    judge: str
    readings: int
    stored: int
    """Readings that the store has already."""
    calls: int
    prompt_tokens: int
    output_tokens: int
    images: int
    costs: tuple[float, ...] | None
    """Of each reading, in the order in which they are asked for; None where there are calls and no price list."""
    currency: str
    counted_by: str
    """How tokens were counted."""
    n: int
    """Prompts per system, of the system with the fewest."""

    @property
    def cost(self) -> float | None:
        """Of all; None where there are calls and no price list."""
        return None if self.costs is None else math.fsum(self.costs)

    def affordable(self, max_cost: float) -> int:
        """How many readings, from the first, cost at most `max_cost` together.

        Raises:
            UserError: the judge is a model's and has no price list.
        """
        if self.costs is None:
            raise UserError(
                f"judge {self.judge} has no `prices`, so --max-cost cannot be kept; add them or use --max-calls"
            )
        return sum(spent <= max_cost for spent in accumulate(self.costs))

    def lines(self) -> list[str]:
        """For people."""
        effect = 100 * minimum_detectable_effect(self.n)
        if effect < 50:
            found = f"a win rate less than {effect:.1f} points from 50 will probably not be told from it"
        else:
            found = "no win rate can be expected to be told from 50"
        return [
            f"readings to make   {self.readings} ({self.stored} more are stored)",
            f"calls              {self.calls}",
            f"prompt tokens      {self.prompt_tokens} ({self.counted_by}), {self.images} images among them",
            f"generated tokens   {self.output_tokens} at most",
            f"cost               {self._price()}",
            f"detectable effect  with n = {self.n}, {found} (80% power, 5% level)",
        ]

    def _price(self) -> str:
        if self.cost is None:
            return "unknown; the judge's YAML has no `prices`"
        least = "less than 0.01" if 0 < self.cost < 0.01 else f"{self.cost:.2f}"
        return f"{least} {self.currency}"


def estimate(judge: Judge, pending: Sequence[Question], stored: int, n: int, prices: Prices | None = None) -> Estimate:
    """The cost of `pending`, if every call succeeds at once and nothing comes from a server's cache."""
    count, how = token_counter(judge)
    free = Prices(0, 0)
    calls = tokens = images = 0
    costs: list[float] = []
    for question in pending:
        asked = judge.prompts([(question.duel, question.order)])
        read = sum(tokens_of(prompt, count, (prices or free).pixels_per_token) for prompt in asked)
        costs.append((read * (prices or free).input + len(asked) * judge.reply_tokens * (prices or free).output) / 1e6)
        calls, tokens = calls + len(asked), tokens + read
        images += sum(len(prompt.images) for prompt in asked)
    return Estimate(
        judge.name,
        len(pending),
        stored,
        calls,
        tokens,
        calls * judge.reply_tokens,
        images,
        tuple(costs) if prices is not None or not calls else None,
        (prices or free).currency,
        how,
        n,
    )


def tokens_of(prompt: Sample, count: Callable[[str], int], pixels_per_token: int) -> int:
    """Tokens of a prompt, images by their area."""
    text = sum(count(message.text) for message in prompt.prompt)
    pictures = sum(math.ceil(width * height / pixels_per_token) for width, height in map(image_size, prompt.images))
    return text + pictures + TEMPLATE_TOKENS


def token_counter(judge: Judge) -> tuple[Callable[[str], int], str]:
    """A counter of tokens, and its name: the judge's own tokenizer where its files are on this machine."""
    model = str(getattr(getattr(judge, "engine", None), "model", ""))
    file = _tokenizer_file(model)
    if file is None:
        return lambda text: math.ceil(len(text) / CHARACTERS_PER_TOKEN), "4 characters each"
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), f"tokenizer of {model}"


def _tokenizer_file(model: str) -> Path | None:
    """The tokenizer of a model's folder or of the local cache; nothing is fetched."""
    if not model:
        return None
    folder = Path(model) / "tokenizer.json"
    if folder.is_file():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "tokenizer.json")
    except HFValidationError:  # an endpoint's own name for its model
        return None
    return Path(cached) if isinstance(cached, str) else None

"""SDFT, self-distillation fine-tuning (baseline of arXiv 2605.05040): OPSD with a demonstration as the teacher's
context, a teacher that follows the student, and the mean per sequence.

    y ~ p_θ(· | x);   loss = mean over y, over its tokens, of D( p_EMA(· | x, demonstration, y_<t) ‖ p_θ(· | x, y_<t) )

Sources disagree: the original code takes forward KL and an EMA teacher, the paper's derivation reads as reverse KL,
TRL takes JSD on the student's top 100 tokens and a frozen teacher. Defaults follow the original code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpu.knobs import CountOrZero, Rate
from mmpu.losses import Aggregation
from mmpu.methods.opsd import OPSD

PROMPT = Path(__file__).with_suffix(".txt")


@dataclass(frozen=True)
class SDFT(OPSD):
    aggregation: Aggregation = "seq_mean_token_mean"
    """How losses of tokens become one."""
    skip_first: CountOrZero = 3
    """First tokens of a response that are left out: there a teacher echoes the demonstration."""
    teacher: Literal["start", "ema", "live"] = "ema"
    ema_rate: Rate = 0.01

    def _template(self) -> Path:
        return PROMPT

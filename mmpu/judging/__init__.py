"""What is done with judges: duels are scheduled, verdicts kept, and everything that is published computed from them."""

from mmpu.judging.alpaca import write_annotations
from mmpu.judging.archive import export_verdicts, import_verdicts, recompute
from mmpu.judging.audit import adversarial, audit_with_traps
from mmpu.judging.compare import comparisons
from mmpu.judging.economy import Estimate, Prices, estimate
from mmpu.judging.glm import Calibration, read_calibration
from mmpu.judging.match import Item, Match, Probe, asked_of, counts_of, equal_duel, equalised, item_of, match_of
from mmpu.judging.measure import MAX_UNREAD, measure_all, raw_wins, wins_of
from mmpu.judging.ranks import Met, met, places, strengths, with_strengths
from mmpu.judging.run import Limits, Progress, Question, ask, missing, questions
from mmpu.judging.verdicts import Verdicts
from mmpu.judging.wins import wins_over

__all__ = [
    "MAX_UNREAD",
    "Calibration",
    "Estimate",
    "Item",
    "Limits",
    "Match",
    "Met",
    "Prices",
    "Probe",
    "Progress",
    "Question",
    "Verdicts",
    "adversarial",
    "ask",
    "asked_of",
    "audit_with_traps",
    "comparisons",
    "counts_of",
    "equal_duel",
    "equalised",
    "estimate",
    "export_verdicts",
    "import_verdicts",
    "item_of",
    "match_of",
    "measure_all",
    "met",
    "missing",
    "places",
    "questions",
    "raw_wins",
    "read_calibration",
    "recompute",
    "strengths",
    "wins_of",
    "wins_over",
    "with_strengths",
    "write_annotations",
]

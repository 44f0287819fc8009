"""The model: prompts to tokens, trunks and branches, log-probabilities, and checks of it all."""

from typing import TYPE_CHECKING

from mmpu.doors import door

if TYPE_CHECKING:
    from mmpu.student.decoding import Decoded, Decoding
    from mmpu.student.divergence import REVERSE
    from mmpu.student.encoding import TooLong
    from mmpu.student.footprint import ROWS, Footprint, free_memory, shortage
    from mmpu.student.head import Ask, Measured, Teacher
    from mmpu.student.loading import assembled, checked, load_student
    from mmpu.student.logprobs import AMPLE, SPARE, TRAINING, Room
    from mmpu.student.lora import Lora
    from mmpu.student.packing import Encoded, Pack, Tree, pack, share, within_budget
    from mmpu.student.parts import base_dtype, load_parts, resolve_model
    from mmpu.student.precision import remarks
    from mmpu.student.rehearsal import Misfit, longest_text, misfit, overlong, summary
    from mmpu.student.saving import named_weights
    from mmpu.student.selfcheck import GRADIENTS, LIMITS, Verdict, judged, probes, sharing_error, transformers_says
    from mmpu.student.showing import Piece, before_answer, drops_thoughts, ending, rendered, thinking
    from mmpu.student.student import Student
    from mmpu.student.student_config import StudentConfig
    from mmpu.student.targets import WANTED
    from mmpu.student.untouched import Untouched

__all__ = [
    "AMPLE",
    "GRADIENTS",
    "LIMITS",
    "REVERSE",
    "ROWS",
    "SPARE",
    "TRAINING",
    "WANTED",
    "Ask",
    "Decoded",
    "Decoding",
    "Encoded",
    "Footprint",
    "Lora",
    "Measured",
    "Misfit",
    "Pack",
    "Piece",
    "Room",
    "Student",
    "StudentConfig",
    "Teacher",
    "TooLong",
    "Tree",
    "Untouched",
    "Verdict",
    "assembled",
    "base_dtype",
    "before_answer",
    "checked",
    "drops_thoughts",
    "ending",
    "free_memory",
    "judged",
    "load_parts",
    "load_student",
    "longest_text",
    "misfit",
    "named_weights",
    "overlong",
    "pack",
    "probes",
    "remarks",
    "rendered",
    "resolve_model",
    "share",
    "sharing_error",
    "shortage",
    "summary",
    "thinking",
    "transformers_says",
    "within_budget",
]

__getattr__ = door(__name__, __file__)

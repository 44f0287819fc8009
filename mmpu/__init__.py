"""mmpu: train and evaluate small language and vision-language models from one teacher answer per prompt.

    import mmpu

    task = mmpu.Task([{"q": "1+1?", "a": "2"}, …], prompt=[{"user": "{{ q }}"}], answer="{{ a }}", grader="number")
    run = mmpu.train(run="runs/sums", student="tiny-text", task=task, teacher="reference", method="sft", split="train")
    board = mmpu.evaluate({"base": "tiny-text", "SFT": run}, task, baseline="base")

The public API is `__all__` (docs/python.md). Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from mmpu.doors import door

if TYPE_CHECKING:
    from mmpu.api.answers import Answers, generate
    from mmpu.api.boards import Board, Verdicts, answers, evaluate, judge
    from mmpu.api.runs import Run
    from mmpu.api.student import Student
    from mmpu.api.task import Task
    from mmpu.api.training import Comparison, compare, train
    from mmpu.core import Failed, Response, Sample, UserError

__version__ = "0.1.0"

__all__ = [
    "Answers",
    "Board",
    "Comparison",
    "Failed",
    "Response",
    "Run",
    "Sample",
    "Student",
    "Task",
    "UserError",
    "Verdicts",
    "__version__",
    "answers",
    "compare",
    "evaluate",
    "generate",
    "judge",
    "train",
]

__getattr__ = door(__name__, __file__)


def __dir__() -> list[str]:
    return __all__

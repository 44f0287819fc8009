"""The second set of weights that some methods keep beside the student's: a teacher that follows it, stays, or is
another model.

Only what trains is kept twice: adapters under LoRA, the language model under full training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping

import torch
from torch import Tensor

from mmpu.core import UserError
from mmpu.learning import Shadow as Spec
from mmpu.student import Student, resolve_model


class Shadow:
    """Args:
    other: The model that `external` names.
    """

    def __init__(self, spec: Spec, student: Student, other: Student | None = None) -> None:
        self.spec = spec
        self.student = student
        self.other = other
        self._kept: dict[str, Tensor] = {}
        if spec.kind in ("ema", "copy"):
            self._kept = {name: p.detach().clone() for name, p in self._trainable()}

    @contextlib.contextmanager
    def speaking(self) -> Generator[Student]:
        """The student to ask, with the shadow's weights in place, for computations without gradient."""
        if self.spec.kind == "external":
            assert self.other is not None
            yield self.other
        elif self.spec.kind == "start":
            with self.student.frozen():
                yield self.student
        elif self._kept:
            # Rebinding, not copying: what was taken from these tensors stays valid after the swap back.
            live = {name: p.data for name, p in self._trainable()}
            self._bind(self._kept)
            try:
                yield self.student
            finally:
                self._bind(live)
        else:
            yield self.student

    def follow(self, done: int) -> None:
        """Moves after the student's update number `done`, counted from 1."""
        if self.spec.kind == "copy" and done % self.spec.every:
            return
        rate = self.spec.rate if self.spec.kind == "ema" else 1.0
        with torch.no_grad():
            for name, parameter in self._trainable():
                if name in self._kept:
                    self._kept[name].lerp_(parameter.detach(), rate)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold; empty where it follows from the run."""
        return {name: tensor.contiguous().cpu() for name, tensor in self._kept.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        if state.keys() != self._kept.keys():
            raise UserError(
                "the checkpoint belongs to a student with other trainable weights; give the run another name"
            )
        for name, tensor in state.items():
            self._kept[name].copy_(tensor)

    def _trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.student.model.named_parameters() if p.requires_grad]

    def _bind(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self._trainable():
            parameter.data = tensors[name]


def check_tokenizers(student: str, teacher: str) -> None:
    """A teacher's distribution means something to a student only if their tokens are the same.

    Args:
        student: A model's name or folder, as in a config.

    Raises:
        UserError: they are not, or one cannot be loaded.
    """
    from transformers import AutoTokenizer

    def vocabulary(name: str) -> dict[str, int]:
        path, _ = resolve_model(name)
        try:
            return AutoTokenizer.from_pretrained(path).get_vocab()
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the tokenizer of {name!r}: {str(error).splitlines()[0]}") from error

    ours, theirs = vocabulary(student), vocabulary(teacher)
    if ours != theirs:
        differing = sum(theirs.get(token) != index for token, index in ours.items())
        raise UserError(
            f"the tokenizers of {student} and its teacher {teacher} differ ({differing} of {len(ours)} tokens); a "
            "method that reads the teacher's distribution needs a teacher with the student's tokenizer; one that only "
            "reads its answers, such as sft or ldl_grpo, does not"
        )

"""What a student needs in memory, from the shapes of its weights: before anything is computed.

Of each token and layer a pass keeps what the backward pass reads: hidden states before and behind two norms (4 h),
queries and attention's output (2 q), keys and values (2 kv), and the inner side of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmpu.student.gated import keeps_half

if TYPE_CHECKING:
    from mmpu.student.student import Student

CGROUP = Path("/sys/fs/cgroup")
ROWS = 256
"""Responses decoded at a time on a CPU."""


@dataclass(frozen=True)
class Footprint:
    """Bytes."""

    optimizer: int
    """Gradients and AdamW's moments."""
    token: int
    """Kept of each token of a pass with gradient."""
    head: int
    """Of logits and probabilities, at most."""
    cached_token: int
    """Keys and values of a token while sampling."""

    @classmethod
    def of(cls, student: Student) -> Footprint | None:
        """None where the model's configuration does not say what its layers look like."""
        shape: Any = student.base.config.get_text_config()
        try:
            hidden, layers, heads = shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads
            inner = getattr(shape, "intermediate_size", None) or shape.ffn_dim
        except AttributeError:
            return None
        width = getattr(shape, "head_dim", None) or hidden // heads
        keys = 2 * width * (getattr(shape, "num_key_value_heads", None) or heads)
        size = torch.empty(0, dtype=getattr(torch, student.config.computes_in)).element_size()
        lora = student.config.lora
        widths = 2 * heads * width + keys + (2 if keeps_half(student.base) else 4) * inner
        widths += 7 * lora.r if lora else 0
        # Over float32 weights autocast keeps hidden states whole, and every product's input in the half type.
        mixed = size == 2 and student.config.dtype == "float32"
        state, once = (4 * hidden, (4 + 2 + 4) * hidden) if mixed else (size * hidden, size * hidden)
        layer = size * widths + (2 * state + 5 * size * hidden if mixed else 4 * state) + 4 * (heads + 2)
        kept = layers * state + layer if student.config.checkpoints_on(student.device.type) else layers * layer
        trained = sum(p.numel() * p.element_size() for p in student.parameters() if p.requires_grad)
        room = 2**29 + 2 * 2**25  # probabilities that are held, and a chunk of logits twice
        return cls(3 * trained, kept + once, room, layers * keys * size)

    def stage(self, tokens: int) -> int:
        """What an update in passes of so many tokens needs beyond the weights."""
        return self.optimizer + self.head + self.token * tokens

    def rows(self, free: int, tokens: int, vocabulary: int) -> int:
        """Responses of up to so many tokens that half of the free memory holds, with their logits."""
        each = self.cached_token * tokens + 4 * 4 * vocabulary
        return max(1, free // 2 // each)


def free_memory(device: torch.device) -> int:
    """Bytes that a device can still give: on a CPU no more than the process's control group may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no group, or one without a limit («max»)
        return free


def shortage(student: Student, tokens: int, free: int) -> str | None:
    """What to say where an update in passes of `tokens` needs more than there is."""
    found = Footprint.of(student)
    if found is None or found.stage(tokens) <= free:
        return None
    fits = (free - found.optimizer - found.head) // found.token
    knobs = [f"optim.tokens_per_pass={fits}"] if fits > 0 else []
    if not student.config.checkpoints_on(student.device.type):
        knobs.append("student.gradient_checkpointing=true")
    if student.config.computes_in == "float32":
        knobs.append("student.dtype=bfloat16" if student.config.lora else "student.autocast=bfloat16")
    if not student.config.lora:
        knobs.append("student.lora={r: 64, alpha: 128}")
    gib = {
        "needs": found.stage(tokens),
        "optimizer": found.optimizer,
        "pass": found.token * tokens + found.head,
        "free": free,
    }
    text = {name: f"{value / 2**30:.1f} GiB" for name, value in gib.items()}
    return (
        f"an update needs about {text['needs']} beyond the weights ({text['optimizer']} of gradients and AdamW's "
        f"moments, {text['pass']} for a pass of {tokens:,} tokens), and {text['free']} are free; "
        f"what helps: {', '.join(knobs) or 'a larger device'}"
    )

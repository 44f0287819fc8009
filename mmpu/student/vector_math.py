"""The math library's vector functions are chosen once, by one thread, before a pass uses them with several.

torch gives exp, log, sin, … of contiguous tensors to MKL, each thread its chunk, and asks for high accuracy. MKL
chooses the kernel of a function and a precision when it is first called. Where several threads make that first call
together, MKL 2024.2, which torch 2.13 holds, may give one of them a kernel of low accuracy for its chunk: one pass is
off by 5e-5, and no later one (pytorch#188792). On a single element the function is called by one thread.
"""

from __future__ import annotations

import functools

import torch

FUNCTIONS = (torch.cos, torch.erf, torch.exp, torch.log, torch.sin, torch.sqrt, torch.tanh)
"""What models, losses and optimisers use of those that torch gives to MKL."""


@functools.cache
def settle() -> None:
    """Lets the functions be chosen, once per process."""
    for dtype in (torch.float32, torch.float64):
        for function in FUNCTIONS:
            function(torch.ones(1, dtype=dtype))

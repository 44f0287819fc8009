"""Marks of tests that run where vLLM is installed, and what its CPU build is told before it is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

ONLY_VLLM = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; `make test-vllm` runs this"),
    # Of vLLM and what it imports; nothing of ours runs under these.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

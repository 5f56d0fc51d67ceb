"""RWKV-5 to 7: the laws of a session, float64 truths, the formats they are released in, and the package `rwkv`."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nih import evaluate
from nih.errors import ModelError
from nih.models import _recurrent, rwkv
from nih.models._recurrent import Options, RecurrentModel
from nih.registry import resolve_model
from nih.run.show import show
from nih.store import run as store
from nih.tokenizers.rwkv_world import WORLD_FILE
from nih.types import TokenIds
from tests.support import recurrent, rwkv_files
from tests.support.laws import LAWS, Logits, Subject
from tests.support.recurrent import ROOT, ROUNDING, Wide, every_logit, prompt, root_mean_square, wide
from tests.support.rwkv_files import SIZES, tensors, write_fla, write_hf, write_pth
from tests.support.rwkv_truth import Truth

SUBJECTS = [
    ("v5.0", "torch", None),
    ("v5.2", "cpu", 24),
    ("v6", "cpu", None),
    ("v7", "cpu", None),
    ("v7-odd", "torch", 24),
    ("v7", "cuda", None),
]
"""Checkpoint, kernels, and the stretches that a call is cut into."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RELEASED = ["v5.0", "v5.1", "v5.2", "v6", "v7", "v7a"]
IDS = prompt(40)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rwkv")


@cache
def pth(name: str, base: Path, dtype: torch.dtype = torch.float32) -> Path:
    return write_pth(base / f"{name}-{dtype}.pth", name, dtype)


def open_(path: Path, **options: Any) -> RecurrentModel:
    return rwkv.open_model(str(path), "x", Options(**{"device": "cpu", "tokenizer": "byte", **options}))


def logits(path: Path, **options: Any) -> Logits:
    """After a fixed prompt."""
    session = open_(path, **options).session()
    session.extend([IDS])
    return session.logits()


def truth(name: str, dtype: torch.dtype = torch.float32) -> Truth:
    return Truth(tensors(name, dtype), SIZES[name].version)


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, base: Path) -> Iterator[Subject]:
    name, form, tile = request.param
    with recurrent.kernels(form), pytest.MonkeyPatch.context() as patch:
        device = "cuda" if form == "cuda" else "cpu"
        whole = open_(pth(name, base), device=device, dtype="float32").session()
        if tile is not None:
            patch.setattr(_recurrent, "TILE", tile)
        model = open_(pth(name, base), chunk=16, device=device, dtype="float32")
        yield Subject(model.session, lambda ids: every_logit(whole, ids), rwkv_files.VOCABULARY)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(subject: Subject, law: Callable[[Subject], None]) -> None:
    law(subject)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in SIZES if name != "v7-world"])
def test_logits_are_those_of_the_papers(name: str, dtype: torch.dtype, base: Path) -> None:
    session = open_(pth(name, base, dtype), dtype=str(dtype)[6:]).session()
    errors, scale = [], 0.0
    for seed in range(2):
        ids = prompt(80, seed)
        exact = truth(name, dtype).read(ids)
        errors.append(every_logit(session, ids) - exact)
        scale = max(scale, float(np.abs(exact).max()))
    assert root_mean_square(errors) < ROUNDING[dtype] * scale


@pytest.mark.parametrize("name", ["v5.2", "v6", "v7", "v7a"])
def test_text_is_that_of_the_papers(name: str, base: Path) -> None:
    """Greedy text of 50 prompts of 1 to 10 tokens (200 in all), read in pieces of 4."""
    session = open_(pth(name, base), chunk=4).session()
    for seed in range(5):
        ids = prompt(10, seed)
        model = truth(name)
        for length, last in enumerate(model_logits(model, ids), 1):
            session.reset()
            session.extend([ids[:length]])
            assert list(session.generate(3, []).ids) == greedy(*last, 3)


def model_logits(model: Truth, ids: TokenIds) -> Iterator[tuple[Truth, Wide]]:
    """Yield after each token a copy of the model, and its logits."""
    for token in ids:
        last = model.read(np.array([token]))[-1]
        yield copy.copy(model), last


def greedy(model: Truth, last: Wide, new: int) -> list[int]:
    said: list[int] = []
    model = copy.deepcopy(model)
    for _ in range(new):
        token = int(last.argmax())
        if token == 0:
            break
        said.append(token)
        last = model.read(np.array([token]))[-1]
    return said


@pytest.mark.parametrize("name", ["v5.2", "v6", "v7a", "v7-odd"])
def test_rows_are_alone(name: str, base: Path) -> None:
    """A batch equals its rows alone: whole or ragged, with and without a state, which stays as it was."""
    network: Any = open_(pth(name, base)).session()._network
    rng = np.random.default_rng(0)
    ids, more = (wide(rng.integers(0, rwkv_files.VOCABULARY, (4, n))) for n in (37, 21))
    with torch.inference_mode():
        for ends in (None, torch.tensor([37, 1, 20, 36])):
            found, state = network(ids, None, 1, ends)
            before = [[t.clone() for t in layer] for layer in state]
            later, _ = network(more, state, 5)
            for i in range(4):
                stop = 37 if ends is None else int(ends[i])
                alone, own = network(ids[i : i + 1, :stop])
                model = truth(name)
                exact = model.read(np.concatenate([ids[i, :stop].numpy(), more[i].numpy()]))
                recurrent.assert_no_worse(found[i], (alone[0].numpy(),), exact[stop - 1 : stop])
                recurrent.assert_no_worse(
                    later[i], (network(more[i : i + 1], own, 5)[0][0].numpy(),), exact[-5:]
                )
            assert all(
                torch.equal(a, b)
                for x, y in zip(state, before, strict=True)
                for a, b in zip(x, y, strict=True)
            )


def test_memory_stays(base: Path) -> None:
    recurrent.memory_stays(pth("v7-world", base))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_bytes_are_those_of_the_state(dtype: torch.dtype, base: Path) -> None:
    model = open_(pth("v7", base), dtype=str(dtype)[6:])
    session = model.session()
    assert (session.state, model.state_bytes(0)) == (None, 0)
    for length in (1, 50):
        session.extend([prompt(length)])
        assert session.state is not None
        held = sum(t.untyped_storage().nbytes() for layer in session.state for t in layer)
        assert held == model.state_bytes(session.position)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("write", "name"),
    [(write_fla, "v7"), (write_hf, "v5.2"), (write_hf, "v6")],
)
def test_a_folder_equals_the_file(
    write: Callable[..., Path], name: str, dtype: torch.dtype, base: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path / "folder", name, dtype)
    assert resolve_model(str(folder)).module is rwkv
    used = str(dtype)[6:]
    np.testing.assert_array_equal(logits(folder, dtype=used), logits(pth(name, base, dtype), dtype=used))


def test_flas_rwkv_6_has_one_epsilon(tmp_path: Path) -> None:
    """Its own class norms each head's output with that of all norms, and so do we."""
    for epsilon in (1e-5, 1e-3):
        folder = write_fla(tmp_path / str(epsilon), "v6", norm_eps=epsilon)
        exact = Truth(tensors("v6"), "6", epsilon, epsilon).read(IDS)
        np.testing.assert_allclose(logits(folder), exact[-1], atol=5e-5)


def test_the_first_version_of_flas_rwkv_7(base: Path, tmp_path: Path) -> None:
    """Its six shares lay in one tensor."""
    folder = write_fla(tmp_path / "folder", "v7")
    stored = load_file(folder / "model.safetensors")
    for i in range(SIZES["v7"].layers):
        shares = [stored.pop(f"model.layers.{i}.attn.x_{letter}") for letter in "rwkvag"]
        stored[f"model.layers.{i}.attn.x_x"] = torch.cat(shares).flatten(1)
    save_file(stored, folder / "model.safetensors")
    np.testing.assert_array_equal(logits(folder), logits(pth("v7", base)))


def test_an_embedding_that_holds_its_norm(base: Path, tmp_path: Path) -> None:
    stored = dict(tensors("v7"))
    weight, bias = (stored.pop(f"blocks.0.ln0.{part}") for part in ("weight", "bias"))
    stored["emb.weight"] = torch.nn.functional.layer_norm(
        stored["emb.weight"], weight.shape, weight, bias, 1e-5
    )
    torch.save(stored, tmp_path / "model.pth")
    np.testing.assert_array_equal(logits(tmp_path / "model.pth"), logits(pth("v7", base)))


@pytest.mark.parametrize("name", RELEASED)
def test_versions_are_told_apart(name: str, base: Path) -> None:
    model = open_(pth(name, base))
    assert model.identity()["model_type"] == f"rwkv{SIZES[name].version[0]}"
    assert model.identity()["version"] == SIZES[name].version
    assert (model.limit, model.training_length) == (None, None)


def test_training_length_stands_in_the_name(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "rwkv7-g1g-0.1b-20260523-ctx8192.pth", "v7")
    assert open_(path).training_length == 8192
    assert open_(write_fla(tmp_path / "ctx-free", "v7")).training_length is None, (
        "2048 is the class's default"
    )


def test_state_tuning_is_where_the_text_begins(tmp_path: Path) -> None:
    size = SIZES["v6"]
    tuned = {
        f"blocks.{i}.att.time_state": 0.3 * torch.randn(size.heads, size.head, size.head)
        for i in range(size.layers)
    }
    path = write_pth(tmp_path / "tuned.pth", "v6", more=tuned)
    exact = Truth(tensors("v6") | tuned, "6").read(IDS)
    session = open_(path, chunk=16).session()
    session.extend([IDS])
    np.testing.assert_allclose(session.logits(), exact[-1], atol=1e-4)
    assert np.abs(truth("v6").read(IDS)[-1] - exact[-1]).max() > 0.01
    session.reset()
    session.extend([IDS])
    np.testing.assert_allclose(session.logits(), exact[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("v7", {"blocks.0.att.time_state": torch.zeros(2, 64, 64)}, "`att.time_state` of RWKV-7"),
        ("v7", {"blocks.0.qkv.weight": torch.zeros(4)}, "an RWKV-7b"),
        ("v7", {"blocks.0.rosa.emb": torch.zeros(4)}, "an RWKV-8"),
        ("v7", {"blocks.0.att.other": torch.zeros(4)}, "tensors that RWKV-7 does not have"),
        ("v7", {"blocks.0.ffn.value.weight": torch.zeros(512, 128)}, r"has shape \(512, 128\), but"),
        ("v6", {"blocks.0.att.key.weight": torch.zeros(128, 128, dtype=torch.uint8)}, "quantised"),
    ],
)
def test_what_is_not_read_is_refused(
    name: str, more: dict[str, torch.Tensor], sentence: str, tmp_path: Path
) -> None:
    path = write_pth(tmp_path / "model.pth", name, more=more)
    with pytest.raises(ModelError, match=sentence):
        open_(path).session()


@pytest.mark.parametrize("lost", ["att.value.weight", "att.key.weight", "ffn.key.weight", "ffn.value.weight"])
@pytest.mark.parametrize(("name", "version"), [("v5.2", "5.2"), ("v6", "6"), ("v7", "7")])
def test_a_file_that_is_not_whole_is_called_by_its_version(
    name: str, version: str, lost: str, tmp_path: Path
) -> None:
    """Whatever it lacks: versions 5, 6 and 7 share most of their names."""
    stored = {key: value for key, value in tensors(name).items() if key != f"blocks.0.{lost}"}
    torch.save(stored, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=rf"lack the tensor `blocks\.0\.{lost}`.*belong to RWKV-{version}$"):
        open_(tmp_path / "model.pth").session()


@pytest.mark.parametrize("name", ["x_proj.0.linear.weight", "x_proj.2.weight", "x_bias"])
def test_a_folder_with_tensors_of_other_shapes(name: str, tmp_path: Path) -> None:
    folder = write_fla(tmp_path / "folder", "v6")
    stored = load_file(folder / "model.safetensors")
    stored[f"model.layers.0.attn.{name}"] = torch.zeros(3, 3)
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"has shape \(3,"):
        open_(folder).session()


def test_a_file_of_the_package_rwkv_is_refused(tmp_path: Path) -> None:
    torch.save({**tensors("v6"), "_strategy": "cpu fp32i8", "_version": "0.7"}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="converted by the package `rwkv`"):
        open_(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attn": {"layers": [1]}}, "layers of attention"),
        ({"hidden_act": "gelu"}, "hidden_act `gelu`"),
        ({"value_dim": [128, 64, 128]}, "value_dim differs"),
        ({"head_dim": 0, "num_heads": 0, "hidden_size": 0}, "does not describe an RWKV"),
    ],
)
def test_a_config_that_is_not_read(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=sentence):
        open_(write_fla(tmp_path / "folder", "v7", **changes))


def test_world_vocabulary_beside_the_file(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "model.pth", "v7")
    (tmp_path / WORLD_FILE).write_text(recurrent.world_vocabulary([]))
    assert open_(path, tokenizer=None).tokenizer.encode("ab").tolist() == [98, 99]


@pytest.mark.parametrize("thinking", [None, 4])
def test_a_chat_of_the_world_models(thinking: int | None, tmp_path: Path) -> None:
    """The words stand in the frame of BlinkDL's chats, without blank lines; the manifest says so."""
    path = write_pth(tmp_path / "model.pth", "v7-world")
    (tmp_path / WORLD_FILE).write_text(recurrent.world_vocabulary([b"\n\n", b" the"]))
    grid: dict[str, Any] = {"lengths": "600,700", "depths": "0,100", "trials": 1, "dtype": "float32"}
    further: dict[str, Any] = {"thinking": thinking, "set": ["chat.enable_thinking=true"]} if thinking else {}
    (tmp_path / "essay.txt").write_text("One line.\n\nAnother line of text.\n\n\nAnd a third.\n" * 40)
    run = evaluate(
        model=str(path),
        out=tmp_path / "run",
        chat=True,
        haystack=str(tmp_path / "essay.txt"),
        **grid,
        **further,
    )
    manifest = json.loads((run.path / "run.json").read_text())
    assert manifest["identity"]["blank_lines"] == "joined"
    row, text = show(run.path, next(iter(row.id for row in store.read(run.path).rows)))
    assert text.startswith("User: ") and "\n\nAssistant:" + (" <think>" if thinking else "") in text
    inner = text.removeprefix("User: ").partition("\n\nAssistant:")[0]
    assert "\n\n" not in inner and "Another line" in inner
    assert row["expected"]


ORACLE = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from rwkv.model import RWKV
ids = np.load(sys.argv[1])
for path in sys.argv[2:]:
    model = RWKV(model=path.removesuffix(".pth"), strategy="cpu fp32")
    found, said = [], []
    for row in ids:
        found.append(model.forward(row.tolist(), None, full_output=True)[0].numpy())
        logits, state = model.forward(row.tolist(), None)
        said.append([])
        for _ in range(4):
            said[-1].append(int(logits.argmax()))
            logits, state = model.forward([said[-1][-1]], state)
    np.savez(path + ".npz", logits=np.stack(found), said=np.array(said))
"""
"""The package chooses its classes by environment variables when it is imported."""


@pytest.mark.parametrize(
    ("names", "switches"),
    [
        (["v5.0", "v5.1", "v5.2", "v6"], {}),
        (["v7"], {"RWKV_V7_ON": "1"}),
        (["v7a"], {"RWKV_V7_ON": "1", "RWKV_DE_VERSION": "1"}),
    ],
    ids=lambda p: p[0] if isinstance(p, list) else "",
)
def test_the_package_rwkv_says_the_same(names: list[str], switches: dict[str, str], base: Path) -> None:
    """Its logits and greedy text, on the CPU in float32; our error is at most twice its own, plus 1e-5."""
    pytest.importorskip("rwkv")
    ids = np.stack([prompt(24, seed) for seed in range(8)])
    np.save(base / "ids.npy", ids)
    files = [str(pth(name, base)) for name in names]
    switches = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"} | switches
    command = [sys.executable, "-c", ORACLE, str(base / "ids.npy"), *files]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=os.environ | switches)
    for name, file in zip(names, files, strict=True):
        theirs = np.load(f"{file}.npz")
        session = open_(Path(file)).session()
        for row, their_logits, said in zip(ids, theirs["logits"], theirs["said"].tolist(), strict=True):
            exact = truth(name).read(row)
            error = np.abs(every_logit(session, row) - exact).max()
            assert error <= 2 * np.abs(their_logits - exact).max() + 1e-5
            session.reset()
            session.extend([row])
            ours = list(session.generate(4, []).ids)
            assert ours == said[: len(ours)]
            assert len(ours) == 4 or said[len(ours)] == 0, "0 ends a text"


CONVERTED = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from rwkv7_hf import RWKV7ForCausalLM, converter
converter.main(["--input", sys.argv[1], "--output", sys.argv[2], "--precision", "fp32"])
model = RWKV7ForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32).eval()
with torch.no_grad():
    logits = [model(torch.from_numpy(row)[None].long()).logits[0].numpy() for row in np.load(sys.argv[3])]
np.save(sys.argv[4], np.stack(logits))
"""


@pytest.mark.parametrize("name", ["v7", "v7-odd"])
def test_the_package_rwkv7_hf_says_the_same(name: str, base: Path, tmp_path: Path) -> None:
    """It reads the .pth file by its own converter; our error is at most twice its own, plus 1e-5. The folder that it writes is read too."""
    pytest.importorskip("rwkv7_hf", reason="the package is not installed; type `pip install rwkv7-hf`")
    ids, files = (
        np.stack([prompt(40, seed) for seed in range(3)]),
        [tmp_path / "ids.npy", tmp_path / "logits.npy"],
    )
    np.save(files[0], ids)
    folder = tmp_path / "folder"
    arguments = [str(pth(name, base)), str(folder), *map(str, files)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", CONVERTED, *arguments],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env=environment,
    )
    session = open_(pth(name, base)).session()
    for row, theirs in zip(ids, np.load(files[1]), strict=True):
        exact = truth(name).read(row)
        error = np.abs(every_logit(session, row) - exact).max()
        assert error <= 2 * np.abs(theirs - exact).max() + 1e-5
    if (
        SIZES[name].head == 64
    ):  # for others the config of a folder means another epsilon of the norm over a head's output
        np.testing.assert_array_equal(logits(folder), logits(pth(name, base)))

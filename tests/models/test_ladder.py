"""The further rungs of the ladder, AFT, S4D, Mamba-2 and RWKV-7: what the ops compute, the laws of a session, float64 truths, error sentences."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nih.errors import ModelError
from nih.kernels.selective_scan import selective_scan, selective_scan_reference
from nih.kernels.wkv4 import wkv4, wkv4_reference
from nih.models import _loading, _recurrent, aft, mamba2, rwkv, s4d
from nih.models._recurrent import Options, RecurrentModel
from nih.models.reference import ladder as drawing
from nih.registry import resolve_model
from tests.support import ladder, recurrent
from tests.support.laws import LAWS, Subject
from tests.support.recurrent import ROUNDING, every_logit, prompt, prompt_of, root_mean_square, wide

SUBJECTS = [
    ("aft", "cpu", None),
    ("aft-odd", "torch", 24),
    ("s4d", "cpu", None),
    ("s4d-odd", "torch", 24),
]
"""Random model, kernels, and the stretches that a call is cut into."""
NAMES = ["aft", "s4d", "rwkv7", "mamba2"]
"""Their weights ship."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def open_(path: Path, **options: Any) -> RecurrentModel:
    found = resolve_model(str(path))
    model: RecurrentModel = found.module.open_model(
        found.source, "x", Options(**{"device": "cpu", "tokenizer": "byte", **options})
    )
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, base: Path) -> Iterator[Subject]:
    name, form, tile = request.param
    path = ladder.random_folder(name, base)
    with recurrent.kernels(form), pytest.MonkeyPatch.context() as patch:
        if tile is not None:
            patch.setattr(_recurrent, "TILE", tile)
        model = open_(path, chunk=16, dtype="float32")
        yield Subject(
            model.session, lambda ids: ladder.truth(path, ids).astype(np.float32), recurrent.VOCABULARY
        )


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(subject: Subject, law: Callable[[Subject], None]) -> None:
    law(subject)


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 150), spread=st.floats(0.1, 30), seed=st.integers(0, 2**31))
def test_wkv4_without_decay_is_aft_simple(steps: int, spread: float, seed: int) -> None:
    """In float64 to its last digits, and in every form that runs here within float32's."""
    make = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, steps, 16, generator=make)
    k = spread * k
    none = torch.zeros(16)
    expected = ladder.aft_simple(*(x[0].double().numpy() for x in (q, k, v)))
    gate = torch.sigmoid(q.double())[0].numpy()
    found = wkv4_reference(none, none, k, v)[0][0].numpy()
    np.testing.assert_allclose(gate * found, expected, rtol=1e-12, atol=1e-13)
    for form in ("cpu", "torch"):
        with recurrent.kernels(form):
            found = wkv4(none, none, k, v)[0][0].double().numpy()
        np.testing.assert_allclose(gate * found, expected, atol=2e-5 * float(v.abs().max()))


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 150), states=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_the_scan_of_s4d_is_its_convolution(steps: int, states: int, seed: int) -> None:
    """In float64 to its last digits, and in every form that runs here within float32's. One token's B and C serve all, by strides of 0."""
    make = torch.Generator().manual_seed(seed)
    u, bias = torch.randn(1, steps, 16, generator=make), torch.randn(16, generator=make) - 2
    A = -8 * torch.rand(16, states, generator=make)
    B, C = torch.randn(2, states, generator=make)
    step = np.logaddexp(0, bias.double().numpy())
    kernel = ladder.s4d_kernel(step, A.double().numpy(), B.double().numpy(), C.double().numpy(), steps)
    expected = ladder.convolution(u[0].double().numpy(), kernel)
    arguments: tuple[Any, ...] = (
        *(u, torch.zeros(16).expand_as(u), None, A),
        *(x.expand(1, steps, -1) for x in (B, C)),
        *(None, bias),
    )
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(
        selective_scan_reference(*arguments)[0][0].numpy(), expected, rtol=1e-9, atol=1e-12 * scale
    )
    for form in ("cpu", "torch"):
        with recurrent.kernels(form):
            found = selective_scan(*arguments)[0][0].double().numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5 * (1 + scale))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ladder.CONFIGS)
def test_logits_are_those_of_the_definition(name: str, dtype: torch.dtype, base: Path) -> None:
    agrees(ladder.random_folder(name, base, dtype), dtype, [prompt(80, seed) for seed in range(3)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_trained_weights(name: str, dtype: torch.dtype) -> None:
    # Stored in more digits than half precision has, so their rounding counts too.
    texts = [prompt_of(f"{name}-trained", seed, 200) for seed in range(3)]
    agrees(ladder.trained_folder(name), dtype, texts, 1 if dtype == torch.float32 else 2)


def agrees(path: Path, dtype: torch.dtype, texts: list[Any], more: float = 1) -> None:
    """The root mean square error of the logits is what rounding makes it."""
    session = open_(path, dtype=str(dtype)[6:]).session()
    exact = [ladder.truth(path, ids) for ids in texts]
    errors = [every_logit(session, ids) - one for ids, one in zip(texts, exact, strict=True)]
    assert root_mean_square(errors) < more * ROUNDING[dtype] * max(float(np.abs(one).max()) for one in exact)


@pytest.mark.parametrize("name", ["aft", "s4d", "s4d-odd"])
def test_rows_are_alone(name: str, base: Path) -> None:
    """A batch equals its rows alone: whole or ragged, with and without a state, which stays as it was."""
    path = ladder.random_folder(name, base)
    network: Any = open_(path).session()._network
    rng = np.random.default_rng(0)
    ids, more = (wide(rng.integers(0, recurrent.VOCABULARY, (4, n))) for n in (37, 21))
    with torch.inference_mode():
        for ends in (None, torch.tensor([37, 1, 20, 36])):
            found, state = network(ids, None, 1, ends)
            before = [[t.clone() for t in layer] for layer in state]
            later, _ = network(more, state, 5)
            for i in range(4):
                stop = 37 if ends is None else int(ends[i])
                alone, own = network(ids[i : i + 1, :stop])
                whole = np.concatenate([ids[i, :stop].numpy(), more[i].numpy()]).astype(np.int32)
                exact = ladder.truth(path, whole)
                recurrent.assert_no_worse(found[i], (alone[0].numpy(),), exact[stop - 1 : stop])
                recurrent.assert_no_worse(
                    later[i], (network(more[i : i + 1], own, 5)[0][0].numpy(),), exact[-5:]
                )
            assert all(
                torch.equal(a, b)
                for x, y in zip(state, before, strict=True)
                for a, b in zip(x, y, strict=True)
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["aft-odd", "s4d-odd"])
def test_state_bytes_are_those_of_the_state(name: str, dtype: torch.dtype, base: Path) -> None:
    model = open_(ladder.random_folder(name, base), dtype=str(dtype)[6:])
    session = model.session()
    assert (session.state, model.state_bytes(0)) == (None, 0)
    for length in (1, 50):
        session.extend([prompt(length)])
        assert session.state is not None
        held = sum(t.untyped_storage().nbytes() for layer in session.state for t in layer)
        assert held == model.state_bytes(session.position)


def test_memory_stays(base: Path) -> None:
    recurrent.memory_stays(ladder.random_folder("s4d-odd", base))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_manifest_says(name: str) -> None:
    model = open_(ladder.trained_folder(name))
    config = json.loads((ladder.trained_folder(name) / "config.json").read_text())
    assert model.identity()["model_type"] == name
    assert (model.limit, model.training_length) == (None, config["nih_training_length"])


@pytest.mark.parametrize("name", ["aft", "s4d"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": None}, "does not describe an"),
        ({"num_hidden_layers": "many"}, "does not describe an"),
        ({"hidden_size": 32}, "the files do not belong together"),
        ({"num_hidden_layers": 1}, "tensors that this architecture does not have"),
        ({"num_hidden_layers": 4}, "lack the tensor"),
    ],
)
def test_a_config_of_another_model(
    name: str, changes: dict[str, Any], sentence: str, base: Path, tmp_path: Path
) -> None:
    path = recurrent.edited(ladder.random_folder(name, base), tmp_path / "m", **changes)
    with pytest.raises(ModelError, match=sentence):
        open_(path).session()


@pytest.mark.parametrize("name", ["aft", "s4d"])
def test_weights_of_the_next_rung_are_refused(name: str, base: Path, tmp_path: Path) -> None:
    """Of a model that decays, or that selects: they would be read as another model than they are."""
    path = shutil.copytree(ladder.random_folder(name, base), tmp_path / "m")
    stored = load_file(path / "model.safetensors")
    more = "rwkv.blocks.0.attention.time_decay" if name == "aft" else "backbone.layers.0.mixer.x_proj.weight"
    save_file({**stored, more: torch.zeros(64)}, path / "model.safetensors")
    with pytest.raises(ModelError, match="1 tensors that this architecture does not have"):
        open_(path).session()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_model_in_the_box(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter: Any = {"rwkv7": rwkv, "aft": aft, "s4d": s4d, "mamba2": mamba2}[name]
    monkeypatch.setattr(_loading, "REFERENCE", tmp_path)
    with pytest.raises(ModelError, match=f"reference model `{name}` is not in this .* train it"):
        adapter.open_model(name, name, Options(device="cpu"))
    shutil.copytree(ladder.trained_folder(name), tmp_path / name)
    session = adapter.open_model(name, name, Options(device="cpu")).session()
    session.extend([prompt_of(f"{name}-box", 0, 19)])
    assert session.position == 19


def test_the_drawn_ladder_is_what_the_cells_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mamba", "transformer"):
        shutil.copytree(recurrent.ROOT / f"results/examples/{name}-passkey", tmp_path / f"{name}-passkey")
    drawing.main([str(tmp_path)])
    assert "rwkv: no " in capsys.readouterr().err
    rows = pd.read_csv(tmp_path / "ladder/ladder.csv")
    asked = rows[rows["n"].notna()]
    for name in ("mamba", "transformer"):
        own = asked[asked["model"] == name]
        cells = pd.read_csv(tmp_path / f"{name}-passkey/cells.csv").groupby("length")[["n", "correct"]].sum()
        assert own[["n", "correct"]].astype(int).to_numpy().tolist() == cells.to_numpy().tolist()
        assert own["length"].tolist() == cells.index.tolist()
        assert own["accuracy"].between(own["ci_low"], own["ci_high"]).all()
    states = {
        (row["model"], row["length"]): row["state_bytes"]
        for row in csv.DictReader((tmp_path / "ladder/ladder.csv").open())
    }
    assert states["mamba", "131072"] == states["mamba", "1024"]
    assert int(states["transformer", "131072"]) == 128 * int(states["transformer", "1024"])
    assert all((tmp_path / f"ladder/ladder.{kind}").stat().st_size for kind in ("png", "svg"))


def test_models_that_were_trained_alike_are_drawn_from_their_runs(tmp_path: Path) -> None:
    runs = {name: recurrent.ROOT / f"results/examples/{name}-passkey" for name in ("s4d", "aft")}
    drawing.main([str(tmp_path), "--alike", *(f"{name}={path}" for name, path in runs.items())])
    rows = pd.read_csv(tmp_path / "ladder/alike.csv")
    assert rows["model"].unique().tolist() == ["aft", "s4d"], "in the order of the ladder"
    for name, path in runs.items():
        cells = pd.read_csv(path / "cells.csv").groupby("length")[["n", "correct"]].sum()
        own = rows[rows["model"] == name].set_index("length")[["n", "correct"]]
        assert own.to_dict() == cells.to_dict()
    assert all((tmp_path / f"ladder/alike.{kind}").stat().st_size for kind in ("png", "svg"))


def test_the_page_tells_what_models_that_were_trained_alike_found() -> None:
    """Each row of the table is the CSV's."""
    page = (recurrent.ROOT / "docs/ladder.md").read_text()
    rows = pd.read_csv(recurrent.ROOT / "results/examples/ladder/alike.csv")
    titles = {
        "AFT": "aft",
        "RWKV-4": "rwkv",
        "S4D": "s4d",
        "Mamba": "mamba",
        "Mamba-2": "mamba2",
        "RWKV-7": "rwkv7",
    }
    told = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[1] in titles:
            told[titles[cells[1]]] = [int(cell) for cell in cells[2:]]
    assert told == {name: own["correct"].tolist() for name, own in rows.groupby("model")}

"""The trainer of the reference models: its texts are a sweep's prompts, its recurrences are right, its runs repeat, its losses fall."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from nih.kernels.matrix_state import matrix_state_torch
from nih.kernels.wkv4 import wkv4_reference
from nih.models.reference import texts, train
from nih.models.reference.native import NativeScan, native_matrix_state, native_wkv
from nih.models.reference.nets import SelectiveScan, wkv
from nih.registry import resolve_model
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Cell

NAMES = ("rwkv", "mamba", "transformer", "mamba2", "aft", "s4d", "rwkv7")
READ_BY_TRANSFORMERS = NAMES[:4]
TINY = {
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    "mamba": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "state_size": 4,
        "time_step_rank": 2,
        "num_hidden_layers": 1,
    },
    "transformer": {"hidden_size": 32, "head_dim": 8, "intermediate_size": 64, "num_hidden_layers": 1},
    "mamba2": {"hidden_size": 16, "num_heads": 2, "head_dim": 16, "state_size": 8, "num_hidden_layers": 1},
    "aft": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    "s4d": {"hidden_size": 16, "intermediate_size": 32, "state_size": 4, "num_hidden_layers": 1},
    "rwkv7": {"hidden_size": 64, "head_dim": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    | {"low_rank_dim": 4, "gate_low_rank_dim": 4},
}


def run(name: str, folder: Path, *more: str) -> float:
    """Train with the script's own arguments; the loss at the end."""
    return train.train(train.parser().parse_args([name, "--out", str(folder), *more]))


@pytest.mark.parametrize("name", NAMES)
def test_equal_arguments_give_equal_weights(name: str, tmp_path: Path) -> None:
    short = ["--steps", "60", "--batch", "400", "--config", json.dumps(TINY[name]), "--facts", "0.2"]
    if name == "rwkv7":
        if not shutil.which("g++"):
            pytest.skip("the torch form is not the same in every last bit")
        short += ["--native"]
    for folder in ("one", "two", "other"):
        run(name, tmp_path / folder, *short, "--seed", "1" if folder == "other" else "0")
    one, two, other = (load_file(tmp_path / f / "model.safetensors") for f in ("one", "two", "other"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_the_training_length_is_that_of_the_longest_text_that_was_read(tmp_path: Path) -> None:
    """And not the one that was allowed: the curriculum lets nothing longer in before the shortest texts are answered."""
    tiny = ("--batch", "400", "--config", json.dumps(TINY["rwkv"]), "--length", "8192")

    def told(folder: str) -> int:
        return int(json.loads((tmp_path / folder / "config.json").read_text())["nih_training_length"])

    run("rwkv", tmp_path / "short", "--steps", "6", *tiny)
    assert 0 < told("short") <= texts.LEVELS[0]
    run("rwkv", tmp_path / "long", "--steps", "6", "--begin", "512", "--shortest", "512", *tiny)
    assert texts.LEVELS[0] < told("long") <= 512
    run("rwkv", tmp_path / "again", "--steps", "1", "--start", str(tmp_path / "long"), *tiny)
    assert told("again") == told("long"), "what was read before counts too"


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls(name: str, tmp_path: Path) -> None:
    # An untrained model is at 2.05 ln 256 = 11.4. The Transformer needs more texts in a step than the recurrent ones.
    more = ["--batch", "4096" if name == "transformer" else "1024"]
    if name == "rwkv7" and shutil.which("g++"):
        more += ["--native"]  # five times as fast, and held against the torch form below
    assert run(name, tmp_path, "--steps", "60", "--decay", "0", *more) < 5.0


@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_transformers_reads_what_the_trainer_wrote(name: str, tmp_path: Path) -> None:
    import transformers

    run(name, tmp_path, "--steps", "3", "--batch", "400", "--config", json.dumps(TINY[name]))
    config = json.loads((tmp_path / "config.json").read_text())
    net, body, head = train.network(config)
    net.load_state_dict(load_file(tmp_path / "model.safetensors"))
    kind = getattr(transformers, config["architectures"][0])
    theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(0, 256, (2, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(head(body(ids)), theirs.eval()(ids).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mamba2", "aft", "s4d", "rwkv7"])
def test_our_adapter_reads_what_the_trainer_wrote(name: str, tmp_path: Path) -> None:
    run(name, tmp_path, "--steps", "30", "--batch", "400", "--config", json.dumps(TINY[name]))
    net, body, head = train.network(json.loads((tmp_path / "config.json").read_text()))
    net.load_state_dict(load_file(tmp_path / "model.safetensors"))
    found = resolve_model(str(tmp_path))
    ours = found.module.open_model(found.source, name, found.module.Options(device="cpu")).session()
    ids = torch.randint(0, 256, (1, 150), generator=torch.Generator().manual_seed(0))
    ours.extend([ids[0].numpy().astype("int32")])
    with torch.no_grad():
        torch.testing.assert_close(
            head(body(ids))[0, -1], torch.from_numpy(ours.logits()), atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_run_can_begin_with_saved_weights(name: str, tmp_path: Path) -> None:
    tiny = ("--batch", "400", "--config", json.dumps(TINY[name]))
    run(name, tmp_path / "first", "--steps", "2", *tiny)
    run(
        name,
        tmp_path / "second",
        "--steps",
        "1",
        "--rate",
        "1e-30",
        "--start",
        str(tmp_path / "first"),
        *tiny,
    )
    first, second = (load_file(tmp_path / f / "model.safetensors") for f in ("first", "second"))
    for key in first:
        torch.testing.assert_close(first[key], second[key])


@given(
    task=st.sampled_from(["passkey", "fact"]),
    haystack=st.sampled_from(["noise", "prose"]),
    length=st.integers(520, 2048),
    depth=st.floats(0, 100),
    number=st.integers(0, 10**5),
)
@settings(max_examples=40, deadline=None)
def test_a_whole_text_is_a_prompt_and_its_answer(
    task: str, haystack: str, length: int, depth: float, number: int
) -> None:
    text = texts.whole_text(task, haystack, length, depth, texts.TRAIN_SEED + number)
    assert len(text.ids) == len(text.kind) == length
    check_marks(task, text)


@given(
    task=st.sampled_from(["passkey", "fact"]),
    depth=st.floats(0, 100),
    more=st.integers(0, 200),
    number=st.integers(0, 10**5),
)
@settings(max_examples=40, deadline=None)
def test_a_short_text_asks_the_same(task: str, depth: float, more: int, number: int) -> None:
    length = (texts.FACT_LEVELS if task == "fact" else texts.LEVELS)[0] + more
    text = texts.short_text(task, "noise", length, depth, texts.TRAIN_SEED + number)
    assert len(text.ids) == length
    check_marks(task, text)


def check_marks(task: str, text: texts.Text) -> None:
    """The answer is marked whole, was said before, and what is marked as said again was too."""
    spelled = ByteTokenizer().decode(text.ids)
    answer = "".join(c for c, kind in zip(spelled, text.kind, strict=True) if kind == texts.ANSWER)
    before = spelled[: int((text.kind == texts.ANSWER).argmax())]
    assert answer.startswith(" ")
    assert answer.endswith(".")
    assert answer[1:-1] in before
    assert set(spelled[len(before) + len(answer) :]) <= {"\n"}
    assert spelled[: len(before) + len(answer)] == before + answer
    if task == "passkey":
        assert before.endswith("\nWhat is the pass key? The pass key is")
        assert (text.kind == texts.AGAIN).sum() == 5
    assert (text.kind == texts.AGAIN).any()


@settings(max_examples=40, deadline=None)
@given(
    haystack=st.sampled_from(["prose", "noise"]),
    length=st.integers(352, 700),
    gap=st.sampled_from(texts.GAPS),
    seed=st.integers(0, 2**31),
)
def test_what_is_repeated_was_said_a_gap_ago(haystack: str, length: int, gap: int, seed: int) -> None:
    text = texts.repeats(haystack, length, gap, seed)
    assert text.ids.shape == text.kind.shape == (length,)
    assert set(text.kind.tolist()) <= {texts.NOTHING, texts.TEXT, texts.ANSWER}
    said = bytes(text.ids.astype("uint8"))
    edges = [0, *(torch.tensor(text.kind).diff().nonzero().flatten() + 1).tolist(), length]
    for start, stop in itertools.pairwise(edges):
        if text.kind[start] == texts.ANSWER:
            before = said.rfind(said[start:stop].rstrip(b"\n"), 0, start)
            # At most the gap, the rest of a fact, and the sentence that says it again.
            assert before >= 0 and start - before <= gap + 250
    assert (text.kind == texts.ANSWER).any()
    again = texts.repeats(haystack, length, gap, seed)
    assert (again.ids == text.ids).all() and (again.kind == text.kind).all()


def test_wider_gaps_are_let_in_by_right_bytes() -> None:
    made = train.Curriculum(0, 4, 0.5, 0.5, repeats=1.0)
    task, level, drawn = made.batch(random.Random(0), 0)
    assert (task, level) == ("repeat", 0) and {len(t.ids) for t in drawn} == {texts.FACT_LEVELS[0]}
    made.note("repeat", 0, [0.93] * 64)
    assert made.level["repeat"] == 0
    for level in range(len(texts.GAPS)):
        made.note("repeat", level, [0.96] * 64)
    assert made.level == {"passkey": 0, "fact": 0, "repeat": len(texts.GAPS) - 1}


def test_training_and_test_seeds_do_not_meet() -> None:
    builders = texts.builder_of
    builders.cache_clear()
    task = {s: builders("passkey", "noise", s).sample(Cell(512, 50), 0).id for s in (0, 1, 10**6, 10**9)}
    assert len(set(task.values())) == len(task)
    curriculum = train.Curriculum(seed=900, top=0, facts=0.0, prose=0.0)
    assert texts.TRAIN_SEED * (1 + curriculum.seed) + 10**6 <= texts.TEST_SEED


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 200])
def test_wkv_and_its_gradient(steps: int) -> None:
    make = torch.Generator().manual_seed(steps)
    arguments = [
        torch.randn(*shape, generator=make) for shape in ((16,), (16,), (2, steps, 16), (2, steps, 16))
    ]
    out = torch.randn(2, steps, 16, generator=make)
    for form in (wkv, *([native_wkv] if shutil.which("g++") else [])):
        mine = [a.clone().requires_grad_() for a in arguments]
        truth = [a.double().requires_grad_() for a in arguments]
        y = form(*mine)
        with torch.no_grad():
            expected, _ = wkv4_reference(-truth[0].exp(), *truth[1:])
        torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
        exact = direct_wkv(*truth)
        for a, b in zip(
            torch.autograd.grad(y, mine, out), torch.autograd.grad(exact, truth, out.double()), strict=True
        ):
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-3)


def direct_wkv(time_decay: Tensor, time_first: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition: every pair of positions, one by one."""
    steps = k.shape[1]
    gap = torch.arange(steps)[:, None] - torch.arange(steps)
    past = -time_decay.exp() * (gap - 1).clamp(min=0)[..., None] + k[:, None]
    logits = torch.where((gap == 0)[..., None], time_first + k[:, None], past)
    weights = logits.masked_fill((gap < 0)[..., None], -torch.inf).softmax(2)
    return (weights * v[:, None]).sum(2)


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 200])
def test_nothing_decays_where_the_decay_is_none(steps: int) -> None:
    """AFT's arguments of `wkv`: its average, and its gradient for keys and values."""
    make = torch.Generator().manual_seed(steps)
    k, v, out = torch.randn(3, 2, steps, 16, generator=make)
    none = torch.full((16,), -torch.inf), torch.zeros(16)
    for form in (wkv, *([native_wkv] if shutil.which("g++") else [])):
        mine = [a.clone().requires_grad_() for a in (k, v)]
        truth = [a.double().requires_grad_() for a in (k, v)]
        weights = truth[0].exp()
        exact = (weights * truth[1]).cumsum(1) / weights.cumsum(1)
        y = form(*none, *mine)
        torch.testing.assert_close(y.double(), exact, atol=1e-5, rtol=1e-5)
        for a, b in zip(
            torch.autograd.grad(y, mine, out), torch.autograd.grad(exact, truth, out.double()), strict=True
        ):
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.parametrize("steps", [1, 31, 32, 33, 100])
def test_matrix_state_and_its_gradient(steps: int) -> None:
    """Against the torch form of the kernels in float64, with vectors as RWKV-7 has them."""
    make = torch.Generator().manual_seed(steps)
    r, k, v, along, rate, decay, out = torch.randn(7, 2, steps, 2, 64, generator=make)
    along, rate = torch.nn.functional.normalize(along, dim=-1), rate.sigmoid()
    arguments = (r, k, v, -0.6 * decay.sigmoid(), -along, along * rate)
    mine = [a.clone().requires_grad_() for a in arguments]
    truth = [a.double().requires_grad_() for a in arguments]
    y, exact = native_matrix_state(*mine), matrix_state_torch(*truth)[0]
    scale = float(exact.abs().max())
    torch.testing.assert_close(y.double(), exact, atol=2e-6 * scale, rtol=0)
    for a, b in zip(
        torch.autograd.grad(y, mine, out), torch.autograd.grad(exact, truth, out.double()), strict=True
    ):
        torch.testing.assert_close(a.double(), b, atol=2e-6 * float(b.abs().max()), rtol=0)


@pytest.mark.parametrize("steps", [1, 31, 33, 100])
def test_scan_and_its_gradient(steps: int) -> None:
    make = torch.Generator().manual_seed(steps)
    x = torch.randn(steps, 2, 32, generator=make)
    dt, a = torch.rand(steps, 2, 32, generator=make), -4 * torch.rand(16, 32, generator=make)
    b, c = torch.randn(2, steps, 2, 16, generator=make)
    out = torch.randn(steps, 2, 32, generator=make)
    arguments = (x, dt, a, b, c)
    truth = [t.double().requires_grad_() for t in arguments]
    expected = direct_scan(*truth)
    gradients = torch.autograd.grad(expected, truth, out.double())
    for form in (SelectiveScan, *([NativeScan] if shutil.which("g++") else [])):
        mine = [t.clone().requires_grad_() for t in arguments]
        y = form.apply(*mine)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
        for got, want in zip(torch.autograd.grad(y, mine, out), gradients, strict=True):
            torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)


def direct_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The recurrence, step by step, for autograd."""
    h = x.new_zeros(x.shape[1], *a.shape)
    out = []
    for t in range(len(x)):
        h = (dt[t, :, None] * a).exp() * h + (dt[t] * x[t])[:, None] * b[t, ..., None]
        out.append((h * c[t, ..., None]).sum(1))
    return torch.stack(out)


@pytest.mark.parametrize("name", NAMES)
def test_a_grown_network_begins_as_the_saved_one(name: str, tmp_path: Path) -> None:
    run(name, tmp_path, "--steps", "3", "--batch", "400", "--config", json.dumps(TINY[name]))
    saved = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    ids = torch.randint(0, 256, (2, 50), generator=torch.Generator().manual_seed(0))
    logits = []
    for more in (0, 2):
        net, body, head = train.network(config | {"num_hidden_layers": config["num_hidden_layers"] + more})
        train._begin_with(net, saved)
        with torch.no_grad():
            logits.append(head(body(ids)))
    torch.testing.assert_close(*logits)
    with pytest.raises(ValueError, match="--start"):
        train._begin_with(net, {key: value for key, value in saved.items() if "emb" not in key})

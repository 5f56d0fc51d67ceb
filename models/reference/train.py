"""Train a reference model from nothing on this project's own prompts.

    python -m nih.models.reference.train rwkv --steps 2000 --out rwkv-trained

A batch is texts of one length: a prompt of `passkey` or `fact` as a sweep asks it, and its answer. The loss is the cross-entropy of the answer,
plus that of words which the text says a second time (it teaches copying early), plus a little of the whole text's. The curriculum
lets longer texts in once the longest so far are answered. Seeds begin at 10**6, far from those that sweeps use.
On one machine and one thread, equal arguments give equal weights (as long as --steps ends the run, and not --minutes; RWKV-7 with --native).
SIGTERM ends a run after its step and saves; at a constant rate (--decay 0) that is the run of so many --steps.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nih.models.reference import weights
from nih.models.reference.mixture import RECIPES, Mixture
from nih.models.reference.native import NativeScan, native_matrix_state, native_wkv
from nih.models.reference.nets import Mamba, MambaMixer, Rwkv, TimeMix, causal_attention
from nih.models.reference.nets_rwkv7 import Rwkv7, TimeMix7
from nih.models.reference.texts import (
    AGAIN,
    ANSWER,
    FACT_LEVELS,
    GAPS,
    LEVELS,
    TEST_SEED,
    TEXT,
    TRAIN_SEED,
    Text,
    builder_of,
    marked,
    repeats,
    short_text,
    whole_text,
)
from nih.stats.intervals import wilson
from nih.types import Cell


def config_of(name: str) -> dict[str, Any]:
    """The configuration of a reference model, as its config.json beside this file says."""
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / name / "config.json").read_text())
    return loaded


def network(config: dict[str, Any]) -> tuple[nn.Module, Callable[[Tensor], Tensor], nn.Module]:
    """The network, its body (ids (B, T) to features (B, T, C)) and its head (features to logits)."""
    if config["model_type"] in ("rwkv", "aft"):
        rwkv = Rwkv(config)
        return rwkv, rwkv, rwkv.head
    if config["model_type"] == "rwkv7":
        rwkv7 = Rwkv7(config)
        return rwkv7, rwkv7, rwkv7.head
    if config["model_type"] in ("mamba", "s4d"):
        mamba = Mamba(config)
        return mamba, mamba, mamba.lm_head
    if config["model_type"] == "mamba2":
        return _mamba2(config)
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register("nih_reference", causal_attention)
    llama = LlamaForCausalLM(LlamaConfig(**config | {"attn_implementation": "nih_reference"}))
    return llama, lambda ids: llama.model(input_ids=ids, use_cache=False).last_hidden_state, llama.lm_head


def _mamba2(config: dict[str, Any]) -> tuple[nn.Module, Callable[[Tensor], Tensor], nn.Module]:
    """Mamba-2 as transformers trains it: its chunks are matrix products, so it needs no recurrence of ours."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    mamba2 = Mamba2ForCausalLM(Mamba2Config(**config))
    return (
        mamba2,
        lambda ids: mamba2.backbone(input_ids=ids, use_cache=False).last_hidden_state,
        mamba2.lm_head,
    )


_LEVELS = {"passkey": LEVELS, "fact": FACT_LEVELS, "repeat": GAPS}
_REPEATS_PASS_AT = 0.94


@dataclass
class Curriculum:
    """Draws the batches. Level i is let in when the last `window` texts of level i - 1 were answered well enough."""

    seed: int
    top: int
    facts: float
    prose: float
    repeats: float = 0.0
    bytes: int = 8192
    pass_at: float = 0.9
    facts_pass_at: float = 0.9
    """Facts are learnt word by word, so a lower bar lets longer texts in while the shortest are still being learnt."""
    window: int = 64
    begin: int = 0
    least: int = 0
    """Lowest level that is still drawn, once it is let in."""
    count: int = 0
    recent: dict[tuple[str, int], deque[float]] = field(default_factory=dict)
    level: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Facts are learnt late, so they begin short even where passkey goes on.
        self.level = {"passkey": self.begin, "fact": 0, "repeat": 0}

    def batch(self, rng: Random, step: int) -> tuple[str, int, list[Text]]:
        """Task, level and texts of equal length. What is let in depends on the answers, not on the step."""
        if self.repeats and rng.random() < self.repeats:
            return self._repeats(rng)
        task = "fact" if rng.random() < self.facts else "passkey"
        level = rng.randint(min(self.least, self.level[task]), self.level[task])
        levels = FACT_LEVELS if task == "fact" else LEVELS
        # Half of the texts have the level's own length: sweeps ask there, and the early depths of the longest are the hardest.
        shortest = levels[max(level - 1, 0)] if rng.random() < 0.5 else levels[level]
        length = rng.randint(shortest, levels[level])
        haystack = "prose" if rng.random() < self.prose else "noise"
        make = short_text if level < 2 or length < 420 else whole_text
        texts = []
        for _ in range(max(self.bytes // length, 1)):
            seed = TRAIN_SEED * (1 + self.seed) + self.count
            self.count += 1
            texts.append(make(task, haystack, length, rng.uniform(0, 100), seed))
        return task, level, texts

    def _repeats(self, rng: Random) -> tuple[str, int, list[Text]]:
        """Texts as long as the shortest facts, with one of the widest three gaps so far."""
        level = rng.randint(max(0, self.level["repeat"] - 2), self.level["repeat"])
        length, texts = FACT_LEVELS[0], []
        for _ in range(max(self.bytes // length, 1)):
            haystack = "prose" if rng.random() < 0.8 else "noise"
            seed = TRAIN_SEED * (1 + self.seed) + self.count
            texts.append(repeats(haystack, length, GAPS[level], seed))
            self.count += 1
        return "repeat", level, texts

    def note(self, task: str, level: int, right: list[float]) -> None:
        """Record answers, and go up a level if due."""
        last = self.recent.setdefault((task, level), deque(maxlen=self.window))
        # A text of repeats has many answers, so the part of its bytes that were right counts.
        last.extend(right if task == "repeat" else [float(part == 1) for part in right])
        due = level == self.level[task] and len(last) == self.window
        bar = {"fact": self.facts_pass_at, "repeat": _REPEATS_PASS_AT}.get(task, self.pass_at)
        top = len(GAPS) - 1 if task == "repeat" else self.top
        if due and level < top and sum(last) >= bar * self.window:
            self.level[task] += 1

    def accuracies(self) -> str:
        return " ".join(
            f"{task[0]}{_LEVELS[task][level]}={sum(last) / max(len(last), 1):.2f}"
            for (task, level), last in sorted(self.recent.items())
        )


def losses(
    body: Callable[[Tensor], Tensor], head: nn.Module, texts: list[Text], bf16: bool
) -> tuple[Tensor, Tensor, list[float]]:
    """Loss, the answers' cross-entropy, and the part of each text's answer bytes that were right (greedily)."""
    ids = torch.from_numpy(np.stack([t.ids for t in texts]))
    kind = torch.from_numpy(np.stack([t.kind for t in texts]))[:, 1:]
    # A fourth of the plain text is enough for its small part of the loss.
    some = (torch.arange(kind.shape[1]) + torch.arange(len(texts))[:, None]) % 4 == 0
    at = ((kind >= ANSWER) | (some & (kind == TEXT))).flatten().nonzero().squeeze(1)
    row, kind, target = at // kind.shape[1], kind.flatten()[at], ids[:, 1:].flatten()[at]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = head(body(ids[:, :-1]).flatten(0, 1).index_select(0, at)).float()
    nll = F.cross_entropy(logits, target, reduction="none")
    # A batch may have no word that is said again.
    answer, again, text = (
        nll[kind == k].sum() / max(int((kind == k).sum()), 1) for k in (ANSWER, AGAIN, TEXT)
    )
    answered = torch.bincount(row[kind == ANSWER], minlength=len(texts))
    hit = torch.bincount(row[(kind == ANSWER) & (logits.argmax(-1) == target)], minlength=len(texts))
    return answer + again + 0.05 * text, answer, (hit / answered).tolist()


@torch.no_grad()
def accuracy(
    body: Callable[[Tensor], Tensor],
    head: nn.Module,
    task: str,
    haystack: str,
    length: int,
    depths: list[float],
    count: int,
) -> list[int]:
    """Right answers of `count` unseen samples of each depth."""
    right = []
    for depth in depths:
        hits: list[float] = []
        for first in range(0, count, max(16384 // length, 1)):
            size = min(max(16384 // length, 1), count - first)
            texts = [_test_text(task, haystack, length, depth, first + i) for i in range(size)]
            hits += losses(body, head, texts, False)[2]
        right.append(sum(part == 1 for part in hits))
    return right


def _test_text(task: str, haystack: str, length: int, depth: float, trial: int) -> Text:
    builder = builder_of(task, haystack, TEST_SEED + trial % 64)
    sample = builder.sample(Cell(length, depth), trial, length)
    return marked(bytes(sample.prompt.ids().astype(np.uint8)), sample, sample.room)


def optimizer_of(net: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors do not."""
    groups = [
        {
            "params": [p for n, p in net.named_parameters() if p.dim() >= 2 and "A_log" not in n],
            "weight_decay": decay,
        },
        {
            "params": [p for n, p in net.named_parameters() if p.dim() < 2 or "A_log" in n],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def save(net: nn.Module, config: dict[str, Any], folder: Path, half: bool = False) -> None:
    """Write config.json and the weights. `half` stores the matrices in bfloat16, as the models in the box are; whoever reads them
    computes in the config's dtype all the same.
    """
    state = {
        name: value.to(torch.bfloat16) if half and value.dim() == 2 and "A_log" not in name else value
        for name, value in net.state_dict().items()
    }
    weights.write(state, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _use_native(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, MambaMixer):
            module.scan = NativeScan
        if isinstance(module, TimeMix):
            module.wkv = native_wkv
        if isinstance(module, TimeMix7):
            module.recurrence = native_matrix_state


_UNDECAYED = ("aft", "rwkv", "rwkv7")
"""Models whose matrices have no weight decay."""
_OUTPUTS = ("out_proj.weight", "o_proj.weight", "down_proj.weight", "output.weight", "value.weight")
"""Ends of the names of the matrices through which a block adds to what passes it by."""


def _begin_with(net: nn.Module, saved: dict[str, Tensor]) -> None:
    """Saved weights; layers that they lack begin silent, so that a grown network begins as the saved one.

    Raises RuntimeError for weights of another shape, and ValueError where more is lacking than layers at the end.
    """
    lacking = net.load_state_dict(saved, strict=False)
    layer = re.compile(r"\.(\d+)\.")
    first = 1 + max(int(m[1]) for m in map(layer.search, saved) if m)
    places = [layer.search(name) for name in lacking.missing_keys]
    if lacking.unexpected_keys or not all(m and int(m[1]) >= first for m in places):
        raise ValueError("the weights of --start are not those of a shallower network of this kind")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name in lacking.missing_keys and name.endswith(_OUTPUTS):
                parameter.zero_()


def _longest_before(args: argparse.Namespace) -> int:
    """Bytes of the longest text that the weights of --start had read; 0 without."""
    told = Path(args.start or "") / "config.json"
    return int(json.loads(told.read_text())["nih_training_length"]) if args.start and told.is_file() else 0


def train(args: argparse.Namespace) -> float:
    """Train and save; the mean loss of the last 20 steps."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    # What the curriculum never lets in is not what the model was trained at, so the length grows with what is read. The tasks of
    # the mix are new to a model that had read longer texts of passkey.
    longest = 0 if args.mix else _longest_before(args)
    config = config_of(args.model) | json.loads(args.config) | {"nih_training_length": longest}
    if "context_length" in config:
        config["context_length"] = args.length
    net, body, head = network(config)
    if args.native:
        _use_native(net)
    if args.start:
        _begin_with(net, weights.read(Path(args.start)))
    rate = args.rate or (1e-3 if args.model == "transformer" else 2e-3)
    optimizer = optimizer_of(net, rate, 0.0 if args.model in _UNDECAYED else 0.01)
    begin, top, least = (LEVELS.index(length) for length in (args.begin, args.length, args.shortest))
    curriculum: Curriculum | Mixture = Curriculum(
        args.seed,
        top,
        args.facts,
        args.prose,
        args.repeats,
        args.batch,
        begin=begin,
        least=least,
        facts_pass_at=args.facts_pass_at,
    )
    if args.mix:
        curriculum = Mixture(args.seed, args.batch, opening=args.open, weights=args.weights)
    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    rng = Random(args.seed)
    began = saved = time.monotonic()
    last: deque[float] = deque(maxlen=20)
    read = steps = 0
    for step in range(args.steps):
        spent = (time.monotonic() - began) / 60
        left = 1 - max(step / args.steps, spent / args.minutes)
        if left <= 0 or stopped:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 50, left / args.decay if args.decay else 1, 1)
        task, level, texts = curriculum.batch(rng, step)
        loss, answer, right = losses(body, head, texts, args.bf16)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        curriculum.note(task, level, right)
        read += sum(len(t.ids) for t in texts)
        config["nih_training_length"] = max(config["nih_training_length"], len(texts[0].ids))
        steps += 1
        last.append(loss.item())
        if step % 50 == 49:
            print(
                f"step {step + 1} {read / 1e6:.2f} MB {spent:.1f} min loss {np.mean(last):.3f} {task} answer {answer.item():.3f} "
                f"norm {norm.item():.2f} {curriculum.accuracies()}",
                flush=True,
            )
        if time.monotonic() - saved > 120:
            save(net, config, Path(args.out))
            saved = time.monotonic()
    save(net, config, Path(args.out), args.half)
    signal.signal(signal.SIGTERM, before)
    print(f"done: {steps} steps, {read / 1e6:.1f} MB, {(time.monotonic() - began) / 60:.1f} min", flush=True)
    return float(np.mean(last))


def evaluate(args: argparse.Namespace) -> None:
    """Print the accuracy of a saved model by length and depth."""
    torch.set_num_threads(args.threads)
    config = json.loads((Path(args.out) / "config.json").read_text())
    net, body, head = network(config)
    net.load_state_dict(weights.read(Path(args.out)))
    net.eval()
    if args.native:
        _use_native(net)
    depths = [float(d) for d in args.depths.split(",")]
    for length in (int(n) for n in args.evaluate.split(",")):
        right = accuracy(body, head, args.task, args.haystack, length, depths, args.count)
        low, high = wilson(sum(right), args.count * len(depths))
        print(
            f"{args.task} in {args.haystack}, {length} bytes: {sum(right)}/{args.count * len(depths)} "
            f"[{low:.3f}, {high:.3f}] by depth {' '.join(f'{d:g}%={r / args.count:.2f}' for d, r in zip(depths, right, strict=True))}",
            flush=True,
        )


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = json.loads(text)
    if unknown := set(weights) - set(RECIPES):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} are not among {sorted(RECIPES)}")
    return weights


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train a reference model, or evaluate one with --evaluate LENGTHS."
    )
    add = partial(made.add_argument)
    add("model", choices=("rwkv", "mamba", "transformer", "aft", "s4d", "rwkv7", "mamba2"))
    add("--steps", type=int, default=4000)
    add("--minutes", type=float, default=math.inf, help="stop earlier after this time")
    add("--seed", type=int, default=0)
    add("--out", required=True)
    add("--threads", type=int, default=1)
    add("--rate", type=float, help="peak learning rate (2e-3 recurrent, 1e-3 transformer)")
    add("--decay", type=float, default=0.2, help="part of the run over which the rate falls to 0")
    add("--length", type=int, default=2048, choices=LEVELS, help="longest texts")
    add("--batch", type=int, default=8192, help="bytes of a batch")
    add("--begin", type=int, default=LEVELS[0], choices=LEVELS, help="longest texts at the beginning")
    add("--shortest", type=int, default=LEVELS[0], choices=LEVELS, help="leave out shorter texts than these")
    add("--facts", type=float, default=0.0, help="part of the batches that are `fact`")
    add("--facts-pass-at", type=float, default=0.9, help="accuracy at which longer facts are let in")
    add(
        "--repeats",
        type=float,
        default=0.0,
        help="part of the batches that repeat names of facts, no question asked",
    )
    add("--prose", type=float, default=0.0, help="part of the batches whose haystack is prose")
    add("--mix", action="store_true", help="texts of all tasks of mixture.py, up to 1024 bytes")
    add("--open", type=int, default=1500, help="steps after which --mix has texts of all lengths")
    add(
        "--weights",
        type=_weights,
        default={},
        help='what --mix draws more or less often: \'{"mqar": 9, "copy": 0}\'',
    )
    add(
        "--bf16",
        action="store_true",
        help="matrix products in bfloat16: faster on some CPUs, slower on others",
    )
    add("--native", action="store_true", help="the recurrences in C++, compiled at the start")
    add("--half", action="store_true", help="store the matrices in bfloat16: half the file")
    add("--start", help="folder of weights to begin with; may have fewer layers")
    add("--config", default="{}", help="JSON of entries that override config.json")
    add("--evaluate", help="lengths in bytes: no training, the accuracy of --out")
    add("--task", default="passkey", choices=("passkey", "fact"))
    add("--haystack", default="noise")
    add("--depths", default="0,25,50,75,100")
    add("--count", type=int, default=100, help="samples of a length and depth")
    return made


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if args.evaluate:
        evaluate(args)
    else:
        train(args)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Engines with a prefix cache that is really kept, as vLLM, SGLang and llama.cpp keep theirs, and the faults that such caches have.

What they do is what their makers' issues tell: attention finds every block again; a hybrid keeps a state only at the last end of a
block that a request reached, so that prompts which pass a branch leave nothing there unless its beginning was a request of its own.
A wrong state that is restored is not told: the answer is wrong, and nothing else. They find pass keys by reading the prompt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from tests.support.fake_server import FakeServer, Reply, Request, error, key_of

Fault = Literal["", "wrong state", "noise", "wrong state and noise", "rounding"]
OWNER = {"cache_salt": "vllm", "cache_prompt": "llamacpp", "flush": "sglang"}


@dataclass
class Spoken:
    """What is said: at each place the token and the likeliest with their log-probabilities."""

    tokens: list[str]
    places: list[dict[str, float]]
    cached: int

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass
class CachingModel:
    """`block` and `hybrid` say what the cache keeps; `fault` what goes wrong when something is found in it."""

    fault: Fault = ""
    block: int = 16
    hybrid: bool = False
    seed: int = 0
    kept: dict[tuple[str, str], str] = field(default_factory=dict)
    """(salt, digest of a beginning) -> the prompt that left it."""
    asked: int = 0

    def speak(self, prompt: str, room: int, salt: str = "", cached: bool = True) -> Spoken:
        """Answer, and keep what was read."""
        self.asked += 1
        hit, owner = self._find(prompt, salt) if cached else (0, "")
        self._keep(prompt, salt)
        rng = Random(f"{self.seed} {self.asked}")
        key = key_of(prompt)
        if hit and "wrong state" in self.fault:
            key = _other(key, owner)
        if "noise" in self.fault and rng.random() < 0.4:
            key = _other(key, str(rng.random()))
        text = f" {key}. That is all."
        tokens = [text[i : i + 2] for i in range(0, len(text), 2)][:room]
        places = [{token: -0.05, "??": -3.2} for token in tokens]
        if self.fault == "rounding":
            self._round(tokens, places, hit > 0)
        if "noise" in self.fault:
            places = [{t: min(v + rng.gauss(0, 0.2), -1e-6) for t, v in place.items()} for place in places]
        return Spoken(tokens, places, hit)

    def forget(self) -> None:
        """Empty the cache."""
        self.kept.clear()

    def _round(self, tokens: list[str], places: list[dict[str, float]], warm: bool) -> None:
        """Two tokens are as good as each other at the third place, and the cache decides which is better by a hair."""
        better = -0.69 + (0.002 if warm else -0.002)
        for place in places:
            place.update({t: v + (0.01 if warm else 0.0) for t, v in place.items()})
        if len(tokens) > 2:
            places[2] = {tokens[2]: better, "<>": -1.38 - better}
            tokens[2] = max(places[2], key=lambda token: places[2][token])

    def _ends(self, prompt: str) -> range:
        return range(self.block, len(prompt), self.block)

    def _find(self, prompt: str, salt: str) -> tuple[int, str]:
        for end in reversed(self._ends(prompt)):
            if (left := self.kept.get((salt, _digest(prompt[:end])))) is not None:
                return end, left
        return 0, ""

    def _keep(self, prompt: str, salt: str) -> None:
        ends = [*range(self.block, len(prompt) + 1, self.block)]
        for end in ends[-1:] if self.hybrid else ends:
            self.kept.setdefault((salt, _digest(prompt[:end])), prompt)


@dataclass
class CachingServer:
    """A server of one of the three kinds over such a model; `rates` and `tells` say whether it gives log-probabilities and cached
    tokens, `empties` whether SGLang's flush is done.
    """

    kind: Literal["cache_salt", "cache_prompt", "flush"]
    model: CachingModel
    rates: bool = True
    tells: bool = True
    empties: bool = True
    info: dict[str, Any] = field(default_factory=dict)
    flushed: int = 0

    def server(self) -> FakeServer:
        """The web server to `serve`."""
        listed = Reply(200, {"data": [{"id": "m", "owned_by": OWNER[self.kind], "max_model_len": 8192}]})
        made = FakeServer(self.answer, models=listed)
        if self.kind == "flush":
            made.pages["/server_info"] = lambda: Reply(200, self.info)
            made.pages["/flush_cache"] = self.flush
        return made

    def flush(self) -> Reply:
        """Empty the cache, or say in words that it is not done."""
        self.flushed += 1
        if not self.empties:
            return Reply(200, b"Flush cache failed: there are running requests\n")
        self.model.forget()
        return Reply(200, b"Cache flushed.\nPlease check backend logs for more details.\n")

    def answer(self, request: Request) -> Reply:
        """Answer a request as this kind of server does."""
        body, model = request.body, self.model
        if body.get("logprobs") and not self.rates:
            return error(400, "logprobs is not supported by this server", param="logprobs")
        if body.get("echo"):
            return Reply(500)
        salt, cached = "", True
        if self.kind == "cache_salt":
            salt = body.get("cache_salt", "")
        elif self.kind == "cache_prompt":
            cached = body.get("cache_prompt", True)
            if not cached:
                model.forget()
        said = model.speak(request.prompt, body["max_tokens"], salt, cached)
        return Reply(200, self._spoken(request, said))

    def _spoken(self, request: Request, said: Spoken) -> dict[str, Any]:
        chat = request.path.endswith("/chat/completions")
        choice: dict[str, Any] = {"finish_reason": "length", "index": 0}
        choice |= {"message": {"content": said.text}} if chat else {"text": said.text}
        if request.body.get("logprobs"):
            values = [place[token] for token, place in zip(said.tokens, said.places, strict=True)]
            if chat or self.kind == "cache_prompt":
                rows = zip(said.tokens, values, said.places, strict=True)
                choice["logprobs"] = {
                    "content": [
                        {
                            "token": t,
                            "logprob": v,
                            "top_logprobs": [{"token": k, "logprob": w} for k, w in p.items()],
                        }
                        for t, v, p in rows
                    ]
                }
            else:
                choice["logprobs"] = {
                    "tokens": said.tokens,
                    "token_logprobs": values,
                    "top_logprobs": said.places,
                }
        usage: dict[str, Any] = {
            "prompt_tokens": len(request.prompt.encode()),
            "completion_tokens": len(said.tokens),
        }
        if self.tells:
            usage["prompt_tokens_details"] = {"cached_tokens": said.cached}
        return {"model": "m", "choices": [choice], "usage": usage}


def _other(key: str, by: str) -> str:
    """Another key of as many digits."""
    drawn = int(hashlib.blake2b(by.encode(), digest_size=6).hexdigest(), 16)
    size = 10 ** len(key)
    number = int(key) if key.isdecimal() else 0
    return str((number + 1 + drawn % (size - 1)) % size).zfill(len(key))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

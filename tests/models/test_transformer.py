"""Models of transformers as sessions: the laws over many architectures, and what a folder, device or option can get wrong."""

from __future__ import annotations

import copy
import gc
import json
import logging
import shutil
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from nih.errors import ModelError, OutOfMemory
from nih.kernels import backend, linear
from nih.models import _cache
from nih.models._hf_config import position_limit
from nih.models.transformer import CachedSession, Options, TransformerModel, open_model
from nih.tokenizers.byte import ByteTokenizer
from tests.support import laws, tiny
from tests.support.families import CONFIGS, VOCABULARY


def test_a_mark_on_a_kv_cache_holds_no_tensor() -> None:
    session = tiny.session("llama")
    session.extend([tiny.subject("llama").prompt(0)])
    assert _cache.held_bytes(session.mark().state) == 0


def test_what_a_cache_keeps_beside_its_layers_is_rewound() -> None:
    """Qwen4-Exp hangs the positions it has read on the cache in transformers 5.17."""
    cache: Any = _cache.new_cache(tiny.config("llama"))
    assert _cache.sharing(cache) == "crop"
    cache.position_ids = torch.arange(5)
    assert _cache.sharing(cache) == "copy-part"
    mark = _cache.snapshot(cache)
    for _ in range(2):
        cache.position_ids += 1
        cache.later = torch.arange(3)
        assert _cache.restore(cache, mark) is cache
        assert cache.position_ids.tolist() == [0, 1, 2, 3, 4] and not hasattr(cache, "later")


def test_rewinding_and_reading_on_moves_no_kv() -> None:
    session = tiny.session("llama")
    ids = tiny.subject("llama").prompt(0)
    session.extend([ids[:60]])
    mark = session.mark()
    session.extend([ids[60:80]])
    buffers = [layer._key_buffer.data_ptr() for layer in session.cache.layers]
    session.rewind(mark)
    session.extend([ids[60:75]])
    assert [layer._key_buffer.data_ptr() for layer in session.cache.layers] == buffers


def test_buffers_are_filled_to_four_fifths_at_least() -> None:
    layer: Any = _cache.new_cache(tiny.config("llama")).layers[0]
    for _ in range(300):
        layer.update(torch.ones(1, 2, 7, 16), torch.ones(1, 2, 7, 16))
        length, room = layer.keys.shape[-2], layer._key_buffer.shape[-2]
        assert length <= room <= max(length, 1.25 * length)
    assert layer.get_seq_length() == 2100


def _model(name: str, **options: Any) -> TransformerModel:
    """A model that would have to be loaded from nowhere."""
    return TransformerModel(
        "nowhere", name, Options(**options), tiny.config(name), torch.device("cpu"), ByteTokenizer()
    )


def test_state_bytes_are_estimated_where_a_model_does_not_run_without_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(self: TransformerModel) -> Any:
        raise NotImplementedError("this operator has no meta kernel")

    exact = _model("llama").state_bytes(100)
    monkeypatch.setattr(TransformerModel, "_meta_model", failing)
    with caplog.at_level(logging.WARNING):
        assert _model("llama").state_bytes(100) == exact
        assert _model("mamba2").state_bytes(100) == 0
    assert "the state of llama is estimated from its config" in caplog.text


def test_state_bytes_follow_the_dtype() -> None:
    assert _model("llama", dtype="bfloat16").state_bytes(100) * 2 == _model("llama").state_bytes(100)


def test_unknown_caches_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    session = tiny.session("xlstm")
    with caplog.at_level(logging.WARNING):
        session.extend([tiny.subject("xlstm").prompt(0)])
        session.extend([tiny.subject("xlstm").prompt(1)])
    assert [record.message for record in caplog.records] == [
        "xLSTMForCausalLM keeps its state in xLSTMCache, which can only be copied whole: marks cost memory and time"
    ]


def test_running_out_of_memory_frees_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny.subject("llama")
    session = tiny.session("llama")
    session.extend([subject.prompt(0)])
    cache = weakref.ref(session.cache)
    forward = type(tiny.model("llama")).forward

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(type(tiny.model("llama")), "forward", failing)
    with pytest.raises(OutOfMemory):
        session.extend([subject.prompt(1)])
    gc.collect()
    assert cache() is None
    monkeypatch.setattr(type(tiny.model("llama")), "forward", forward)
    session.reset()
    session.extend([subject.prompt(0)])
    subject.same(session, subject.prompt(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba2"])
def test_half_precision_differs_from_one_go_by_rounding_only(name: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny.model(name)).to(dtype)

    def oracle(ids: Any) -> laws.Logits:
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
        values: laws.Logits = logits.float().numpy()
        return values

    def session() -> CachedSession:
        return CachedSession(model, ByteTokenizer(), torch.device("cpu"), frozenset(), tiny.CHUNK)

    rounding = 32 * float(torch.finfo(dtype).eps)
    subject = laws.Subject(session, oracle, VOCABULARY, rounding=rounding)
    laws.splits_do_not_matter(subject)
    laws.marks_survive_later_work(subject)


ROPE: list[tuple[Mapping[str, Any], int | None, int | None]] = [
    ({}, 2048, 2048),
    (
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}},
        8192,
        2048,
    ),
    ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 2048, 2048),
    (
        {"max_sequence_length": 8192, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        8192,
        2048,
    ),
    (
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 1024}},
        4096,
        1024,
    ),
    ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 4096, 2048),
    (
        {
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
            },
        },
        131072,
        4096,
    ),
    (
        {
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        131072,
        8192,
    ),
]


@pytest.mark.parametrize(("values", "limit", "trained"), ROPE)
def test_limit_follows_the_rope_scaling(
    values: Mapping[str, Any], limit: int | None, trained: int | None
) -> None:
    merged = {**CONFIGS["llama"][1], **copy.deepcopy(dict(values))}
    if "rope_parameters" in merged:
        merged["rope_parameters"]["rope_theta"] = 10000.0
    config = transformers.LlamaConfig(**merged)
    model = TransformerModel("nowhere", "x", Options(), config, torch.device("cpu"), ByteTokenizer())
    assert (model.limit, model.training_length) == (limit, trained)


def test_linear_scaling_of_an_unknown_number_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rope = {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}
    source = altered(folder, tmp_path / "copy", rope_parameters=rope)
    told = "without saying whether its 2048 positions count that; they are taken as the limit: --beyond-limit"
    with caplog.at_level(logging.WARNING):
        assert open_model(source, "x", Options(beyond_limit=True)).limit is None
        assert (
            open_model(
                altered(folder, tmp_path / "b", rope_parameters=rope | {"rope_type": "dynamic"}),
                "x",
                Options(),
            ).limit
            == 8192
        )
        clear = altered(folder, tmp_path / "c", rope_parameters=rope, max_sequence_length=8192)
        assert open_model(clear, "x", Options()).limit == 8192
        assert not caplog.records
        assert open_model(source, "x", Options()).limit == 2048
    assert told in caplog.text


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("gpt2", 512),
        ("gemma3_text", 2048),
        ("mamba2", None),
        ("mamba", None),
        ("recurrent_gemma", None),
        ("jamba", 2048),
    ],
)
def test_recurrent_models_have_no_limit(name: str, limit: int | None) -> None:
    assert position_limit(tiny.config(name)) == limit
    assert _model(name, beyond_limit=True).limit is None


def test_a_model_that_keeps_no_state_is_refused() -> None:
    config = transformers.OpenAIGPTConfig(vocab_size=256, n_embd=32, n_layer=1, n_head=2)
    model = TransformerModel("nowhere", "x", Options(), config, torch.device("cpu"), ByteTokenizer())
    with pytest.raises(ModelError, match="OpenAIGPTLMHeadModel keeps no state between forward calls"):
        model.identity()


def test_learned_positions_cannot_be_exceeded() -> None:
    with pytest.raises(ModelError, match="512 learned positions and none beyond; leave out --beyond-limit"):
        _model("gpt2", beyond_limit=True).session()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as `save_pretrained` writes it, without tokenizer files."""
    path = tmp_path_factory.mktemp("models") / "llama"
    tiny.model("llama").save_pretrained(path)
    return path


def altered(folder: Path, to: Path, **values: Any) -> str:
    """A copy of a model folder with other values in its config."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | values))
    return str(to)


def test_a_folder_opens_without_its_weights_and_answers_with_them(folder: Path) -> None:
    model = open_model(str(folder), "mine", Options())
    assert (model.name, model.tokenizer.name, model.limit) == ("mine", "byte", 2048)
    assert "parameters" not in model.identity()
    session = model.session()
    ids = tiny.subject("llama").prompt(0)
    session.extend([ids])
    assert (
        laws.difference(session.logits(), tiny.subject("llama").next_logits(ids))
        <= tiny.subject("llama").allowed
    )
    assert model.session()._model is session._model


def test_identity_tells_what_decides_the_answers(folder: Path, tmp_path: Path) -> None:
    model = open_model(str(folder), "mine", Options(attn_implementation="eager"))
    model.session()
    identity = dict(model.identity())
    digest = identity.pop("weights")
    assert identity == {
        "model": "mine",
        "class": "LlamaForCausalLM",
        "model_type": "llama",
        "device": "cpu",
        "device_name": "cpu",
        "dtype": "float32",
        "chunk": 640,
        "sharing": "crop",
        "attn_implementation": "eager",
        "linear_kernel": linear.serving()._asdict(),
        **(
            {"fused_layers": {"rms_norm": 7, "swiglu": 3, "rotary": 3}}
            if backend.choose_with_vectors().form == "cpu"
            else {}
        ),
        "parameters": sum(p.numel() for p in tiny.model("llama").parameters()),
        "tokenizer": "byte",
        "tokenizer_fingerprint": ByteTokenizer.fingerprint,
        "options": identity["options"],
    }
    json.dumps(identity)
    other = altered(folder, tmp_path / "copy")
    assert open_model(other, "copy", Options()).identity()["weights"] == digest
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert open_model(other, "copy", Options()).identity()["weights"] != digest


@pytest.mark.parametrize(("eos", "expected"), [(2, {2}), ([2, 7], {2, 7}), (None, set())])
def test_ends_of_text_come_from_the_generation_config(
    folder: Path, tmp_path: Path, eos: Any, expected: set[int]
) -> None:
    source = altered(folder, tmp_path / "copy", eos_token_id=None)
    (tmp_path / "copy" / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert open_model(source, "x", Options()).session()._eos == expected


def test_ends_of_text_fall_back_on_the_config(folder: Path, tmp_path: Path) -> None:
    source = altered(folder, tmp_path / "copy", eos_token_id=[5])
    (tmp_path / "copy" / "generation_config.json").unlink()
    assert open_model(source, "x", Options()).session()._eos == {5}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "no_such_type"}, "cannot read the config of .*no_such_type"),
        (
            {"model_type": "t5", "is_encoder_decoder": True},
            "model type `t5`, which transformers does not know as a causal",
        ),
        ({"model_type": "bert"}, "is an encoder .`bert`., which reads in both directions"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "is an encoder-decoder .`bart`."),
        (
            {"model_type": "x", "auto_map": {"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}},
            "--set trust_remote_code=true",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_one_sentence(
    folder: Path, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        open_model(altered(folder, tmp_path / "copy", **values), "x", Options())
    assert "\n" not in str(caught.value)


def test_a_broken_config_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    source = altered(folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read the config of"):
        open_model(source, "x", Options())


def test_a_broken_gguf_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and nothing more")
    with pytest.raises(ModelError, match=r"cannot read the config of `.*model.gguf`"):
        open_model(str(tmp_path / "model.gguf"), "x", Options())


def _without(name: str) -> Callable[[Path], None]:
    def remove(weights: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        del tensors[name]
        save_file(tensors, weights, metadata={"format": "pt"})

    return remove


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "cannot load the weights of .*no file named"),
        (lambda weights: weights.write_bytes(b"123"), "cannot load the weights of"),
        (
            _without("model.layers.1.mlp.up_proj.weight"),
            "lack 1 of the model's tensors .`model.layers.1.mlp.up_proj.weight` ....",
        ),
    ],
    ids=["missing", "torn", "incomplete"],
)
def test_weights_that_cannot_be_used_are_one_sentence(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    source = altered(folder, tmp_path / "copy")
    damage(tmp_path / "copy" / "model.safetensors")
    model = open_model(source, "x", Options())
    with pytest.raises(ModelError, match=said) as caught:
        model.session()
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    source = altered(folder, tmp_path / "copy", intermediate_size=128)
    with pytest.raises(ModelError, match="cannot load the weights of"):
        open_model(source, "x", Options()).session()


def test_tensors_that_are_not_the_models_are_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = altered(folder, tmp_path / "copy", num_hidden_layers=2)
    with caplog.at_level(logging.WARNING):
        open_model(source, "x", Options()).session()
    assert "9 tensors in the weights of" in caplog.text


def test_a_vocabulary_of_bytes_needs_no_tokenizer_but_others_do(folder: Path, tmp_path: Path) -> None:
    source = altered(folder, tmp_path / "copy", vocab_size=300)
    with pytest.raises(ModelError, match="no tokenizer in"):
        open_model(source, "x", Options())
    assert open_model(source, "x", Options(tokenizer="byte")).tokenizer.name == "byte"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("tpu", "unknown device `tpu`; type `--device cpu`"),
        ("cuda:99", "no CUDA device|there is no `cuda:99`"),
    ],
)
def test_devices_that_are_not_there(folder: Path, device: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        open_model(str(folder), "x", Options(device=device))


def test_chunks_have_at_least_one_token(folder: Path) -> None:
    with pytest.raises(ModelError, match="`chunk=0` must be at least 1"):
        open_model(str(folder), "x", Options(chunk=0))
    assert open_model(str(folder), "x", Options(chunk=7)).session().chunk == 7


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot read the config of `nobody/nothing`") as caught:
        open_model("nobody/nothing", "x", Options())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16", "float16"])
def test_dtype_on_a_cpu_is_float32_unless_asked(folder: Path, asked: Any) -> None:
    dtype = {"auto": "float32"}.get(asked, asked)
    model = open_model(str(folder), "x", Options(device="cpu", dtype=asked))
    assert model.identity()["dtype"] == dtype
    assert model.session()._model.dtype == getattr(torch, dtype)


def test_the_reference_transformer_allows_more_than_it_was_trained_on() -> None:
    model = open_model("transformer", "transformer", Options())
    assert model.limit == 131072 and model.training_length == 1024


def test_a_prompt_is_read_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny.session("llama", chunk=4)
    calls: list[int] = []
    forward = session._forward

    def counted(ids: torch.Tensor, keep: int) -> torch.Tensor:
        calls.append(len(ids))
        return forward(ids, keep)

    monkeypatch.setattr(session, "_forward", counted)
    session.extend([np.zeros(10, np.int32)])
    assert calls == [4, 3, 3]

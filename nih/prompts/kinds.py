"""The kinds of files that are known by their fields: public evaluations in the form in which their makers give them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nih.errors import UnknownName, UsageError
from nih.prompts import published
from nih.prompts.choices import choices
from nih.prompts.messages import Asked

_ANSWERS = ("answers", "answer", "expected", "outputs", "expected_answer", "target", "answer_nodes")


class Kind(NamedTuple):
    """How the rows of a known kind of file are read."""

    word: str
    """What `--set kind=` calls it."""
    name: str
    """What the user is told that it is."""
    needs: tuple[str, ...]
    """The fields by which it is known: all of them."""
    prompt: str
    answers: tuple[str, ...] = ()
    """The first of these fields that is there."""
    score: str = "contains"
    prefix: str = ""
    """Field with the beginning of the answer, where a row has it."""
    asks: str = ""
    """Field with the question; "" if that is the end of the prompt."""
    reads: published.Reader | None = None
    """Reads the answers and their place where fields of these names are not enough."""
    unwraps: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Makes a row of the fields that the others name."""
    mark: str = ""
    """A field that no other kind has, so that a row with it is nothing else."""
    only: Callable[[Mapping[str, Any]], bool] | None = None
    """What a row must be beside having the fields."""
    cased: bool = False
    """Whether its score tells small letters from capital ones."""
    note: str = ""
    """What the user should know of the score, behind the path of the file."""


_MRCR = ("random_string_to_prepend", "n_needles", "desired_msg_index", "total_messages", "n_chars")
_RULER_V2 = ("index", "question", "expected_answer", "length")
_LONGBENCH = ("_id", "domain", "sub_domain", "difficulty", "length", "question")

KINDS = (
    Kind(
        "lm-eval",
        "lm-eval's logged samples",
        ("doc", "arguments"),
        "{arguments.gen_args_0.arg_0}",
        ("doc.outputs", "doc.answers", "doc.answer", "doc.target", "target"),
        "substring",
        unwraps=published.lm_eval,
    ),
    Kind(
        "mrcr",
        "MRCR (openai/mrcr)",
        ("prompt", "answer", *_MRCR),
        "{prompt}",
        score="mrcr",
        reads=published.mrcr,
        cased=True,
        mark="random_string_to_prepend",
    ),
    Kind(
        "mrcr-nemo",
        "MRCR (NeMo-Skills)",
        ("question", "expected_answer", *_MRCR),
        "{question}",
        score="mrcr",
        reads=published.mrcr,
        cased=True,
        mark="random_string_to_prepend",
    ),
    Kind(
        "mrcr-v2",
        "MRCR v2 (google-deepmind/eval_hub)",
        ("queries", "answer", "view_ops", "context_len", "answer_context_position"),
        "{queries}",
        score="mrcr_v2",
        reads=published.mrcr_v2,
        cased=True,
        mark="view_ops",
    ),
    Kind(
        "graphwalks",
        "Graphwalks (openai/graphwalks)",
        ("prompt", "answer_nodes", "prompt_chars", "problem_type"),
        "{prompt}",
        score="graph_f1",
        reads=published.graphwalks,
        cased=True,
    ),
    Kind(
        "graphwalks",
        "Graphwalks (openai/graphwalks)",
        ("prompt", "answer", "prompt_chars", "problem_type"),
        "{prompt}",
        score="graph_f1",
        reads=published.graphwalks,
        cased=True,
    ),
    Kind(
        "threading",
        "needle-threading",
        ("haystack", "keys", "values", "question", "num_kv_pairs", "needle_depth", "num_needles"),
        "{haystack}\n{question}",
        score="exact",
        reads=published.threading,
        mark="num_kv_pairs",
    ),
    Kind(
        "oolong",
        "OOLONG-synth",
        ("context_window_id", "context_window_text", "question", "answer", "answer_type", "context_len"),
        "{context_window_text}\n\n{question}",
        score="oolong",
        reads=published.oolong,
        mark="context_window_text",
    ),
    # Joined, `input` and `answer_prefix` are the text that RULER's generator made before it took them apart.
    Kind("ruler", "RULER", ("input", "outputs"), "{input}", ("outputs",), "substring", "answer_prefix"),
    Kind(
        "ruler-nemo",
        "RULER (NeMo-Skills)",
        ("index", "question", "expected_answer", "length", "generation"),
        "{question}",
        ("expected_answer",),
        "substring",
        "generation",
    ),
    Kind(
        "ruler-v2-choice",
        "RULER v2 (NeMo-Skills), multiple choice",
        _RULER_V2,
        "{question}",
        score="choice",
        reads=published.ruler_v2_choice,
        only=published.is_lettered,
    ),
    Kind(
        "ruler-v2",
        "RULER v2 (NeMo-Skills)",
        _RULER_V2,
        "{question}",
        ("expected_answer",),
        "wer",
        note="does not say which of RULER v2's tasks it is, so it is scored by `wer`; type `--score wer_part` for the tasks of qa, and "
        "`--score wer_2steps` for mv_niah_medium",
    ),
    Kind(
        "babilong",
        "BABILong",
        ("input", "question", "target"),
        "{input}\n\nQuestion: {question}\nAnswer:",
        ("target",),
        "babilong",
        asks="question",
    ),
    Kind(
        "infinitebench",
        "InfiniteBench",
        ("context", "input", "answer"),
        "{context}\n\n{input}",
        ("answer",),
        "substring_any",
        asks="input",
    ),
    Kind(
        "longbench-v2",
        "LongBench v2",
        (*_LONGBENCH, "choice_A", "choice_B", "choice_C", "choice_D", "answer", "context"),
        "{context}\n\n{question}",
        ("answer",),
        "substring_any",
        asks="question",
    ),
    Kind(
        "context",
        "a context and a question",
        ("context", "question"),
        "{context}\n\n{question}",
        ("answers", "answer"),
        "substring_any",
        asks="question",
    ),
    Kind(
        "questions",
        "questions",
        ("question", "expected_answer"),
        "{question}",
        ("expected_answer",),
        "substring",
    ),
    Kind("messages", "conversations", ("messages",), "{messages}", _ANSWERS),
    Kind("conversations", "conversations", ("conversations",), "{conversations}", _ANSWERS),
    Kind("prompts", "prompts", ("prompt",), "{prompt}", _ANSWERS),
)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class FieldOptions:
    """The `--set` options of a file: which fields are used, the text that ends an answer (`\\n` for a line end), whether special
    tokens that a prompt spells are read as tokens or as text, which kind of file it is, and whether conversations go through the chat
    template, where there is one, or are asked as text.
    """

    prompt: str = ""
    answers: str = ""
    depth: str = ""
    stop: str = ""
    special: Literal["tokens", "text"] = field(default="tokens", metadata={"later": True})
    kind: str = field(default="", metadata={"later": True})
    messages: Literal["template", "text"] = field(default="template", metadata={"later": True})


def kind_of(whose: str, first: Mapping[str, Any], options: FieldOptions) -> Kind:
    """Return how a file is read: as typed, else by the fields of its first row. Raises UnknownName, UsageError."""
    known = _named(options.kind, first) if options.kind else _recognised(whose, first)
    if options.prompt and options.answers:
        score = known.score if known else "contains"
        return Kind("typed", "typed", (), template(options.prompt), (options.answers,), score)
    if known is None:
        raise UsageError(
            f"{whose} has rows of an unknown kind, with the fields {', '.join(f'`{key}`' for key in first)}; type which is which: "
            "`--set prompt=FIELD --set answers=FIELD`, or `--set kind=KIND`"
        )
    if options.prompt:
        known = known._replace(prompt=template(options.prompt), prefix="", asks="")
    if options.answers:
        return known._replace(answers=(options.answers,), reads=None)
    if known.unwraps:
        return _inside(known, first.get("doc"))
    if known.reads is None and len(choices(first)) > 1:
        return known._replace(name=f"multiple choice ({known.name})", score="choice")
    return known


def _fits(kind: Kind, row: Mapping[str, Any]) -> bool:
    return all(name in row for name in kind.needs) and (kind.only is None or kind.only(row))


def _named(word: str, first: Mapping[str, Any]) -> Kind:
    """Return the kind of this name, of two the one that fits. Raises UnknownName."""
    named = [kind for kind in KINDS if kind.word == word]
    if not named:
        raise UnknownName.of("kind of file", word, dict.fromkeys(kind.word for kind in KINDS))
    return next((kind for kind in named if _fits(kind, first)), named[0])


def _recognised(whose: str, first: Mapping[str, Any]) -> Kind | None:
    """Return the first kind that fits. Raises UsageError for a row that has what only one kind has, and not all of its fields."""
    if known := next((kind for kind in KINDS if _fits(kind, first)), None):
        if not known.mark and (other := _marked(first)):
            raise _incomplete(whose, other, first)
        return known
    if other := _marked(first):
        raise _incomplete(whose, other, first)
    return None


def _marked(row: Mapping[str, Any]) -> Kind | None:
    """Return the kind that a row without all its fields must be of: of several, that of which the fewest are missing."""
    marked = [kind for kind in KINDS if kind.mark and kind.mark in row]
    return min(marked, key=lambda kind: len(_missing(kind, row)), default=None)


def _missing(kind: Kind, row: Mapping[str, Any]) -> list[str]:
    return [name for name in kind.needs if name not in row]


def _incomplete(whose: str, kind: Kind, first: Mapping[str, Any]) -> UsageError:
    missing = ", ".join(f"`{name}`" for name in _missing(kind, first))
    return UsageError(
        f"{whose} has the field `{kind.mark}` of {kind.name}, but not its {missing}, so its kind is not certain; type `--set kind={kind.word}` "
        "to read it so, or another kind"
    )


def _inside(logged: Kind, doc: Any) -> Kind:
    """Return how a logged sample is read whose document is itself a row with a reader of its own."""
    own = next((k for k in KINDS if isinstance(doc, Mapping) and k.reads and _fits(k, doc)), None)
    if own is None or own.reads is None:
        return logged
    reader = own.reads

    def reads(values: Mapping[str, Any], asked: Asked, where: str) -> published.Reading:
        return reader(values["doc"], asked, f"`doc` of {where}")

    return logged._replace(name=f"{logged.name} ({own.name})", score=own.score, reads=reads, cased=own.cased)


def template(typed: str) -> str:
    """Return the text with names of fields in braces that `--set prompt=` means."""
    return unescaped(typed) if "{" in typed else f"{{{typed}}}"


def unescaped(typed: str) -> str:
    """Return typed text with its line ends and tabs."""
    return typed.replace("\\n", "\n").replace("\\t", "\t")

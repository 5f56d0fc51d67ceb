"""Rows in the formats of public evaluations, made up: their texts are none of their makers'."""

from __future__ import annotations

import hashlib
import json
from random import Random
from typing import Any

Row = dict[str, Any]

WORDS = "amber birch cedar dune ember fern grove heron iris juniper kelp larch moss nettle oak pine".split()


def prose(rng: Random, words: int) -> str:
    """Words without sense."""
    return " ".join(rng.choice(WORDS) for _ in range(words))


def mrcr(rng: Random, needles: int = 2, turns: int = 5) -> Row:
    """A row of openai/mrcr: the first message holds examples, then each request is followed by its text."""
    asks = ["Write a riddle about moss"] * needles + [f"Write a song about {word}" for word in WORDS[:turns]]
    rng.shuffle(asks)
    messages = [{"role": "user", "content": "Here are some examples of conversations."}]
    for ask in asks:
        messages += [
            {"role": "user", "content": ask},
            {"role": "assistant", "content": prose(rng, rng.randint(30, 50))},
        ]
    places = [1 + 2 * at for at, ask in enumerate(asks) if ask.endswith("moss")]
    wanted = rng.randrange(needles)
    string = "".join(rng.choices("ABCDEFabcdef0123456789", k=10))
    messages.append(
        {"role": "user", "content": f"Prepend {string} to riddle {wanted + 1} about moss. Nothing else."}
    )
    return {
        "prompt": json.dumps(messages),
        "answer": string + messages[places[wanted] + 1]["content"],
        "random_string_to_prepend": string,
        "n_needles": needles,
        "desired_msg_index": places[wanted],
        "total_messages": len(messages),
        "n_chars": sum(len(message["content"]) for message in messages),
        "date_added": "04-12-2025",
    }


def mrcr_nemo(rng: Random) -> Row:
    """The same as NeMo-Skills writes it."""
    row = mrcr(rng)
    renamed = {"question": row.pop("prompt"), "expected_answer": row.pop("answer"), "n_tokens": 400}
    return {**row, **renamed}


def mrcr_v2(rng: Random) -> Row:
    """A row of Google's MRCR v2, whose positions are counted in words here."""
    texts = [prose(rng, 40) for _ in range(6)]
    wanted, string = rng.randrange(6), "".join(rng.choices("abcdef0123456789", k=12))
    ask = f"User: Prepend {string} to the answer {wanted}.\n\nAssistant:"
    turns = "".join(f"User: Write a text about fern.\n\nAssistant: {text}\n\n" for text in texts)
    begins = len(turns[: turns.index(texts[wanted])].split())
    return {
        "queries": f"======== EXAMPLE 1 ========\n{turns}{ask}",
        "answer": f"{string}{texts[wanted]}",
        "context_len": len(f"{turns}{ask}".split()),
        "answer_token_count": 40,
        "view_ops": ask,
        "num_relevant": 6,
        "answer_context_position": str((begins, begins + 40)),
        "relevant_context_positions": "[(1, 41), (48, 88)]",
    }


def node(number: int) -> str:
    """The name of a node."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:10]


def graphwalks(rng: Random, kind: str = "parents", field: str = "answer_nodes") -> Row:
    """A row of openai/graphwalks, behind an example that has other edges between some of the same nodes."""
    edges = list({(node(rng.randrange(20)), node(rng.randrange(20))) for _ in range(40)})
    rng.shuffle(edges)
    asked = rng.choice(edges)[1 if kind == "parents" else 0]
    other = [(node(rng.randrange(20)), asked) for _ in range(3)]
    graphs = ["\n".join(f"{a} -> {b}" for a, b in each) for each in (other, edges)]
    if kind == "parents":
        nodes = sorted({a for a, b in edges if b == asked and a != asked})
        ask = f"Find the parents of node {asked}."
    else:
        nodes = sorted({b for a, b in edges if a == asked} - {asked})
        ask = f"Perform a BFS from node {asked} with depth 1."
    text = (
        f"Example:\nThe graph has the following edges:\n{graphs[0]}\n\nOperation:\nFind the parents of node {asked}.\n\n"
        f"Final Answer: [x]\n\nThe graph has the following edges:\n{graphs[1]}\n\nOperation:\n{ask}\n"
    )
    return {
        "prompt": text,
        field: nodes,
        "prompt_chars": len(text),
        "problem_type": kind,
        "date_added": "02-27-2026",
    }


def threading(rng: Random, needles: int = 1) -> Row:
    """A row of needle-threading: keys and values of a JSON text."""
    pairs = {f"{rng.getrandbits(64):016x}": f"{rng.getrandbits(64):016x}" for _ in range(25)}
    keys = rng.sample(sorted(pairs), needles)
    values = [pairs[key] for key in keys]
    return {
        "id": rng.randrange(1000),
        "haystack": json.dumps(pairs),
        "keys": keys[0] if needles == 1 else str(keys),
        "values": values[0] if needles == 1 else str(values),
        "question": f"Extract the value of the key. Key: {keys}\nCorresponding value: ",
        "context_length": 2000,
        "num_kv_pairs": 25,
        "repeat_number": 0,
        "needle_depth": "50" if needles == 1 else "N/A",
        "num_needles": needles,
        "needle_placement": "depthwise",
        "conditional_character": "N/A",
        "thread_length": 1,
        "thread_direction": "N/A",
        "num_threads": 0,
    }


def oolong(rng: Random) -> Row:
    """A row of OOLONG-synth, whose answer is a count, a label, a comparison or a date."""
    answer, kind = rng.choice(
        [
            (f"[{rng.randrange(50)}]", "ANSWER_TYPE.NUMERIC"),
            ("['spam']", "ANSWER_TYPE.LABEL"),
            ("['less common than']", "ANSWER_TYPE.COMPARISON"),
            (f"[datetime.date(2023, {rng.randint(1, 12)}, 5)]", "ANSWER_TYPE.DATE"),
        ]
    )
    return {
        "id": rng.randrange(10**6),
        "context_window_id": 7,
        "context_window_text": f"Lines follow.\n{prose(rng, 60)}",
        "context_window_text_with_labels": "not asked",
        "question": "What is asked? Give your final answer in the form 'Answer: X'.",
        "answer": answer,
        "answer_type": kind,
        "task": "TASK_TYPE.NUMERIC",
        "task_group": "counting",
        "dataset": "spam",
        "context_len": 1024,
    }


def ruler_nemo(rng: Random) -> Row:
    """A row of RULER as NeMo-Skills writes it."""
    value = str(rng.randrange(10**6, 10**7))
    return {
        "index": rng.randrange(500),
        "question": f"{prose(rng, 30)} The magic number is {value}. {prose(rng, 30)} What is the magic number?",
        "expected_answer": [value],
        "length": 90,
        "generation": " The magic number is",
    }


def ruler_v2(rng: Random) -> Row:
    """A row of RULER's second version: several values of one key."""
    values = [prose(rng, 3) for _ in range(4)]
    lines = "\n".join(f"One of the values is: {value}." for value in values)
    return {
        "index": rng.randrange(100),
        "question": f"{prose(rng, 30)}\n{lines}\nWhat are all the values?",
        "expected_answer": values,
        "length": 90,
    }


def ruler_v2_choice(rng: Random) -> Row:
    """A row of RULER's second version whose answer is a letter."""
    numbers = [str(number) for number in rng.sample(range(10**6, 10**7), 5)]
    lines = "\n\n".join(
        f"Question {number}: {prose(rng, 5)} A. {prose(rng, 1)} B. moss" for number in numbers
    )
    return {
        "index": rng.randrange(100),
        "question": f"{lines}\n\nSolve Question {rng.choice(numbers)}.",
        "expected_answer": rng.choice("AB"),
        "length": 90,
    }


def longbench_v2(rng: Random) -> Row:
    """A row of LongBench v2."""
    return {
        "_id": f"{rng.getrandbits(64):x}",
        "domain": "Code",
        "sub_domain": "Folder",
        "difficulty": "easy",
        "length": "short",
        "question": "What grows here?",
        **{f"choice_{letter}": WORDS[at] for at, letter in enumerate("ABCD")},
        "answer": rng.choice("ABCD"),
        "context": prose(rng, 60),
    }


def logged(row: Row, messages: list[dict[str, str]] | None = None) -> Row:
    """A logged sample of lm-eval whose document is a row; with messages as a chat server was sent them."""
    prompt: Any = row.get("prompt", "")
    if messages is not None:
        prompt = [json.dumps(messages)]
    return {
        "doc_id": 0,
        "doc": row,
        "target": str(row.get("answer", "")),
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n\n"], "max_gen_toks": 64}}},
        "resps": [["..."]],
        "filtered_resps": ["..."],
        "doc_hash": "0",
    }


MAKERS = {
    "mrcr": mrcr,
    "mrcr-nemo": mrcr_nemo,
    "mrcr-v2": mrcr_v2,
    "graphwalks": graphwalks,
    "threading": threading,
    "oolong": oolong,
    "ruler-nemo": ruler_nemo,
    "ruler-v2": ruler_v2,
    "ruler-v2-choice": ruler_v2_choice,
    "longbench-v2": longbench_v2,
}
"""By what `--set kind=` calls them."""


def rows(word: str, count: int = 6) -> list[Row]:
    """Rows of a kind, the same each time."""
    rng = Random(word)
    return [MAKERS[word](rng) for _ in range(count)]

"""What a chat template writes around the words of a user and of an assistant.

A template is a program of the model's maker. It is run with words that stand for the user's and the assistant's, and what it wrote is
split at them. Some templates want a content as text, others as a list of parts; some tell the date.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nih.deadline import ended_after
from nih.errors import ModelError, reason
from nih.types import ChatText

Messages = Sequence[Mapping[str, Any]]

CLOCK = "strftime_now"
"""What templates call the function that tells the date; the Clock is handed over under its name."""
_USER, _ANSWER, _SYSTEM = "XnihXuserXwordsX", "XnihXassistantXwordsX", "XnihXsystemXwordsX"
_NEXT = "XnihXnextXwordsX"
"""They stand for words while a template is rendered: letters only, so that no template alters them."""
_OURS = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "conversation",
        "documents",
        "messages",
        "return_dict",
    }
    | {"return_tensors", "tokenize", "tools", "truncation", "max_length", "padding", CLOCK}
)
"""Arguments of `apply_chat_template` that are no variables of a template."""
_MOST_SECONDS = 20.0
"""Most that filling in a template may take: templates are programs of strangers, and real ones take milliseconds."""


class Clock:
    """Tells a template the time of one moment, and remembers whether it was asked."""

    def __init__(self, moment: datetime.datetime) -> None:
        self.moment = moment
        self.told = False

    def now(self, tz: Any = None) -> Clock:
        """Return itself: it stands in for the class `datetime`, of which transformers asks what time it is."""
        return self

    def strftime(self, form: str) -> str:
        """Return the moment in a form of `strftime`."""
        self.told = True
        return self.moment.strftime(form)


class ChatTemplate:
    """The chat template of a tokenizer of transformers. Whatever a template raises is a ModelError of one sentence."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name

    def around(self, system: str, options: Mapping[str, Any]) -> ChatText:
        """Return what stands around the user's and the assistant's words.

        Raises ModelError if there is no template, or if it refuses the system message, leaves it out, or does not show the user's
        words exactly once.
        """
        self._check(options, "leave out --chat, or name one that has with `--tokenizer`")
        advice = "; leave out --system if it takes no system message" if system else ""
        parts = self._wants_parts(bool(system), options, advice)
        asked = _conversation(system, parts)
        before, after = self._split(asked, options, advice)
        answered = self._answered(asked, options, parts)
        return ChatText(before, after, *answered, *self._goes_on(asked, options, parts))

    def conversation(self, messages: Messages, options: Mapping[str, Any]) -> str:
        """Return the text of a whole conversation, up to where the assistant speaks. Raises ModelError."""
        self._check(options, "name one that has with `--tokenizer`")
        parts = self._wants_parts(messages[0]["role"] == "system", options, "")
        wrapped = [{**message, "content": _content(message["content"], parts)} for message in messages]
        return self._render(wrapped, options)

    def _check(self, options: Mapping[str, Any], advice: str) -> None:
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"the tokenizer `{self._name}` has no chat template; {advice}")
        taken = sorted(key for key in _OURS & options.keys() if not isinstance(options[key], Clock))
        if taken:
            typed = "--chat-date tells the date" if taken[0] == CLOCK else "nih decides it"
            raise ModelError(
                f"`--set chat.{taken[0]}` is no variable of a chat template ({typed}); leave it out"
            )

    def _wants_parts(self, system: bool, options: Mapping[str, Any], advice: str) -> bool:
        """Return whether contents have to be lists of parts. Raises ModelError if neither form shows all words."""
        failures: list[str] = []
        for parts in (False, True):
            try:
                text = self._render(_conversation(_SYSTEM if system else "", parts), options, advice)
            except ModelError as error:
                failures.append(str(error))
                continue
            if text.count(_USER) == 1 and (not system or _SYSTEM in text):
                return parts
            failures.append(self._lost(text, advice))
        raise ModelError(failures[0])

    def _lost(self, text: str, advice: str) -> str:
        shown = text.count(_USER)
        if shown != 1:
            return f"the chat template of `{self._name}` shows the user's words {shown} times, not once; leave out --chat"
        return f"the chat template of `{self._name}` does not show the system message{advice}"

    def _split(self, asked: Messages, options: Mapping[str, Any], advice: str) -> tuple[str, str]:
        text = self._render(asked, options, advice)
        before, shown, after = text.partition(_USER)
        if not shown or _USER in after:
            raise ModelError(self._lost(text, advice))
        return before, after

    def _answered(self, asked: Messages, options: Mapping[str, Any], parts: bool) -> tuple[str | None, str]:
        """Return what stands between the user's words and an assistant's, and behind those; (None, "") if the template does not say."""
        message = {"role": "assistant", "content": _content(_ANSWER, parts)}
        try:
            text = self._render([*asked, message], options, speaks=False)
        except ModelError:
            # Such a template takes no conversation that ends with the assistant.
            return None, ""
        _, shown, behind = text.partition(_USER)
        answer, said, close = behind.partition(_ANSWER)
        return (answer, close) if shown and said and _ANSWER not in close else (None, "")

    def _goes_on(self, asked: Messages, options: Mapping[str, Any], parts: bool) -> tuple[str, str]:
        """Return what stands between the user's and an assistant's words, and between those and the user's next; "" for what is not told."""
        said = [("assistant", _ANSWER), ("user", _NEXT)]
        try:
            text = self._render(
                [*asked, *({"role": r, "content": _content(w, parts)} for r, w in said)], options
            )
        except ModelError:
            return "", ""
        _, shown, behind = text.partition(_USER)
        reply, answered, behind = behind.partition(_ANSWER)
        following, again, _ = behind.partition(_NEXT)
        return (reply, following) if shown and answered and again else ("", "")

    def _render(
        self, messages: Messages, options: Mapping[str, Any], advice: str = "", speaks: bool = True
    ) -> str:
        """Return what the template writes; with `speaks`, up to where the assistant speaks. Raises ModelError."""
        variables = {key: value for key, value in options.items() if not isinstance(value, Clock)}
        try:
            with _told(options.get(CLOCK)), ended_after(_MOST_SECONDS):
                text: str = self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=speaks, **variables
                )
        # A template raises what its author wrote, or any of Jinja's errors; its loops may be endless.
        except Exception as error:
            raise ModelError(
                f"the chat template of `{self._name}` cannot be filled in ({reason(error)}){advice}"
            ) from error
        return text


@contextmanager
def _told(clock: Any) -> Iterator[None]:
    """Let templates be told the clock's time. transformers hands them no function but its own, which asks its module's `datetime`."""
    from transformers.utils import chat_template_utils

    asked = vars(chat_template_utils)
    own = asked.get("datetime")
    if own is None or not isinstance(clock, Clock):
        yield
        return
    asked["datetime"] = clock
    try:
        yield
    finally:
        asked["datetime"] = own


def _conversation(system: str, parts: bool) -> list[dict[str, Any]]:
    """Return the messages with which a frame is rendered."""
    first = [{"role": "system", "content": _content(system, parts)}] if system else []
    return [*first, {"role": "user", "content": _content(_USER, parts)}]


def _content(text: str, parts: bool) -> Any:
    return [{"type": "text", "text": text}] if parts else text

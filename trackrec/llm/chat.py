"""Text segments to token ids in the model's chat format. User data can never produce a control token."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from trackrec.runtime.errors import SettingError, reason

_CONTENT = "@@content@@"
_NO_SYSTEM = "system_prompt: the model's chat template takes no system turn"
_NO_SYSTEM_FIX = "Leave the key at null."
_DAY = date(2025, 1, 1)
# Without a thought the first token of the answer is the answer.
_TEMPLATE_KWARGS = {"enable_thinking": False}
_THOUGHT = re.compile(r"[<\[◁](/?)(?:\w+:)?(?:think|thinking|thought|reasoning)[>\]▷]", re.IGNORECASE)
_YES_FORMS = ("Yes", "yes", "YES")
_NO_FORMS = ("No", "no", "NO")


class LabelTokens(NamedTuple):
    """Token ids whose probability counts as an answer; the first of each list is the training target."""

    yes: list[int]
    no: list[int]


class ChatEncoder:
    """Encodes one user turn and the opening of the assistant's turn.

    Segments are tokenized separately: prompts that share leading segments share leading tokens, packed or not.

    Args:
        tokenizer: a transformers tokenizer; its chat template is used where it has one.
        ends: further end-of-text tokens, from the model's generation settings; ids that the tokenizer treats as
            ordinary text are ignored.
        system: text of the system turn; None leaves it to the template. Without a template it starts the prompt.
        key: the config key of the backbone, for errors.
        template_kwargs: variables of the chat template, added to ``enable_thinking: false``.

    Raises:
        SettingError: the tokenizer has no end-of-text token; its template rejects a system turn (Gemma's does), doesn't
            show the user's text exactly once, doesn't know a variable, or ends the prompt inside a thought.

    Attributes:
        eos_id: the end-of-text token of training texts.
    """

    def __init__(
        self,
        tokenizer: Any,
        ends: Iterable[int] = (),
        system: str | None = None,
        key: str = "backbone",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._key = key
        self._check_kwargs(template_kwargs or {})
        self._kwargs = {**_TEMPLATE_KWARGS, **(template_kwargs or {})}
        opening, closing = self._frame(system)
        # The frame isn't user data, so its control tokens are encoded as such.
        self.opening = tokenizer(opening, add_special_tokens=not tokenizer.chat_template).input_ids
        self.closing = tokenizer(closing, add_special_tokens=False).input_ids
        eos = tokenizer.eos_token_id
        if eos is None:
            raise SettingError(f"{key}.model: the tokenizer {tokenizer.name_or_path!r} names no end-of-text token.")
        self.eos_id: int = eos
        self._ends = frozenset(ends) & frozenset(tokenizer.all_special_ids)

    def _check_kwargs(self, given: Mapping[str, Any]) -> None:
        """Check that the template reads every variable, and that none is an argument that is set here."""
        if not given:
            return
        key = f"{self._key}.chat_template_kwargs"
        if not self.tokenizer.chat_template:
            raise SettingError(
                f"{key}: the tokenizer {self.tokenizer.name_or_path!r} has no chat template. Leave the key at null."
            )
        template = self.tokenizer.get_chat_template()
        reserved = {"messages", "strftime_now", *inspect.signature(self.tokenizer.apply_chat_template).parameters}
        for name in given:
            if name in reserved or not re.search(rf"\b{re.escape(name)}\b", template):
                why = "is set by trackrec" if name in reserved else "is no variable of the model's chat template"
                raise SettingError(f"{key}: {name!r} {why}. Leave it out; the template says which variables it reads.")

    def _frame(self, system: str | None) -> tuple[str, str]:
        """The text around the user's content in the model's own chat template."""
        if not self.tokenizer.chat_template:
            return f"{system}\n\n" if system else "", "\n\nAnswer: "
        user = {"role": "user", "content": _CONTENT}
        prompt, fault = self._render([user] if system is None else [{"role": "system", "content": system}, user])
        opening, _, closing = prompt.partition(_CONTENT)
        if system is not None and (fault or system.strip() not in opening):
            self._frame(None)  # raises if the system turn isn't what the template can't show
            raise SettingError(f"{self._key}.{_NO_SYSTEM} ({fault or 'it leaves the turn out'}). {_NO_SYSTEM_FIX}")
        name = f"{self._key}.model: the chat template of {self.tokenizer.name_or_path!r}"
        if fault:
            raise SettingError(f"{name} can't show a prompt: {fault}. Choose another model.")
        thoughts = list(_THOUGHT.finditer(closing))
        if thoughts and not thoughts[-1].group(1):
            raise SettingError(
                f"{name} ends the prompt inside a thought ({thoughts[-1].group()}), where the validator's answer would "
                f"be read. Switch it off in {self._key}.chat_template_kwargs, if the template has a variable for that "
                "(such as enable_thinking: false, the default), or choose a model that answers without a thought."
            )
        return opening, closing

    def _render(self, turns: list[dict[str, str]]) -> tuple[str, str]:
        """The prompt of some turns, or why there is none.

        The content of a turn is a text; for templates that loop over its parts (multimodal ones) a list of one part.
        """
        from jinja2 import TemplateError

        faults = []
        parts: list[dict[str, Any]] = [
            {**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns
        ]
        for given in (turns, parts):
            try:
                prompt: str = self.tokenizer.apply_chat_template(
                    given,
                    tokenize=False,
                    add_generation_prompt=True,
                    # With today's date in the template, every prompt of a run would change at midnight.
                    strftime_now=lambda pattern: _DAY.strftime(pattern),
                    **self._kwargs,
                )
            except (TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
                faults.append(reason(error))
                continue
            if (count := prompt.count(_CONTENT)) == 1:
                return prompt, ""
            faults.append(f"it shows the user's text {count} times")
        return "", f"{faults[0]}; given as a list of parts: {faults[1]}" if len(set(faults)) > 1 else faults[0]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a generated text."""
        return self._ends | {self.eos_id}

    def encode_data(self, text: str) -> list[int]:
        """Token ids of untrusted text: ``<|im_end|>`` in a title becomes the characters, not the token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def encode_segments(
        self, segments: Sequence[str], known: dict[str, list[int]] | None = None, prefilled: int = 0
    ) -> list[list[int]]:
        """One list of ids per segment; the frame is added to the first segment and the last one of the user's turn.

        Args:
            segments: the prompt's text, in order.
            known: a cache of segment ids from earlier calls; new segments are added to it.
            prefilled: how many of the last segments belong to the assistant's turn; must be fewer than all.
        """
        known = {} if known is None else known
        for segment in segments:
            if segment not in known:
                known[segment] = self.encode_data(segment)
        ids = [known[segment] for segment in segments]
        ids[0] = [*self.opening, *ids[0]]
        last = len(ids) - 1 - prefilled
        ids[last] = [*ids[last], *self.closing]
        return ids

    def encode_prompt(self, segments: Sequence[str]) -> list[int]:
        """The whole prompt as one list of ids."""
        return [token for ids in self.encode_segments(segments) for token in ids]

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a finished response, with the end-of-text token."""
        return [*self.encode_data(text), self.eos_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without control tokens and surrounding white space."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    def label_tokens(self) -> LabelTokens:
        """All forms of Yes and No that are one token; if a label has none, the first token of each form.

        Raises:
            SettingError: Yes and No begin with the same token, so that one position can't tell them apart.
        """
        yes, no = self._forms(_YES_FORMS), self._forms(_NO_FORMS)
        if set(yes) & set(no):
            raise SettingError(
                f"{self._key}.model: the tokenizer {self.tokenizer.name_or_path!r} starts Yes and No with the same "
                f"token ({sorted(set(yes) & set(no))}): one answer position can't tell them apart. Use another model."
            )
        return LabelTokens(yes, no)

    def _forms(self, words: Sequence[str]) -> list[int]:
        encoded = [self.encode_data(form) for word in words for form in (word, f" {word}")]
        single = [ids[0] for ids in encoded if len(ids) == 1]
        first = [self.encode_data(word)[0] for word in words]
        return list(dict.fromkeys(single or first))

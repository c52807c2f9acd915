"""What the arms of a run are called, in the terminal as on the page, and in which order they stand."""

from __future__ import annotations

VALIDATOR_NAMES = {
    "validator/untuned": "V untuned, no RecCoT",
    "validator/plain": "V tuned, no RecCoT",
    "validator/reccot": "V tuned, RecCoT",
}
_MEANS = {"item_mean": "item mean", "user_mean": "user mean", "item_user": "item mean + user mean"}
_CLASSIC_NAMES = {"logistic": "logistic regression", "lightgbm": "LightGBM"}
_TEXTS = {
    "none": "no text",
    "reccot": "RecCoT",
    "shuffled": "another user's RecCoT",
    "random": "random vectors",
    "prompt": "the history itself",
    "plain": "V without RecCoT",
    "untuned": "the untuned model's text",
    "teacher": "the teacher's RecCoT",
}
_WHOLE, _PARTS = {**_MEANS, **VALIDATOR_NAMES}, {**_TEXTS, **_CLASSIC_NAMES}


def text_name(arm: str) -> str:
    """What is read in an arm: ``the history itself`` of ``prompt``; several texts are joined by ``+``.

    A classic model goes by its own name, and a part that has none by the arm's.
    """
    if arm.startswith("reccot@"):
        return f"RecCoT for {float(arm.split('@')[1]):.0%} of the users"
    return " + ".join(_PARTS.get(part, part) for part in arm.split("+"))


def arm_name(arm: str, net: str) -> str:
    """The arm in full: ``DIN + RecCoT`` of ``reccot``, ``logistic regression, no text`` of ``logistic``."""
    if arm in _WHOLE:
        return _WHOLE[arm]
    if arm in _CLASSIC_NAMES:
        return f"{_CLASSIC_NAMES[arm]}, no text"
    if arm.partition("+")[0] in _CLASSIC_NAMES:
        return text_name(arm)
    return f"{net}, no text" if arm == "none" else f"{net} + {text_name(arm)}"


def arm_order(arm: str) -> tuple[int, int, int, str]:
    """A key to sort arms by: means, the net, the classic models, V; each without text first, then by its texts."""
    if arm in _MEANS:
        return 0, list(_MEANS).index(arm), 0, arm
    if arm in VALIDATOR_NAMES:
        return 3, list(VALIDATOR_NAMES).index(arm), 0, arm
    model, _, text = arm.partition("+")
    if model in _CLASSIC_NAMES:
        return 2, list(_CLASSIC_NAMES).index(model), _place(text or "none"), arm
    return 1, _place(arm), 0, arm


def _place(text: str) -> int:
    return list(_TEXTS).index(text) if text in _TEXTS else len(_TEXTS)

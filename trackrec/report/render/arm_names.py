"""What the arms of a run are called, in the terminal as on the page, and in which order they stand."""

from __future__ import annotations

from trackrec.ctr.arms.arm import CLASSICS, MEANS, VALIDATORS, Arm

_WHOLE = {
    "item_mean": "item mean",
    "user_mean": "user mean",
    "item_user": "item mean + user mean",
    "validator/untuned": "V untuned, no RecCoT",
    "validator/plain": "V tuned, no RecCoT",
    "validator/reccot": "V tuned, RecCoT",
}
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


def text_name(arm: str) -> str:
    """What is read in an arm: ``the history itself`` of ``prompt``; several texts are joined by ``+``.

    A classic model goes by its own name.
    """
    parsed = Arm.parse(arm)
    if parsed.coverage < 1:
        return f"RecCoT for {parsed.coverage:.0%} of the users"
    texts = [_TEXTS[text] for text in parsed.texts]
    if parsed.model in CLASSICS:
        return " + ".join([_CLASSIC_NAMES[parsed.model], *texts])
    return " + ".join(texts) or _TEXTS["none"]


def arm_name(arm: str, net: str) -> str:
    """The arm in full: ``DIN + RecCoT`` of ``reccot``, ``logistic regression, no text`` of ``logistic``."""
    if arm in _WHOLE:
        return _WHOLE[arm]
    parsed = Arm.parse(arm)
    model = _CLASSIC_NAMES.get(parsed.model, net)
    if not parsed.texts:
        return f"{model}, no text"
    return text_name(arm) if parsed.model in CLASSICS else f"{net} + {text_name(arm)}"


def arm_order(arm: str) -> tuple[int, int, int, str]:
    """A key to sort arms by: means, the net, the classic models, V; each without text first, then by its texts."""
    parsed = Arm.parse(arm)
    if parsed.model == "mean":
        return 0, MEANS.index(arm), 0, arm
    if parsed.model == "validator":
        return 3, VALIDATORS.index(arm), 0, arm
    place = list(_TEXTS).index(parsed.text) if parsed.coverage == 1 and parsed.text in _TEXTS else len(_TEXTS)
    return (1, place, 0, arm) if parsed.model == "net" else (2, CLASSICS.index(parsed.model), place, arm)

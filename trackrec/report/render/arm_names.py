"""Names and order of a run's arms, the same in the terminal and on the page."""

from __future__ import annotations

from trackrec.ctr.arms.arm import CLASSICS, MEANS, VALIDATORS, Arm
from trackrec.recipe.names import PLAIN, in_comparison, in_round

_FULL_NAMES = {
    "item_mean": "item mean",
    "user_mean": "user mean",
    "item_user": "item mean + user mean",
    "validator/untuned": "V untuned, no RecCoT",
    "validator/plain": "V tuned, no RecCoT",
    "validator/other": "V tuned, another user's RecCoT",
    "validator/v-facts": "V tuned, facts",
    "validator/v-titles": "V tuned, more titles",
    "validator/v-whole": "V tuned, the whole history",
    "validator/v-teacher": "V tuned, the teacher's text",
    "validator/v-untuned": "V tuned, the untuned model's text",
    "validator/reccot": "V tuned, RecCoT",
}
_CLASSIC_NAMES = {"logistic": "logistic regression", "lightgbm": "LightGBM"}
_TEXTS = {
    "none": "no text",
    "reccot": "RecCoT",
    "shuffled": "another user's RecCoT",
    "random": "random vectors",
    "prompt": "the history itself",
    "facts": "counts and kinds",
    "plain": "V without RecCoT",
    "untuned": "the untuned model's text",
    "teacher": "the teacher's RecCoT",
}


def text_name(arm: str) -> str:
    """The name of an arm's text: ``the history itself`` for ``prompt``; several texts are joined by ``+``.

    For a classic model the name of the model comes first. An arm without statistics of what the user rated says so.
    """
    parsed = Arm.parse(arm)
    if parsed.coverage < 1:
        return f"RecCoT for {parsed.coverage:.0%} of the users{_end(parsed)}"
    texts = [_TEXTS[text] for text in parsed.texts]
    if parsed.model in CLASSICS:
        texts = [_CLASSIC_NAMES[parsed.model], *texts]
    return (" + ".join(texts) or _TEXTS["none"]) + _end(parsed)


def arm_name(arm: str, net: str) -> str:
    """The full name of an arm: ``DIN + RecCoT`` for ``reccot``, ``logistic regression, no text`` for ``logistic``."""
    if arm in _FULL_NAMES:
        return _FULL_NAMES[arm]
    parsed = Arm.parse(arm)
    model = _CLASSIC_NAMES.get(parsed.model, net)
    if not parsed.texts:
        return f"{model}, no text{_end(parsed)}"
    return text_name(arm) if parsed.model in CLASSICS else f"{net} + {text_name(arm)}"


def _end(arm: Arm) -> str:
    return "" if arm.statistics else ", no user statistics"


def validator_place(arm: str, rounds: int) -> tuple[str, int, str]:
    """Stage, round and arm of the metrics of an arm of V on validation rows."""
    name = arm.removeprefix("validator/")
    if name == "reccot":
        return in_round(rounds, "evaluate"), rounds, "tuned"
    if name == "other":
        return in_round(rounds, "evaluate"), rounds, "other"
    read = name.removeprefix("v-") if name.startswith("v-") else PLAIN
    return in_comparison(read, "evaluate"), -1, name


def arm_order(arm: str) -> tuple[int, int, int, str]:
    """A sort key for arms: means, the net, classic models, the validator; each without text first, then by texts.

    An arm without statistics follows the same arm with them.
    """
    parsed = Arm.parse(arm)
    if parsed.model == "mean":
        return 0, MEANS.index(arm), 0, arm
    if parsed.model == "validator":
        return 3, VALIDATORS.index(arm), 0, arm
    text = list(_TEXTS).index(parsed.text) if parsed.coverage == 1 and parsed.text in _TEXTS else len(_TEXTS)
    return (1, text, 0, arm) if parsed.model == "net" else (2, CLASSICS.index(parsed.model), text, arm)

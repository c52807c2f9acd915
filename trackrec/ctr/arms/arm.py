"""The arms of the comparison: each is a model and the texts that it reads.

An arm is written as a name in ``ctr.arms``, in the predictions and metrics tables and in ``--arm``. Only `Arm.parse`
reads such a name:

==========================  =============================================================================
``none``                    the CTR net without any text
``reccot``                  the net with the RecCoT
``facts``                   the net with what counting says of the history, in as many words as a RecCoT has
``reccot+prompt``           the net with several texts, their vectors end to end
``reccot@0.5``              the net with the RecCoT, for half of the users
``logistic``                a classic model on the net's dense features, without text
``lightgbm+reccot``         a classic model with the principal components of a text
``item_mean``               a mean of the ratings
``reccot/no_stats``         the net with the RecCoT, and of its dense features those of the item only; so for all
                            above but means, ``item_mean`` having no others
``validator/reccot``        the validator (V); ``validator/plain`` and ``validator/untuned`` read no text,
                            ``validator/v-facts`` and its like what ``loop.comparisons`` says
==========================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from trackrec.runtime.errors import SettingError

MEANS = ("item_mean", "user_mean", "item_user")
CLASSICS = ("logistic", "lightgbm")
VALIDATORS = (
    "validator/untuned",
    "validator/plain",
    "validator/other",
    *(f"validator/v-{reads}" for reads in ("facts", "titles", "whole", "teacher", "untuned")),
    "validator/reccot",
)
# plain: V's log-odds without any text, where texts are used through V's log-odds.
# prompt and facts describe the user without a language model.
PLACEBOS = ("shuffled", "random", "prompt", "facts", "plain")
COMPARATORS = ("untuned", "teacher")
ARMS = ("none", "reccot", *PLACEBOS, *COMPARATORS)
NO_STATS = "/no_stats"
_DERIVED = ("shuffled", "random")  # made from the vectors or log-odds of the RecCoT
_FIELDS = ("reccot", "prompt", "facts", *COMPARATORS)
_SCORED = ("reccot", "plain", "shuffled")  # V scores rows for them with ctr.text.use: log_odds


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: as it is written.
        model: what predicts: ``net``, ``mean``, ``validator``, or the name of a classic model.
        texts: the texts it reads, in the order in which their vectors are joined; empty without text.
        coverage: share of the users who keep their text.
        statistics: whether it reads statistics of what the user rated.
    """

    name: str
    model: str = "net"
    texts: tuple[str, ...] = ()
    coverage: float = 1.0
    statistics: bool = True

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(name: str) -> Arm:
        """The arm of a name.

        Raises:
            ValueError: no arm has this name.
        """
        if name in MEANS:
            return Arm(name, "mean")
        if name in VALIDATORS:
            return Arm(name, "validator", ("reccot",) if name == "validator/reccot" else ())
        if name.endswith(NO_STATS):
            arm = Arm.parse(name.removesuffix(NO_STATS))
            if arm.model in ("mean", "validator") or not arm.statistics:
                raise ValueError(f"no arm {name!r}")
            return replace(arm, name=name, statistics=False)
        full_text, at, share = name.partition("@")
        head, _, rest = full_text.partition("+")
        if head == "logistic" or head == "lightgbm":
            return Arm(name, head, _texts(name, rest) if rest else ())
        texts = () if full_text == "none" else _texts(name, full_text)
        return Arm(name, "net", texts, _share(name, share) if at else 1.0)

    @property
    def text(self) -> str:
        """The texts as one name: ``reccot+prompt``; ``none`` without text."""
        return "+".join(self.texts) or "none"

    @property
    def suffix(self) -> str:
        """The end of the names of the arms with the same dense features."""
        return "" if self.statistics else NO_STATS

    @property
    def source(self) -> str:
        """The texts that its texts come from: ``shuffled`` and ``random`` are made from ``reccot``."""
        return "reccot" if self.text in _DERIVED else self.text

    @property
    def scored_as(self) -> str:
        """The texts that V reads for it, where texts are used through V's log-odds."""
        return self.text if self.text == "shuffled" else self.source

    @property
    def is_placebo(self) -> bool:
        """Whether no language model described its user in what it reads."""
        return self.text in PLACEBOS

    @property
    def is_drawn(self) -> bool:
        """Whether chance decides what it reads: the shuffle, the random vectors, or which users keep their text."""
        return self.text in _DERIVED or self.coverage < 1


def parse_arms(names: Sequence[str], key: str = "ctr.arms") -> list[Arm]:
    """The arms that a configuration names for the nets.

    Args:
        names: as they were typed.
        key: the key they were typed under, for errors.

    Raises:
        SettingError: an arm is unknown, isn't one of a net, or there is none.
    """
    unknown = [name for name in names if not _is_configurable(name)]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise SettingError(
            f"{key} must be among {', '.join(ARMS)}, or joined texts such as reccot+prompt, each also with "
            f"{NO_STATS} at its end, got {got}."
        )
    return [Arm.parse(name) for name in names]


def text_sources(names: Iterable[str]) -> set[str]:
    """The single texts that arms of the nets read (``reccot``, ``shuffled``, ``prompt``); ``none`` without text."""
    return {field for name in names for field in Arm.parse(name).texts or ("none",)}


def scored_arms(names: Iterable[str]) -> list[str]:
    """The arms for which V scores rows with ``ctr.text.use: log_odds``; ``random`` is made from those of ``reccot``."""
    arms = [Arm.parse(name) for name in names]
    sources = {arm.source for arm in arms} | {arm.text for arm in arms if arm.text == "shuffled"}
    return [arm for arm in _SCORED if arm in sources]


def _is_configurable(name: str) -> bool:
    try:
        arm = Arm.parse(name)
    except ValueError:
        return False
    return arm.model == "net" and arm.coverage == 1


def _texts(name: str, text: str) -> tuple[str, ...]:
    joined = tuple(text.split("+"))
    if text in ARMS[1:] or (len(set(joined)) == len(joined) > 1 and all(part in _FIELDS for part in joined)):
        return joined
    raise ValueError(f"no arm {name!r}")


def _share(name: str, share: str) -> float:
    try:
        value = float(share)
    except ValueError:
        raise ValueError(f"no arm {name!r}") from None
    if not 0 < value < 1:
        raise ValueError(f"no arm {name!r}")
    return value

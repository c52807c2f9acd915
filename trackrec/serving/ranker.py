"""Answers a user's request with the nets of a bundle; everyone gets an answer.

    ranker = Ranker(open_bundle(path))
    answers = ranker.answer(state, ["i1", "i2"])    # state: trackrec.serving.users.UserState
    answers.p, answers.answered_by                  # (N,) float32, (N,) names

Who answers, from the best to the last:

1. the bundle's first net, named by its arm (``reccot``), whom it can: users with a text, or everyone where it was
   trained on rows without one;
2. the net without text (``none``), where the bundle holds it;
3. ``item_user``: like-rates of the item and of the user's newest ratings, added as evidence;
4. ``item_mean``: the item's like-rate;
5. ``base_rate``: the like-rate of everything, for an item that the catalogue doesn't hold.

Nets answer a user without any rating only if they were trained on such rows (``Bundle.cold``). Nothing here imports
torch.

Letters: N items of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackrec.serving.bundle import Bundle, Net
from trackrec.serving.encoder import RequestEncoder
from trackrec.serving.ladder import BASE_RATE, ITEM_MEAN, ITEM_USER, item_user
from trackrec.serving.users import UserState

# Ten thousand candidates need no more memory than these. A thousand take as long at once, and half longer in 64s.
ROWS_AT_ONCE = 512


class Answers(NamedTuple):
    """Answers to N items, in their order.

    Attributes:
        p: (N,) P(like).
        answered_by: (N,) who answered; see the module.
    """

    p: NDArray[np.float32]
    answered_by: list[str]


class Ranker:
    """The open nets of a bundle.

    Args:
        bundle: an open one.
        threads: of onnxruntime; more than one makes the requests of a busy server wait for one another.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self.bundle, self.encoder = bundle, RequestEncoder(bundle)
        self._sessions: dict[str, Any] = {
            net.file: onnxruntime.InferenceSession(str(bundle.path / net.file), options, providers=providers)
            for net in bundle.nets
        }
        logits = bundle.item_statistics[:, 0].astype(np.float64)
        self._item_rates = 1.0 / (1.0 + np.exp(-logits))

    def net_for(self, user: UserState) -> Net | None:
        """The net that answers a user; None where none can."""
        if not self.bundle.cold and not self._has_rating(user):
            return None
        for net in self.bundle.nets:
            if not net.text or net.gaps or user.text is not None:
                return net
        return None

    def answer(self, user: UserState, item_ids: Sequence[str], without_text: bool = False) -> Answers:
        """P(like) of N items.

        Args:
            user: the state; `Bundle.stranger` for a user whom nobody knows.
            item_ids: (N,) any items.
            without_text: answer as if the user had no text.
        """
        if without_text:
            user = user.with_text(None)
        known = self.encoder.item_rows(item_ids) > 0
        p = np.full(len(item_ids), self.bundle.base_rate, np.float32)
        if not known.any():
            return Answers(p, [BASE_RATE] * len(item_ids))
        asked = [item for item, is_known in zip(item_ids, known, strict=True) if is_known]
        net = self.net_for(user)
        if net is not None:
            p[known], name = self._net_answers(net, user, asked), net.arm
        else:
            p[known], name = self._statistics(user, asked)
        return Answers(p, [name if is_known else BASE_RATE for is_known in known.tolist()])

    def _net_answers(self, net: Net, user: UserState, items: Sequence[str]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(items), ROWS_AT_ONCE):
            inputs = self.encoder.inputs(user, items[start : start + ROWS_AT_ONCE])
            (part,) = self._sessions[net.file].run(["p"], self.encoder.of_net(net, inputs))
            parts.append(part)
        p: NDArray[np.float32] = np.concatenate(parts)
        return p

    def _statistics(self, user: UserState, items: Sequence[str]) -> tuple[NDArray[np.float64], str]:
        rates = self._item_rates[self.encoder.item_rows(items)]
        newest = [rating for rating in user.ratings[-self.bundle.recent_len :] if rating is not None]
        if self.bundle.history_statistics == "none" or not newest:
            return rates, ITEM_MEAN
        likes = sum(rating > self.bundle.scale.threshold for rating in newest)
        n, liked = np.array([float(len(newest))]), np.array([float(likes)])
        return item_user(rates, n, liked, self.bundle.base_rate), ITEM_USER

    def _has_rating(self, user: UserState) -> bool:
        return any(item in self.bundle.item_rows for item in user.items[-self.bundle.recent_len :])

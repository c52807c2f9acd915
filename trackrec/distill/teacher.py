"""Teachers, which write the first RecCoTs."""

from __future__ import annotations

import abc
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Rated, counted, fold, history_segment, leanings, newest, reccot_segments
from trackrec.runtime.errors import SettingError, TrackRecError, reason
from trackrec.storage.atomic import stable_hash


class TeacherError(TrackRecError, ValueError):
    """A teacher has to stop; the message says which answers are saved and what to do."""


class TeacherRequest(NamedTuple):
    """One history to write about; ``prompt`` is the generator's (G's) prompt, built from the history if empty."""

    history_id: str
    user_id: str
    history: Sequence[Rated]
    prompt: Sequence[str] = ()

    def segments(self, words: PromptSettings) -> list[str]:
        """The prompt for a language model: the one that G will see for this history."""
        return list(self.prompt) or reccot_segments(history_segment(self.history, words), words)


class TeacherTexts(NamedTuple):
    """What a teacher wrote.

    Attributes:
        texts: one per request, None where the teacher has none.
        counts: for the manifest.
        cut: ids of the histories whose text was cut by a length limit.
    """

    texts: list[str | None]
    counts: Mapping[str, Any]
    cut: frozenset[str] = frozenset()


class Teacher(abc.ABC):
    """Writes RecCoTs for a share of the histories.

    Args:
        fraction: share of the histories of the loop that get a teacher's text (the paper: 0.05).
    """

    def __init__(self, fraction: float = 0.05) -> None:
        if not 0 < fraction <= 1:
            raise SettingError(f"teacher.init_args.fraction must be in (0, 1], got {fraction}.")
        self.fraction = fraction

    def choose(self, history_ids: Sequence[str], seed: int) -> list[str]:
        """The histories that get a text, picked by hash."""
        ranked = sorted(history_ids, key=lambda history_id: stable_hash("teacher", seed, history_id))
        return sorted(ranked[: max(1, round(self.fraction * len(ranked)))])

    def check(self) -> None:  # noqa: B027 - some teachers need nothing
        """Called before the first stage: raise if this teacher can't write on this machine."""

    @abc.abstractmethod
    def write(self, requests: Sequence[TeacherRequest], words: PromptSettings, out_dir: Path) -> TeacherTexts:
        """One text per request, None where the teacher has none (counted by the caller).

        Args:
            requests: the histories to write about.
            words: words and limits of the prompts.
            out_dir: the stage directory. It survives a crash, so a rerun finds what a teacher saved there.
        """

    def content_key(self) -> dict[str, str]:
        """What the texts depend on besides the settings: files by name and hash."""
        return {}


class ProfileTeacher(Teacher):
    """Writes a taste profile from the statistics of the history; needs no network and no model.

    It demonstrates the mechanism and knows only the ratings: liked and disliked attributes with counts, eras,
    generosity, favourites by name, and how sure it is. Its wording depends only on the history, so it is reproducible.

    Args:
        fraction: see `Teacher`.
        max_words: a sentence that would make the text longer than this is left out.
        favourites: how many of the latest liked titles are named.
        sentences: so many of its sentences are written, at most five, a random choice for each history; null: all. With
            fewer it is a teacher that knows what can be said and not what helps: which sentences raise the validator's
            (V's) reward is then left to the loop to find out.
    """

    def __init__(
        self, fraction: float = 0.05, max_words: int = 60, favourites: int = 2, sentences: int | None = None
    ) -> None:
        super().__init__(fraction)
        if sentences is not None and sentences < 1:
            raise SettingError(f"teacher.init_args.sentences must be at least 1 or null, got {sentences}.")
        if max_words < 15:
            raise SettingError(f"teacher.init_args.max_words must be at least 15, got {max_words}.")
        self.max_words, self.favourites, self.sentences = max_words, favourites, sentences

    def write(self, requests: Sequence[TeacherRequest], words: PromptSettings, out_dir: Path) -> TeacherTexts:
        """See `Teacher.write`; None for an empty history, or one on which nothing may be said."""
        texts = [self._profile(request, words) if request.history else "" for request in requests]
        return TeacherTexts([text or None for text in texts], {})

    def _profile(self, request: TeacherRequest, words: PromptSettings) -> str:
        rng = random.Random(stable_hash("profile", request.history_id))
        shown = newest(request.history, words)
        liked = [entry for entry in shown if entry.liked]
        disliked = [entry for entry in shown if not entry.liked]
        # The teacher may use only what the prompt shows.
        rated = [entry for entry in (request.history if words.history_counts else shown) if entry.rated]
        kinds = _taste(request.history if words.history_kinds else shown, words, rng)
        sentences = [
            kinds if words.history_kinds or words.history_attributes else "",
            _generosity(sum(entry.liked for entry in rated), len(rated), words, rng) if rated else "",
            _named(liked, self.favourites, words, rng),
            _eras(liked, disliked, words, rng) if words.history_years else "",
            _sureness(len(rated), words, rng) if rated else "",
        ]
        written = [sentence for sentence in sentences if sentence]
        if self.sentences is not None and self.sentences < len(written):
            written = [written[place] for place in sorted(rng.sample(range(len(written)), self.sentences))]
        text = ""
        for sentence in written:
            longer = f"{text} {sentence}".strip()
            if len(longer.split()) > self.max_words:
                continue
            text = longer
        return text


def _taste(history: Sequence[Rated], words: PromptSettings, rng: random.Random) -> str:
    """Attributes that are mostly liked or mostly disliked, with counts."""
    best, worst = leanings(history)
    parts = []
    if best:
        verb = rng.choice(["Enjoys", "Likes", "Is drawn to", "Prefers"])
        parts.append(f"{verb} {counted(best[:3])}")
    if worst:
        verb = rng.choice(["avoids", "is cool on", "dislikes", "turns away from"])
        names = counted(worst[:2])
        parts.append(f"{verb} {names}" if parts else f"{verb.capitalize()} {names}")
    return f"{'; '.join(parts)}." if parts else f"No kind of {words.item} stands out."


def _generosity(liked: int, total: int, words: PromptSettings, rng: random.Random) -> str:
    share = liked / total
    kind = "generous" if share > 0.65 else "harsh" if share < 0.4 else "balanced"
    form = rng.choice(["A {kind} {user}: {liked} of {total} {word}.", "{Kind}: {word} {liked} of {total}."])
    return form.format(kind=kind, Kind=kind.capitalize(), user=words.user, liked=liked, total=total, word=words.liked)


def _named(liked: Sequence[Rated], limit: int, words: PromptSettings, rng: random.Random) -> str:
    titles = [fold(entry.item.title)[: words.max_title_chars] for entry in liked[-limit:]] if limit else []
    if not titles:
        return ""
    return rng.choice(["Favourites: {}.", f"Recently {words.liked} {{}}.", "Enjoyed {}."]).format(" and ".join(titles))


def _eras(liked: Sequence[Rated], disliked: Sequence[Rated], words: PromptSettings, rng: random.Random) -> str:
    up = Counter(entry.item.year // 10 * 10 for entry in liked if entry.item.year)
    down = Counter(entry.item.year // 10 * 10 for entry in disliked if entry.item.year)
    if len(up | down) < 2 or not up:
        return ""
    best = max(sorted(up), key=lambda era: up[era] / (up[era] + down[era] + 1))
    form = rng.choice(["Best with {items} of the {era}s.", "The {era}s suit this {user}."])
    return form.format(items=words.items, era=best, user=words.user)


def _sureness(total: int, words: PromptSettings, rng: random.Random) -> str:
    level = "Fairly sure" if total >= 20 else "Some doubt" if total >= 8 else "Mostly a guess"
    ground = rng.choice(["from", "based on"])
    return f"{level}, {ground} {total} {words.items}."


class TableTeacher(Teacher):
    """Reads ready texts from a CSV, JSON-lines or Parquet file.

    Args:
        path: the file; it has a ``text`` column and either ``history_id`` or ``user_id``.
        fraction: see `Teacher`.
    """

    def __init__(self, path: Path, fraction: float = 1.0) -> None:
        super().__init__(fraction)
        self.path = Path(path).expanduser()

    def check(self) -> None:
        """See `Teacher.check`: whether the file is there, in a form that can be read."""
        self.content_key()
        self._reader()

    def write(self, requests: Sequence[TeacherRequest], words: PromptSettings, out_dir: Path) -> TeacherTexts:
        """See `Teacher.write`. Texts are used as they are, without the white space around them.

        Raises:
            SettingError: the file lacks the columns, repeats a key, or has a text for none of the requests.
        """
        frame = self._read()
        key = "history_id" if "history_id" in frame.columns else "user_id"
        if "text" not in frame.columns or key not in frame.columns:
            raise SettingError(
                f"teacher.init_args.path: {self.path} has columns {frame.columns}; "
                "it needs text and one of history_id, user_id."
            )
        names = frame[key].cast(pl.String).to_list()
        if len(set(names)) != len(names):
            repeated = Counter(names).most_common(1)[0][0]
            raise SettingError(f"teacher.init_args.path: {self.path} has {key} {repeated!r} more than once.")
        texts = dict(zip(names, frame["text"].cast(pl.String).to_list(), strict=True))
        matched = [texts.get(getattr(request, key)) for request in requests]
        if requests and not any(matched):
            raise SettingError(
                f"teacher.init_args.path: {self.path} has a text for none of the {len(requests)} histories asked "
                f"for; the first is {key} {getattr(requests[0], key)!r}."
            )
        return TeacherTexts([text.strip() or None if text else None for text in matched], {})

    def _reader(self) -> Callable[[Path], pl.DataFrame]:
        readers: dict[str, Callable[[Path], pl.DataFrame]] = {
            ".csv": partial(pl.read_csv, infer_schema=False),  # an id like 007 is no number
            ".jsonl": pl.read_ndjson,
            ".ndjson": pl.read_ndjson,
            ".parquet": pl.read_parquet,
        }
        if self.path.suffix not in readers or not self.path.is_file():
            raise SettingError(
                f"teacher.init_args.path: {str(self.path)!r} is not a file ending in {', '.join(readers)}."
            )
        return readers[self.path.suffix]

    def _read(self) -> pl.DataFrame:
        read = self._reader()
        try:
            return read(self.path)
        except pl.exceptions.PolarsError as error:
            raise SettingError(f"teacher.init_args.path: {self.path} can't be read ({reason(error)}).") from error

    def content_key(self) -> dict[str, str]:
        """The file's hash, so that an edited file is noticed."""
        import hashlib

        if not self.path.is_file():
            raise SettingError(f"teacher.init_args.path: no file {str(self.path)!r}.")
        return {self.path.name: hashlib.sha256(self.path.read_bytes()).hexdigest()}

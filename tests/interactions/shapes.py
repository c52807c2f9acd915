"""Small made-up files in the form of published data sets: their names, headers and fields, none of their contents.

Each `write_*` puts the files of a data set into a folder and returns the file of the ratings. All hold the same
ratings: 30 users, 25 of 40 items each, over some weeks. Users like some genres, so there is something to learn.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

USERS, ITEMS, PER_USER = 30, 40, 25
GENRES = ("Adventure", "Comedy", "Drama", "Mystery", "Science Fiction")
_FIRST_SECOND = 1_500_000_000
_ADJECTIVES = ("Quiet", "Broken", "Golden", "Last", "Hidden", "Long", "Second", "Winter")
_NOUNS = ("River", "Garden", "Letter", "Machine", "Island")


class Rating(NamedTuple):
    """User and item as numbers from 0, stars from 1 to 5, a time in seconds."""

    user: int
    item: int
    stars: int
    second: int


def ratings() -> list[Rating]:
    """In the order of time; a user gives four or five stars to two of the five genres, most of the time."""
    rng = random.Random(7)
    rows = []
    for user in range(USERS):
        second = _FIRST_SECOND + 1000 * user
        for item in rng.sample(range(ITEMS), PER_USER):
            likes = (item % 5 in (user % 5, (user + 2) % 5)) != (rng.random() < 0.15)
            second += rng.randrange(3_600, 90_000)
            rows.append(Rating(user, item, rng.choice((4, 5)) if likes else rng.choice((1, 2, 3)), second))
    return sorted(rows, key=lambda row: row.second)


def title(item: int) -> str:
    return f"{_ADJECTIVES[item % 8]} {_NOUNS[item % 5]}"


def genres(item: int) -> list[str]:
    """One or two; the first decides who likes the item."""
    return [GENRES[item % 5], *([GENRES[(item + 1) % 5]] if item % 3 == 0 else [])]


def year(item: int) -> int:
    return 1970 + item


def stamp(second: int, pattern: str) -> str:
    return datetime.fromtimestamp(second, UTC).strftime(pattern)


def key(kind: str, number: int, length: int) -> str:
    """A hexadecimal id."""
    return hashlib.sha1(f"{kind} {number}".encode()).hexdigest()[:length]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """The text as a file, packed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def json_lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write_movielens(folder: Path) -> Path:
    """MovieLens ml-latest, ml-25m and ml-32m: https://files.grouplens.org/datasets/movielens/ml-latest-README.html."""
    films = [
        f'{i + 1},"{_NOUNS[i % 5]}, The {_ADJECTIVES[i % 8]} ({year(i)})",{"|".join(genres(i))}' for i in range(ITEMS)
    ]
    films[0] = f"1,River ({year(0)}),(no genres listed)"
    write(folder / "movies.csv", "\n".join(["movieId,title,genres", *films, ""]))
    write(folder / "links.csv", "movieId,imdbId,tmdbId\n" + "".join(f"{i + 1},{114709 + i},{i}\n" for i in range(9)))
    write(folder / "tags.csv", "userId,movieId,tag,timestamp\n3,2,funny,1439472355\n")
    rows = [f"{row.user + 1},{row.item + 1},{row.stars - 0.5:.1f},{row.second}" for row in ratings()]
    return write(folder / "ratings.csv", "\n".join(["userId,movieId,rating,timestamp", *rows, ""]))


def write_goodreads(folder: Path) -> Path:
    """UCSD Book Graph, one genre's part: https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html."""
    books = (
        {
            "isbn": "", "text_reviews_count": "7", "series": [], "country_code": "US", "language_code": "eng",
            "popular_shelves": [{"count": "58", "name": "to-read"}, *({"count": "9", "name": g} for g in genres(i))],
            "asin": "", "is_ebook": "false", "average_rating": "4.03", "similar_books": [], "description": "",
            "format": "Hardcover", "authors": [{"author_id": str(600 + i % 7), "role": ""}], "publisher": "",
            "num_pages": "256", "publication_year": str(year(i)) if i % 9 else "", "book_id": str(7_327_624 + i),
            "ratings_count": "140", "work_id": str(8_948_723 + i), "title": f"{title(i)} (Book {i + 1})",
            "title_without_series": title(i),
        }
        for i in range(ITEMS)
    )  # fmt: skip
    write(folder / "goodreads_books_children.json.gz", json_lines(books))
    log = (
        {
            "user_id": key("user", row.user, 32), "book_id": str(7_327_624 + row.item),
            "review_id": key("review", n, 32), "is_read": True, "rating": row.stars, "review_text_incomplete": "",
            "date_added": stamp(row.second, "%a %b %d %H:%M:%S -0000 %Y"),
            "date_updated": stamp(row.second, "%a %b %d %H:%M:%S -0000 %Y"), "read_at": "", "started_at": "",
        }
        for n, row in enumerate(ratings())
    )  # fmt: skip
    return write(folder / "goodreads_interactions_children.json.gz", json_lines(log))


def _python_2(value: Any) -> str:
    """How Python 2 writes text, and lists and dicts of text: with a u before the quotation mark."""
    if isinstance(value, str):
        return "u" + ascii(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_python_2, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_python_2(key)}: {_python_2(each)}" for key, each in value.items()) + "}"
    return repr(value)


def write_steam(folder: Path) -> Path:
    """Steam, version 2: https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data. Hours played are the rating."""
    games = (
        {
            "publisher": "Kotoshiro", "genres": genres(i), "app_name": f"{title(i)}\N{TRADE MARK SIGN}",
            "title": title(i), "url": f"http://store.steampowered.com/app/{761140 + i}/",
            "release_date": f"{year(i)}-01-04", "tags": [*genres(i), "Indie"], "discount_price": 4.49,
            "specs": ["Single-player"], "price": 4.99, "early_access": False, "id": str(761140 + i),
            "developer": "Kotoshiro" if i % 2 else "Baker's \"Games\"",
        }
        for i in range(ITEMS)
    )  # fmt: skip
    write(folder / "steam_games.json.gz", "".join(_python_2(game) + "\n" for game in games))
    log = (
        {
            "username": f"Player {row.user} \N{SNOWMAN}", "hours": 10.0**row.stars / 100, "products": 41,
            "product_id": str(761140 + row.item), "page_order": 0, "date": stamp(row.second, "%Y-%m-%d"),
            "text": "It isn't bad.\nNot at all.", "early_access": False, "page": 1,
        }
        for row in ratings()
    )  # fmt: skip
    return write(folder / "steam_reviews.json.gz", "".join(_python_2(review) + "\n" for review in log))


def write_amazon_2018(folder: Path) -> Path:
    """Amazon Reviews of 2018: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/."""
    games = (
        {
            "category": ["Video Games", *genres(i)], "tech1": "", "description": [], "title": f"{title(i)} &amp; more",
            "also_buy": [], "brand": "by Some Studio", "rank": "1,349 in Video Games (", "main_cat": "Video Games",
            "asin": f"B{i:09d}", "details": {},
        }
        for i in range(ITEMS)
    )  # fmt: skip
    write(folder / "meta_Video_Games.json.gz", json_lines(games))
    log = (
        {
            "overall": float(row.stars), "verified": True, "reviewTime": stamp(row.second, "%m %d, %Y"),
            "reviewerID": f"A{row.user:012d}", "asin": f"B{row.item:09d}", "style": {"Platform:": " PC"},
            "reviewerName": "A. B.", "reviewText": "Good.", "summary": "Good", "unixReviewTime": row.second,
        }
        for row in ratings()
    )  # fmt: skip
    return write(folder / "Video_Games_5.json.gz", json_lines(log))


def write_amazon_2023(folder: Path) -> Path:
    """Amazon Reviews of 2023: https://amazon-reviews-2023.github.io. Times are milliseconds."""
    games = (
        {
            "main_category": "Video Games", "title": title(i), "average_rating": 4.1, "rating_number": 25,
            "features": [], "description": [], "price": None, "images": [], "videos": [], "store": "Some Studio",
            "categories": ["Video Games", *genres(i)], "details": {"Brand": "Some Studio"},
            "parent_asin": f"B{i:09d}", "bought_together": None,
        }
        for i in range(ITEMS)
    )  # fmt: skip
    write(folder / "meta_Video_Games.jsonl.gz", json_lines(games))
    log = (
        {
            "rating": float(row.stars), "title": "Good", "text": "Good.", "images": [], "asin": "B000000000",
            "parent_asin": f"B{row.item:09d}", "user_id": f"AE{row.user:026d}", "timestamp": 1000 * row.second + 123,
            "helpful_vote": 0, "verified_purchase": True,
        }
        for row in ratings()
    )  # fmt: skip
    return write(folder / "Video_Games.jsonl.gz", json_lines(log))


def write_mind(folder: Path) -> Path:
    """MIND: https://github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md. Five news at a time."""
    news = [
        f"N{i}\t{genres(i)[0].lower()}\t{_NOUNS[i % 5].lower()}\t{title(i)}\tAbstract\thttps://a/{i}.html\t[]\t[]"
        for i in range(ITEMS)
    ]
    write(folder / "news.tsv", "\n".join([*news, ""]))
    rows: dict[int, list[Rating]] = {}
    lines = []
    for row in ratings():
        mine = rows.setdefault(row.user, [])
        mine.append(row)
        if len(mine) % 5 == 0:
            past = " ".join(f"N{each.item}" for each in mine[:-5] if each.stars > 3)
            shown = " ".join(f"N{each.item}-{int(each.stars > 3)}" for each in mine[-5:])
            when = stamp(row.second, "%m/%d/%Y %I:%M:%S %p")
            lines.append(f"{len(lines) + 1}\tU{row.user}\t{when}\t{past}\t{shown}")
    return write(folder / "behaviors.tsv", "\n".join([*lines, ""]))


def write_lastfm(folder: Path) -> Path:
    """Last.fm-360K: https://www.upf.edu/web/mtg/lastfm360k. Plays, no times, no header."""
    people = [f"{key('user', u, 40)}\t{'fm'[u % 2]}\t{20 + u}\tGermany\tFeb 1, 2007" for u in range(USERS)]
    write(folder / "usersha1-profile.tsv", "\n".join([*people, ""]))
    plays = []
    for row in ratings():
        artist_id = key("item", row.item, 36) if row.item % 7 else ""
        name = f'{title(row.item)} "Live" \N{SNOWMAN}'
        plays.append(f"{key('user', row.user, 40)}\t{artist_id}\t{name}\t{4**row.stars}")
    return write(folder / "usersha1-artmbid-artname-plays.tsv", "\n".join([*plays, ""]))


def write_yelp(folder: Path) -> Path:
    """Yelp Open Dataset: https://www.yelp.com/dataset/documentation/main."""
    places = (
        {
            "business_id": key("item", i, 22), "name": title(i), "address": "1 Main St", "city": "Tucson",
            "state": "AZ", "postal_code": "85705", "latitude": 32.2, "longitude": -110.9, "stars": 3.5,
            "review_count": 22, "is_open": 1, "attributes": {"RestaurantsTakeOut": "True"} if i % 2 else None,
            "categories": ", ".join(genres(i)) if i % 9 else None, "hours": None,
        }
        for i in range(ITEMS)
    )  # fmt: skip
    write(folder / "yelp_academic_dataset_business.json", json_lines(places))
    people = (
        {
            "user_id": key("user", u, 22),
            "name": f"Ann {u}",
            "review_count": 25,
            "elite": "",
            "fans": u % 3,
            "friends": "None",
        }
        for u in range(USERS)
    )
    write(folder / "yelp_academic_dataset_user.json", json_lines(people))
    log = (
        {
            "review_id": key("review", n, 22), "user_id": key("user", row.user, 22),
            "business_id": key("item", row.item, 22), "stars": float(row.stars), "useful": 0, "funny": 0, "cool": 0,
            "text": "Good.\nVery.", "date": stamp(row.second, "%Y-%m-%d %H:%M:%S"),
        }
        for n, row in enumerate(ratings())
    )  # fmt: skip
    return write(folder / "yelp_academic_dataset_review.json", json_lines(log))


def write_book_crossing(folder: Path) -> Path:
    """Book-Crossing: http://www2.informatik.uni-freiburg.de/~cziegler/BX/. Latin-1, no times."""

    def line(cells: Iterable[Any]) -> str:
        quoted = [str(cell).replace("\\", "\\\\").replace('"', '\\"') for cell in cells]
        return ";".join("NULL" if cell == "NULL" else f'"{cell}"' for cell in quoted) + "\r\n"

    address = "http://images.amazon.com/images/P/{}.01.{}ZZZZZZZ.jpg"
    head = ["ISBN", "Book-Title", "Book-Author", "Year-Of-Publication", "Publisher"]
    books = line([*head, "Image-URL-S", "Image-URL-M", "Image-URL-L"])
    for i in range(ITEMS):
        isbn = f"{195153448 + i:09d}X"
        told = [f'{title(i)}: "{genres(i)[0]}" &amp; more; a book', "José Núñez", year(i), "HarperFlamingo"]
        books += line([isbn, *told, *(address.format(isbn, size) for size in "TML")])
    write(folder / "BX-Books.csv", books, "latin-1")
    people = [(u + 276725, "málaga, andalucía, spain", 20 + u if u % 3 else "NULL") for u in range(USERS)]
    write(folder / "BX-Users.csv", "".join(map(line, [("User-ID", "Location", "Age"), *people])), "latin-1")
    rows = [(row.user + 276725, f"{195153448 + row.item:09d}X", 2 * row.stars) for row in ratings()]
    log = "".join(map(line, [("User-ID", "ISBN", "Book-Rating"), *rows]))
    return write(folder / "BX-Book-Ratings.csv", log, "latin-1")


SHAPES: dict[str, Callable[[Path], Path]] = {
    "movielens": write_movielens,
    "goodreads": write_goodreads,
    "steam": write_steam,
    "amazon 2018": write_amazon_2018,
    "amazon 2023": write_amazon_2023,
    "mind": write_mind,
    "lastfm": write_lastfm,
    "yelp": write_yelp,
    "book-crossing": write_book_crossing,
}

"""`AmazonBook` on files of a few lines in every layout of the two releases."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest
from amazon_files import DUMP, REVIEWS, amazon, catalogue, lines, meta, review, shelf, write
from packers import PACKERS

from trackrec.interactions import AmazonBook, DataError, RatingSource, SampleRules, build_samples
from trackrec.interactions.sources import lines as room
from trackrec.interactions.sources.amazon_items import clean_author, clean_title
from trackrec.storage.schemas import SCHEMAS, to_arrow

releases = pytest.mark.parametrize("release", ["2018", "2023"])
ROWS = [(user, item, stars, second, row) for row, (user, item, stars, second) in enumerate(REVIEWS)]
ITEMS = [
    ("0001713353", "The King, the Mice & the Cheese", ["Nancy Gurney", "Children's Books"], None),
    ("0002005395", "Bread", [], None),
    ("B000XYZ123", "Salt", ["Mark Kurlansky", "History", "Food & Wine"], None),
]
CLEAN = {
    "bad_rows": 0,
    "ratings_read": 6,
    "millisecond_times": 0,
    "bad_item_rows": 0,
    "duplicate_items": 0,
    "html_titles": 0,
    "unescaped_titles": 1,
    "author_pages": 0,
    "items_without_title": 0,
    "ratings_of_unknown_items": 0,
    "ratings_of_untitled_items": 0,
    "duplicate_ratings": 0,
    "ratings_outside_core": 0,
    "items": 3,
    "users": 2,
    "ratings": 6,
}


@releases
def test_a_release_is_read_from_its_own_files(tmp_path: Path, release: str) -> None:
    source = amazon(shelf(tmp_path, release))
    ratings = source.read()
    assert ratings.interactions.rows() == ROWS
    assert ratings.items.rows() == ITEMS
    assert ratings.users.rows() == [("A1READER", []), ("A2READER", [])]
    assert ratings.counts == CLEAN | {"millisecond_times": 6 if release == "2023" else 0}
    assert (source.threshold, ratings.splits, ratings.own_histories) == (4.0, None, None)


@releases
def test_frames_fit_the_tables(tmp_path: Path, release: str) -> None:
    ratings = amazon(shelf(tmp_path, release)).read()
    for table in ("items", "users", "interactions"):
        frame = getattr(ratings, table)
        assert to_arrow(table, frame).schema == SCHEMAS[table]
        assert frame.columns == SCHEMAS[table].names


def test_samples_are_built_of_it(tmp_path: Path) -> None:
    """Five stars are likes and four aren't; each reader's first two reviews are the history of the third."""
    source = amazon(shelf(tmp_path))
    tables = build_samples(source.read(), SampleRules(history_len=2), source.threshold, seed=0)
    assert tables.samples.select("user_id", "item_id", "label").rows() == [
        ("A2READER", "0002005395", 0),
        ("A1READER", "B000XYZ123", 0),
    ]
    assert tables.histories.select("item_ids", "ratings").rows() == [
        (["0001713353", "0002005395"], [5.0, 3.0]),
        (["0001713353", "B000XYZ123"], [4.0, 5.0]),
    ]
    likes = build_samples(source.read(), SampleRules(history_len=1), source.threshold, seed=0).samples["label"].sum()
    assert likes == 1


@pytest.mark.parametrize(
    ("name", "text", "release"),
    [
        ("Books.csv", "".join(f"{i},{u},{s},{t}\n" for u, i, s, t in REVIEWS), "2018"),
        ("Books.csv.gz", "".join(f"{i},{u},{s},{t}\r\n" for u, i, s, t in REVIEWS), "2018"),
        ("ratings_Books.csv", "".join(f"{u},{i},{s},{t}\n" for u, i, s, t in REVIEWS), "2018"),
        (
            "Books.csv.gz",
            "user_id,parent_asin,rating,timestamp\n" + "".join(f"{u},{i},{s},{t}456\n" for u, i, s, t in REVIEWS),
            "2023",
        ),
        (
            "Books.csv",
            "\n \nuser_id,parent_asin,rating,timestamp\n" + "".join(f"{u},{i},{s},{t}456\n" for u, i, s, t in REVIEWS),
            "2023",
        ),
    ],
    ids=["2018", "2018, packed", "2014: the reader first", "2023: with a header", "2023: blank lines before it"],
)
def test_ratings_only_files_are_read(tmp_path: Path, name: str, text: str, release: str) -> None:
    kind = "json" if release == "2018" else "jsonl.gz"
    write(tmp_path, name, text.encode())
    write(tmp_path, f"meta_Books.{kind}", lines(catalogue(release)))
    ratings = amazon(tmp_path).read()
    assert ratings.interactions.rows() == ROWS
    assert ratings.items.rows() == ITEMS


@pytest.mark.parametrize(
    "header", ["user_id,parent_asin,rating", "user_id,asin,rating,timestamp", "user_id,user_id,x,y"]
)
def test_a_header_that_lacks_a_column_is_named(tmp_path: Path, header: str) -> None:
    write(tmp_path, "Books.csv", f"{header}\nA1,0001713353,5.0,1252800000\n".encode())
    with pytest.raises(
        DataError, match=r"Books.csv must name user_id, parent_asin, rating, timestamp, each column once"
    ):
        amazon(tmp_path).read()


def test_of_several_reviews_of_a_book_the_earliest_stays(tmp_path: Path) -> None:
    """Of two at one time the first line."""
    again = [("A1READER", "0001713353", 1.0, 1262800000), ("A2READER", "0002005395", 2.0, 1253145600)]
    earlier = ("A2READER", "B000XYZ123", 3.0, 1152800000)
    root = shelf(tmp_path, reviews=[review("2018", *each) for each in [*REVIEWS, *again, earlier]])
    ratings = amazon(root).read()
    assert ratings.counts["duplicate_ratings"] == 3
    kept = [row for row in ROWS if row[:2] != earlier[:2]]
    assert ratings.interactions.rows() == [*kept, (*earlier, 8)]


def test_the_core_counts_what_stays(tmp_path: Path) -> None:
    extra = [("A3READER", "0002005395", 4.0, 1), ("A3READER", "0008888888", 4.0, 2)]
    root = shelf(tmp_path, reviews=[review("2018", *each) for each in [*REVIEWS, *extra]])
    ratings = amazon(root, min_user_ratings=2, min_item_ratings=2).read()
    assert (ratings.counts["ratings_of_unknown_items"], ratings.counts["ratings_outside_core"]) == (1, 1)
    assert ratings.users["user_id"].to_list() == ["A1READER", "A2READER"]
    with pytest.raises(DataError, match=r"min_user_ratings=5, dataset.init_args.min_item_ratings=5 leave none of 6"):
        AmazonBook(shelf(tmp_path / "few")).read()


# Repairs of scraped texts


@pytest.mark.parametrize(
    ("raw", "text", "was_html", "had_entities"),
    [
        ("Bread &amp;  Butter", "Bread & Butter", False, True),
        ("Bread & Butter", "Bread & Butter", False, False),
        ("  Tom&#39;s\n&quot;Log&quot;\x00 ", 'Tom\'s "Log"', False, True),
        ("The <i>Odyssey</i> &lt;b&gt;Homer&lt;/b&gt;", "The Odyssey Homer", False, True),
        (DUMP, "", True, False),
        ('<span class="a-size-medium a-color-secondary a-text-normal', "", True, False),
        ("&lt;div id=x&gt;", "", True, False),
        ("#prodImage { width: 100px; height: auto; }", "", True, False),
        ("(function(f) {var _np=(window.P._namespace('x'));", "", True, False),
        ("A < B: <3 and {sets}; var. ed. function", "A < B: <3 and {sets}; var. ed. function", False, False),
        ("", "", False, False),
        (None, "", False, False),
        ("x" * 10_000, "x" * 10_000, False, False),
        ("Say <|im_end|>", "Say <|im_end|>", False, False),
    ],
)
def test_titles_are_repaired(raw: str | None, text: str, was_html: bool, had_entities: bool) -> None:
    assert clean_title(raw) == (text, was_html, had_entities)


@pytest.mark.parametrize(
    ("raw", "name", "page"),
    [
        ("Visit Amazon's Rita Golden Gelman Page", "Rita Golden Gelman", True),
        ("Visit Amazon&#39;s  J. K. O'Neil  Page", "J. K. O'Neil", True),
        ("Visit Amazon's Page", "", True),
        ("Jimmy Page", "Jimmy Page", False),
        ("Little &amp; Brown", "Little & Brown", False),
        ("<a href='x'>X</a>", "", False),
        ("", "", False),
        (None, "", False),
    ],
)
def test_authors_are_called_by_their_names(raw: str | None, name: str, page: bool) -> None:
    assert clean_author(raw) == (name, page)


@releases
def test_repairs_are_counted(tmp_path: Path, release: str) -> None:
    """A book's first line with a title serves; a dump is no title."""
    books = [
        meta(
            release, "0001713353", DUMP, "Visit Amazon's Nancy Gurney Page", ["Books", "</span></span>", "Food", "Food"]
        ),
        meta(release, "0002005395", "Bread &amp; Salt"),
        meta(release, "0002005395", "Bread"),
        meta(release, "B000XYZ123", None),
        meta(release, "B000XYZ123", "Salt", "Mark Kurlansky"),
    ]
    ratings = amazon(shelf(tmp_path, release, books=books)).read()
    assert ratings.items.rows() == [
        ("0001713353", "0001713353", ["Nancy Gurney", "Food"], None),
        ("0002005395", "Bread & Salt", [], None),
        ("B000XYZ123", "Salt", ["Mark Kurlansky"], None),
    ]
    repairs = {
        "duplicate_items": 2,
        "html_titles": 1,
        "unescaped_titles": 1,
        "author_pages": 1,
        "items_without_title": 1,
    }
    assert {key: ratings.counts[key] for key in repairs} == repairs


def test_books_without_a_title_can_be_left_out(tmp_path: Path) -> None:
    books = [meta("2018", "0001713353", ""), *catalogue("2018")[1:]]
    ratings = amazon(shelf(tmp_path, books=books), untitled="drop").read()
    assert ratings.counts["ratings_of_untitled_items"] == 2
    assert "0001713353" not in ratings.items["item_id"]
    nothing = amazon(shelf(tmp_path / "none", books=[meta("2018", "0001713353", DUMP)]), untitled="drop")
    with pytest.raises(DataError, match=r"untitled is 'drop', but .*meta_Books.json.gz has a title for none"):
        nothing.read()


@pytest.mark.parametrize(
    ("release", "more", "attributes", "year"),
    [
        ("2018", {"details": {"Publisher:": 'Ecco "&" Co; Reissue edition (May 1, 2004)'}}, [], 2004),
        ("2018", {"details": {"Publisher:": "Ladybird (1998)", "Language:": "English"}}, [], 1998),
        ("2018", {"details": {"Publisher:": "Press 1923"}, "category": "Books"}, [], 1923),
        ("2018", {"details": "", "brand": None}, [], None),
        ("2023", {"details": {"Publisher": "Chatto & Windus; First Edition (January 1, 2004)"}}, [], 2004),
        ("2023", {"details": {"Publication date": "January 1, 2004", "Publisher": "X"}}, [], 2004),
        ("2023", {"store": "Peter Ackroyd (Author), Jo Doe (Editor)"}, ["Peter Ackroyd"], None),
        ("2023", {"author": "Peter Ackroyd", "categories": None}, [], None),
    ],
)  # fmt: skip
def test_years_and_authors_stand_in_several_places(
    tmp_path: Path, release: str, more: dict, attributes: list[str], year: int | None
) -> None:
    root = shelf(tmp_path, release, books=[meta(release, "0001713353", "T") | more])
    assert amazon(root).read().items.rows() == [("0001713353", "T", attributes, year)]


# What can't be read


BAD_LINES = ["{not json", "[1, 2]", '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1}', "null", "[" * 100_000]
BAD_RECORDS: list[dict[str, Any]] = [
    {"overall": "five"}, {"overall": "5.0"}, {"overall": True}, {"overall": 6}, {"overall": -1}, {"overall": 10**400},
    {"unixReviewTime": None}, {"unixReviewTime": 1e15}, {"unixReviewTime": -1},
    {"reviewerID": ""}, {"reviewerID": None}, {"reviewerID": ["A1"]}, {"asin": "a b"}, {"asin": {"x": 1}},
]  # fmt: skip


@pytest.mark.parametrize(
    "bad", [*BAD_LINES, *BAD_RECORDS, b"\xff\xfe", '{"overall": NaN}'], ids=lambda bad: str(bad)[:30]
)
def test_a_bad_line_is_named_by_its_number_or_dropped_and_counted(tmp_path: Path, bad: Any) -> None:
    good = [review("2018", *each) for each in REVIEWS]
    if isinstance(bad, dict):
        bad = review("2018", "A9", "B9", 3.0, 9) | bad
    text = bad if isinstance(bad, bytes) else lines([bad])[:-1]
    data = lines(good[:2]) + b"\n  \n" + text + b"\n" + lines(good[2:])
    shelf(tmp_path)
    write(tmp_path, "Books.json.gz", data)
    with pytest.raises(
        DataError, match=r"^dataset.init_args.root: .*Books.json.gz has 1 bad line.*: line 5: "
    ) as caught:
        amazon(tmp_path).read()
    assert "or set dataset.init_args.bad_rows to drop" in str(caught.value)
    ratings = amazon(tmp_path, bad_rows="drop").read()
    assert ratings.counts["bad_rows"] == 1
    assert ratings.interactions.drop("row").rows() == [row[:4] for row in ROWS]


def test_bad_lines_of_all_blocks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a line or two, so that every line is the first of one at some size."""
    whole = [review("2018", *each) for each in REVIEWS]
    broken = ["x", *whole[:2], "y", "z", *whole[2:], "{}"]
    shelf(tmp_path, reviews=broken)
    for size in (1, 100, 250, 1 << 20):
        monkeypatch.setattr(room, "_BLOCK_BYTES", size)
        with pytest.raises(DataError, match=r"has 4 bad .*: line 1: 'x'; line 4: 'y'; line 5: 'z'; and 1 more"):
            amazon(tmp_path).read()
        assert amazon(tmp_path, bad_rows="drop").read().counts["bad_rows"] == 4


def test_bad_lines_of_the_metadata_are_named(tmp_path: Path) -> None:
    shelf(tmp_path, books=[*catalogue("2018"), {"title": "No id"}])
    with pytest.raises(DataError, match=r"meta_Books.json.gz has 1 bad line.*id in 'asin': line 5: "):
        amazon(tmp_path).read()
    assert amazon(tmp_path, bad_rows="drop").read().counts["bad_item_rows"] == 1


def test_files_that_are_cut_off_or_no_text_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(lines([review("2018", *each) for each in REVIEWS]))
    shelf(tmp_path)
    for data in (whole[: len(whole) // 2], whole[:-1], whole[:12] + b"\x00" * 30 + whole[42:]):
        (tmp_path / "Books.json.gz").write_bytes(data)
        with pytest.raises(DataError, match=r"Books.json.gz can't be read .*cut off\? Fetch the file again"):
            amazon(tmp_path, bad_rows="drop").read()
    for data, message in {b"": "is empty", b"\xff\xfea\x00": "is UTF-16 text", b"\n\n": "holds no ratings"}.items():
        (tmp_path / "Books.json.gz").write_bytes(data)
        with pytest.raises(DataError, match=rf"^dataset.init_args.root: .*Books.json.gz {message}"):
            amazon(tmp_path).read()


def test_a_line_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LONGEST_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(room, "_BLOCK_BYTES", 1 << 18)
    shelf(tmp_path)
    write(tmp_path, "Books.json.gz", lines([review("2018", *REVIEWS[0])]) + b" " * (1 << 22))
    with pytest.raises(DataError, match=r"Books.json.gz line 2 is longer than 1 MiB. Is that a file of one record"):
        amazon(tmp_path).read()


def test_a_packed_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Browsers unpack on the way and keep the name, or the other way round; an editor adds a mark."""
    shelf(tmp_path)
    text = gzip.decompress((tmp_path / "Books.json.gz").read_bytes())
    (tmp_path / "Books.json.gz").write_bytes(b"\xef\xbb\xbf" + text)
    (tmp_path / "meta_Books.json").write_bytes((tmp_path / "meta_Books.json.gz").read_bytes())
    (tmp_path / "meta_Books.json.gz").unlink()
    assert amazon(tmp_path).read().interactions.rows() == ROWS


@pytest.mark.parametrize("ending", PACKERS)
def test_every_compression_is_read(tmp_path: Path, ending: str) -> None:
    shelf(tmp_path, "2023")
    for name in ("Books.jsonl", "meta_Books.jsonl"):
        packed = tmp_path / f"{name}.gz"
        text = gzip.decompress(packed.read_bytes())
        packed.unlink()
        (tmp_path / (name + ending)).write_bytes(PACKERS[ending](text))
    source = amazon(tmp_path)
    ratings = source.read()
    assert [row[:3] for row in ratings.interactions.rows()] == [row[:3] for row in ROWS]
    assert ratings.items.rows() == ITEMS
    packed = tmp_path / f"Books.jsonl{ending}"
    assert source.content_key()[packed.name] == hashlib.sha256(packed.read_bytes()).hexdigest()


def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    wanted = (
        r"Books.jsonl.gz and meta_Books.jsonl.gz \(https://amazon-reviews-2023.github.io\), or Books.json.gz or "
        r"Books_5.json.gz and meta_Books.json.gz \(https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/\)"
    )
    with pytest.raises(DataError, match=rf"^dataset.init_args.root: the folder '.*none' is missing.*{wanted}"):
        amazon(tmp_path / "none").read()
    with pytest.raises(DataError, match=rf"^dataset.init_args.root: .* holds no reviews; want {wanted}"):
        amazon(tmp_path).content_key()
    write(tmp_path, "Books.jsonl.gz", b"{}\n")
    with pytest.raises(DataError, match=r"lacks meta_Books.jsonl.gz, the titles .* from https://amazon-reviews-2023"):
        amazon(tmp_path).read()
    with pytest.raises(DataError, match=r"is a file"):
        amazon(tmp_path / "Books.jsonl.gz").read()


def test_several_review_files_are_told_apart(tmp_path: Path) -> None:
    shelf(tmp_path)
    write(tmp_path, "Books_5.json.gz", lines([review("2018", *REVIEWS[0])]))
    with pytest.raises(
        DataError, match=r"several review files. Set dataset.init_args.reviews to one of \['Books.json.gz'"
    ):
        amazon(tmp_path).read()
    assert amazon(tmp_path, reviews="Books_5.json.gz").read().counts["ratings_read"] == 1
    with pytest.raises(DataError, match=r"dataset.init_args.reviews: .* lacks Books.jsonl.gz. Put it there"):
        amazon(tmp_path, reviews="Books.jsonl.gz").read()
    with pytest.raises(DataError, match=r"dataset.init_args.reviews must be one of .*Did you mean 'Books_5.json'\?"):
        amazon(tmp_path, reviews="Books_5.jsn").read()


def test_files_of_two_releases_do_not_fit(tmp_path: Path) -> None:
    shelf(tmp_path, books=[meta("2018", "0008888888", "T")])
    with pytest.raises(DataError, match=r"holds none of the 3 books of .*, such as \['0001713353', .*of one release\?"):
        amazon(tmp_path).read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 5}, r"dataset.init_args.threshold must be in \[1, 5\), got 5"),
        ({"threshold": float("nan")}, r"dataset.init_args.threshold must be in \[1, 5\), got nan"),
        ({"min_user_ratings": 0}, r"dataset.init_args.min_user_ratings must be at least 1"),
        (
            {"untitled": "dorp"},
            r"dataset.init_args.untitled must be one of 'id', 'drop', got 'dorp'. Did you mean 'drop'",
        ),
        ({"bad_rows": "skip"}, r"dataset.init_args.bad_rows must be one of 'error', 'drop', got 'skip'"),
    ],
)
def test_arguments_are_checked_without_reading(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AmazonBook(Path("nowhere"), **arguments)


def test_the_content_key_follows_the_bytes_that_are_read(tmp_path: Path) -> None:
    root = shelf(tmp_path)
    (root / "notes.txt").write_text("not read")
    assert amazon(root).content_key() == {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in ("Books.json.gz", "meta_Books.json.gz")
    }


def test_it_is_found_by_its_short_name(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--dataset", type=RatingSource)
    config = f"dataset: {{class_path: AmazonBook, init_args: {{root: {shelf(tmp_path)}, min_user_ratings: 1}}}}"
    source = parser.instantiate(parser.parse_string(config)).dataset
    assert isinstance(source, AmazonBook)
    assert source.least == (1, 5)

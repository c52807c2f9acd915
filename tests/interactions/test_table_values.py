"""`Table` on values that are read in one way and meant in another: ids, lists in writing, nothing, units of time."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from table_files import ABOUT, BOOK_COLUMNS, HEAD, LOG, books, put, triples

from trackrec.interactions import DataError, ItemColumns, RatingColumns, Ratings, Table, TextFormat, UserColumns

# Ids


def test_ids_of_two_spellings_are_one(tmp_path: Path) -> None:
    """A column of whole numbers that once held a gap is written with ".0"; in Parquet it is one of floats."""
    log = put(tmp_path / "log.csv", HEAD + "1,10.0,5,1\n1.0,20,3,2\n2,10,1,3\n")
    items = put(tmp_path / "items.csv", "isbn,name\n10,Bread\n20.0,Salt\n")
    pl.DataFrame({"reader": [1.0, 2.0], "age": [31, 40]}).write_parquet(tmp_path / "users.parquet")
    users = str(tmp_path / "users.parquet")
    told = UserColumns(attributes=["age"])
    ratings = Table(log, items, users, BOOK_COLUMNS, ItemColumns(title="name"), told).read()
    assert triples(ratings) == [("1", "10", 5.0), ("1", "20", 3.0), ("2", "10", 1.0)]
    assert ratings.items["title"].to_list() == ["Bread", "Salt"]
    assert ratings.users.rows() == [("1", ["age 31"]), ("2", ["age 40"])]
    assert ratings.counts["ids_normalised"] == 5
    assert (ratings.counts["users_without_row"], ratings.notices) == (0, ())


def test_train_and_test_files_of_two_spellings_hold_the_same_users(tmp_path: Path) -> None:
    train, test = put(tmp_path / "a.csv", HEAD + "1.0,10,5,1\n"), put(tmp_path / "b.csv", HEAD + "1,20,5,2\n")
    assert Table({"train": train, "test": test}, columns=BOOK_COLUMNS).read().users["user_id"].to_list() == ["1"]


def test_ids_in_impressions_and_histories_follow_the_same_rule(tmp_path: Path) -> None:
    log = put(tmp_path / "log.csv", "user_id,shown,past\nu,1.0-1 2-0,2.0 3\nu,3-1,1\n")
    ratings = Table(log, columns=RatingColumns(impressions="shown", history="past")).read()
    assert ratings.items["item_id"].to_list() == ["1", "2", "3"]
    assert ratings.own_histories is not None
    assert ratings.own_histories["item_ids"].to_list() == [["2", "3"], ["1"]]


@pytest.mark.parametrize("lost", ["1.23e+17", "1.2345678901234568e17", "1E+05", "123456789012345680.0"])
@pytest.mark.parametrize("drop", ["error", "drop"])
def test_ids_that_lost_digits_are_refused(tmp_path: Path, lost: str, drop: Any) -> None:
    said = rf"columns.user: 1 ids of .*log.csv, such as '{lost}', have lost digits.*Write the column as text"
    with pytest.raises(DataError, match=said.replace("+", r"\+")):
        books(tmp_path, HEAD + f"{lost},b,5,1\nann,b,5,1\n", bad_rows=drop).read()


def test_floats_above_all_whole_ones_are_refused_as_ids(tmp_path: Path) -> None:
    pl.DataFrame({"reader": [1.0, 2.0**53 + 2], "isbn": ["a", "b"], "stars": [1, 5], "when": [1, 2]}).write_parquet(
        tmp_path / "log.parquet"
    )
    with pytest.raises(DataError, match=r"columns.user: 1 ids of .*, such as '9007199254740994.0', have lost digits"):
        Table(str(tmp_path / "log.parquet"), columns=BOOK_COLUMNS).read()


def test_ids_that_only_look_like_numbers_stay(tmp_path: Path) -> None:
    """Hexadecimal ids, versions, leading zeros and long integers."""
    log = HEAD + "".join(f"{user},b,5,{at}\n" for at, user in enumerate(["5e10", "12e5", "1.10", "007", "9" * 20]))
    ratings = books(tmp_path, log).read()
    assert ratings.users["user_id"].to_list() == ["5e10", "12e5", "1.10", "007", "9" * 20]
    assert "ids_normalised" not in ratings.counts


@pytest.mark.parametrize("word", ["nan", "NULL", "None", "<NA>", "\\N"])
def test_a_word_for_no_id_is_a_bad_row(tmp_path: Path, word: str) -> None:
    with pytest.raises(DataError, match=r"has 1 bad line\(s\), want .*; an id in 'reader'"):
        books(tmp_path, HEAD + f"{word},b,5,1\nann,b,5,1\n").read()


def test_users_of_whom_none_rated_are_an_error_and_few_a_notice(tmp_path: Path) -> None:
    users = put(tmp_path / "users.csv", "reader,age\nU1,3\nU2,4\n")
    with pytest.raises(
        DataError,
        match=r"users: .*users.csv holds none of the users who rated: it has \['U1', 'U2'\], .* has \['ann', 'bob'\]",
    ):
        books(tmp_path, users=users, user_columns=UserColumns(attributes=["age"])).read()
    put(tmp_path / "users.csv", "reader,age\nann,3\n")
    log = HEAD + "ann,b1,5,1\nbob,b1,5,2\ncid,b1,1,3\n"
    ratings = books(tmp_path, log, users=users, user_columns=UserColumns(attributes=["age"])).read()
    assert ratings.counts["users_without_row"] == 2
    assert ratings.notices == (
        f"dataset.init_args.users: {users} knows 1 of 3 users of the log; it lacks ['bob', 'cid']. "
        "Are the ids of the same kind?",
    )


def test_items_of_which_most_are_unknown_are_noticed(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn\nb1\n")
    notices = books(tmp_path, items=items).read().notices
    assert notices == (
        f"dataset.init_args.items: {items} knows 1 of 3 ratings of the log; it lacks ['b2']. "
        "Are the ids of the same kind?",
    )


# Lists in writing


def read_kinds(tmp_path: Path, cells: list[str], **arguments: Any) -> Ratings:
    """The items of a log with these cells as genres."""
    frame = pl.DataFrame({"item_id": [f"i{at}" for at in range(len(cells))], "genres": cells})
    frame.write_csv(tmp_path / "items.csv")
    log = put(tmp_path / "log.csv", "user_id,item_id,stars\n" + "".join(f"u,i{at},5\n" for at in range(len(cells))))
    told = arguments.pop("item_columns", ItemColumns(attributes="genres"))
    columns = RatingColumns(rating="stars")
    return Table(log, str(tmp_path / "items.csv"), columns=columns, item_columns=told, **arguments).read()


@pytest.mark.parametrize(
    ("cell", "kinds"),
    [
        ("['Comedy', 'Indie']", ["Comedy", "Indie"]),
        ('["Comedy","Indie"]', ["Comedy", "Indie"]),
        ("('Comedy', \"Children's\")", ["Comedy", "Children's"]),
        ("['Comedy' 'Indie']", ["Comedy", "Indie"]),
        ("[Comedy, Indie]", ["Comedy", "Indie"]),
        ("{Comedy,Indie}", ["Comedy", "Indie"]),
        ('[["Books", "Food"]]', ["Books", "Food"]),
        ("[1 20]", ["1", "20"]),
        ("['Comedy', None, nan, 'nan']", ["Comedy"]),
        ("[]", []),
        ("Comedy|Indie", ["Comedy", "Indie"]),
        ("Comedy | Indie", ["Comedy", "Indie"]),
        ("Tom [live]", ["Tom [live]"]),
    ],
)
def test_a_list_in_writing_is_read(tmp_path: Path, cell: str, kinds: list[str]) -> None:
    cell = cell.replace("None, nan, ", "None, ")
    assert read_kinds(tmp_path, [cell, "x|y"]).items["attributes"].to_list() == [kinds, ["x", "y"]]


def test_lists_in_writing_are_counted(tmp_path: Path) -> None:
    assert read_kinds(tmp_path, ["['a']", "[]", "x|y"]).counts["attributes_lists_parsed"] == 2


def test_a_field_of_records_is_named(tmp_path: Path) -> None:
    """TMDB writes records as Python does, with single quotes."""
    cells = [
        str([{"id": 18, "name": "Drama"}, {"id": 35, "name": "It's fun"}]),
        json.dumps([{"id": 1, "name": "War"}]),
        "",
    ]
    with pytest.raises(
        DataError,
        match=r"item_columns.attributes: 2 cells of 'genres' in .*items.csv are written like a list but can't be "
        r"read as one, such as .*They hold records with \['id', 'name'\]: name the field to take, such as 'genres.n",
    ):
        read_kinds(tmp_path, cells)
    ratings = read_kinds(tmp_path, cells, item_columns=ItemColumns(attributes="genres.name"))
    assert ratings.items["attributes"].to_list() == [["Drama", "It's fun"], ["War"], []]


def test_a_field_of_parquet_records_is_named(tmp_path: Path) -> None:
    frame = pl.DataFrame({"isbn": ["b1", "b2"], "genres": [[{"id": 1, "name": "War"}, {"id": 2, "name": "Sea"}], []]})
    frame.write_parquet(tmp_path / "items.parquet")
    items = str(tmp_path / "items.parquet")
    with pytest.raises(
        DataError, match=r"attributes: column 'genres' of .* holds records with \['id', 'name'\].*'genres.name'"
    ):
        books(tmp_path, items=items, item_columns=ItemColumns(attributes="genres")).read()
    ratings = books(tmp_path, items=items, item_columns=ItemColumns(attributes="genres.name")).read()
    assert ratings.items["attributes"].to_list() == [["War", "Sea"], []]


@pytest.mark.parametrize("cell", ["['Comedy', 'Ind", "[{'id': 18, 'name'}]", "['a', b]"])
def test_a_list_that_cannot_be_read_is_shown_or_dropped(tmp_path: Path, cell: str) -> None:
    cells = [cell, *["x|y"] * 20]
    with pytest.raises(
        DataError, match=r"1 cells of 'genres' in .*can't be read as one, such as .*Correct them, or set"
    ):
        read_kinds(tmp_path, cells)
    ratings = read_kinds(tmp_path, cells, bad_rows="drop")
    assert ratings.items["attributes"].to_list()[:2] == [[], ["x", "y"]]
    assert (ratings.counts["bad_attributes"], ratings.counts["bad_item_rows"]) == (1, 0)


def test_another_separator_is_seen(tmp_path: Path) -> None:
    cells = ["Comedy, Indie", "Drama, War", "Sea"]
    with pytest.raises(
        DataError,
        match=r"text.attribute_separator is '\|', which no cell of 'genres' in .* holds, but 2 of 3 hold ',', such as "
        r"\['Comedy, Indie'\]. Set it to ',', or to null where a cell is a single attribute\.",
    ):
        read_kinds(tmp_path, cells)
    assert read_kinds(tmp_path, cells, text=TextFormat(attribute_separator=",")).items["attributes"].to_list() == [
        ["Comedy", "Indie"], ["Drama", "War"], ["Sea"],
    ]  # fmt: skip
    whole = read_kinds(tmp_path, cells, text=TextFormat(attribute_separator=None))
    assert whole.items["attributes"].to_list() == [[cell] for cell in cells]


def own(tmp_path: Path, cells: list[str], items: str | None = None) -> Ratings:
    """The own histories of a log with these cells."""
    frame = pl.DataFrame({"user_id": "u", "item_id": [f"i{at}" for at in range(len(cells))], "label": 1, "past": cells})
    frame.write_csv(tmp_path / "log.csv")
    return Table(str(tmp_path / "log.csv"), items, columns=RatingColumns(label="label", history="past")).read()


def test_histories_in_writing_are_read(tmp_path: Path) -> None:
    ratings = own(tmp_path, ["['a', 'b']", "[101 102]", '["a"]', "a b", "[]"])
    assert ratings.own_histories is not None
    assert ratings.own_histories["item_ids"].to_list() == [["a", "b"], ["101", "102"], ["a"], []]
    with pytest.raises(
        DataError, match=r"has 1 bad line\(s\), .*item ids between ' ', or a list of them, in 'past'.*line 2"
    ):
        own(tmp_path, ["['a', 'b", "a"])


def test_histories_of_unknown_items_are_an_error(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "item_id\ni0\ni1\ni2\n")
    with pytest.raises(
        DataError,
        match=r"columns.history: 3 of 3 entries in .* are no item that is known, such as \['i1\+i2', 'i0\+i2', .*"
        r"text.history_separator right\?",
    ):
        own(tmp_path, ["i1+i2", "i0+i2", "i0+i1"], items)
    with pytest.raises(
        DataError, match=r"history_separator is ' ', which no cell of 'past' in .* holds, but 3 of 3 hold ','"
    ):
        own(tmp_path, ["i1,i2", "i0,i2", "i0,i1"])


# Values that mean nothing


def test_missing_ratings_are_left_out_and_counted(tmp_path: Path) -> None:
    log = HEAD + "ann,b1,0,1\nann,b2,8,2\nbob,b1,-1,3\nbob,b2,2,4\n"
    ratings = books(tmp_path, log, missing_ratings=[0, -1]).read()
    assert triples(ratings) == [("ann", "b2", 8.0), ("bob", "b2", 2.0)]
    assert (ratings.counts["ratings_read"], ratings.counts["ratings_missing"]) == (4, 2)
    with pytest.raises(DataError, match=r"missing_ratings: \[8.0, 2.0, 0.0, -1.0\] are all of the 4 ratings"):
        books(tmp_path, log, missing_ratings=[8.0, 2.0, 0.0, -1.0]).read()
    with pytest.raises(DataError, match=r"missing_ratings needs dataset.init_args.columns.rating"):
        Table("a.csv", columns=RatingColumns(label="l"), missing_ratings=[0])


def test_missing_ratings_of_a_history_are_left_out(tmp_path: Path) -> None:
    log = put(tmp_path / "log.csv", "user_id,item_id,stars,past,rates\nu,a,4,p q,5 0\nu,b,2,,\n")
    columns = RatingColumns(rating="stars", history="past", history_ratings="rates")
    ratings = Table(log, columns=columns, missing_ratings=[0]).read()
    assert ratings.own_histories is not None
    assert ratings.own_histories["item_ids"].to_list() == [["p"], []]
    assert ratings.counts["history_ratings_missing"] == 1


@pytest.mark.parametrize(
    ("odd", "others", "said"),
    [(0, range(1, 11), "30 of 80 ratings are 0, the others go from 1 to 10"),
     (-1, [1, 2, 3], "the others go from 1 to 3"),
     (99, range(-10, 11), "are 99, the others go from -10 to 10"), (0, [0.5, 1, 1.5, 2], ""), (5, [1, 2, 3, 4], "")],
)  # fmt: skip
def test_a_frequent_rating_far_from_the_others_is_noticed(tmp_path: Path, odd: float, others: Any, said: str) -> None:
    """Zeros among half stars that are no more frequent than the others are a rating."""
    each = 5 if said else 30
    stars = [odd] * 30 + [one for one in others for _ in range(each)]
    log = HEAD + "".join(f"u{at},b,{star},{at}\n" for at, star in enumerate(stars))
    notices = books(tmp_path, log).read().notices
    assert len(notices) == bool(said)
    assert said in "".join(notices)
    assert not said or f"set dataset.init_args.missing_ratings to [{odd}]" in notices[0]
    assert books(tmp_path, log, missing_ratings=[odd]).read().notices == ()


@pytest.mark.parametrize(
    "year", ["0", "0000", "8888", "9999", "-1", "99", "0.0", "N/A", "nan", "unknown", "9999-12-31"]
)
def test_years_that_are_none_are_unknown_and_counted(tmp_path: Path, year: str) -> None:
    items = put(tmp_path / "items.csv", f"isbn,name,genres,published\nb1,A,,{year}\nb2,B,,1999.0\nb3,C,,\n")
    ratings = books(tmp_path, items=items, item_columns=ABOUT).read()
    assert ratings.items["year"].to_list() == [None, 1999, None]
    assert ratings.counts["years_unknown"] == 1


@pytest.mark.parametrize("word", ["(no genres listed)", "N/A", "null", "nan", "None", "\\N", "unknown", "<NA>", "-"])
def test_words_for_nothing_are_unknown_and_counted(tmp_path: Path, word: str) -> None:
    items = put(
        tmp_path / "items.csv", f"isbn,name,genres,published\nb1,{word},{word}|Food,\nb2,{word},{word},\nb3,C,Sea,\n"
    )
    users = put(tmp_path / "users.csv", f"reader,town\nann,{word}\nbob,Rome\n")
    arguments = {"item_columns": ABOUT, "users": users, "user_columns": UserColumns(attributes=["town"])}
    ratings = books(tmp_path, items=items, **arguments).read()
    assert ratings.items["title"].to_list() == ["b1", "b2", "C"]
    assert ratings.items["attributes"].to_list() == [["Food"], [], ["Sea"]]
    assert ratings.users["attributes"].to_list() == [[], ["Rome"]]
    counts = ratings.counts
    assert (counts["titles_unknown"], counts["items_without_title"], counts["attributes_unknown"]) == (2, 2, 2)
    assert counts["user_attributes_unknown"] == 1


def test_one_film_may_be_called_unknown(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn,name\nb1,Unknown\nb2,Salt\n")
    assert books(tmp_path, items=items, item_columns=ItemColumns(title="name")).read().items["title"][0] == "Unknown"


# Times

SECOND = 1573463158  # 2019-11-11 09:05:58 UTC


@pytest.mark.parametrize(
    ("unit", "factor", "likely", "words"),
    [("s", 1000, "ms", "milliseconds"), ("s", 10**6, "us", "microseconds"), ("ms", 1, "s", "seconds"),
     ("us", 1, "s", "seconds"), ("us", 1000, "ms", "milliseconds"), ("ms", 10**9, "ns", "nanoseconds"),
     ("iso", 1, "s", "seconds"), ("%d.%m.%Y", 1000, "ms", "milliseconds")],
)  # fmt: skip
@pytest.mark.parametrize("drop", ["error", "drop"])
def test_times_of_another_unit_are_an_error_that_names_it(
    tmp_path: Path, unit: str, factor: int, likely: str, words: str, drop: Any
) -> None:
    log = HEAD + "".join(f"u{at},b,5,{(SECOND + at) * factor}\n" for at in range(5))
    with pytest.raises(
        DataError,
        match=rf"^dataset.init_args.time_unit is '{unit}', but the times of 'when' in .* look like {words}, such as "
        rf"{SECOND * factor}. Set it to {likely}\.",
    ):
        books(tmp_path, log, time_unit=unit, bad_rows=drop).read()
    right = books(tmp_path, log, time_unit=likely).read().interactions["timestamp"].to_list()
    assert right == [SECOND + at for at in range(5)]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_mixed_units_are_an_error(tmp_path: Path, unit: str) -> None:
    log = HEAD + "".join(f"u{at},b,5,{(SECOND + at) * (1000 if at % 4 == 0 else 1)}\n" for at in range(8))
    with pytest.raises(
        DataError,
        match=r"columns.timestamp: the times of 'when' in .* have several units: 75% look like seconds "
        r"\(1573463159\) and 25% look like milliseconds \(1573463158000\)",
    ):
        books(tmp_path, log, time_unit=unit).read()


def test_a_single_time_that_is_none_is_a_bad_row(tmp_path: Path) -> None:
    log = HEAD + "".join(f"u{at},b,5,{SECOND + at}\n" for at in range(200)) + "x,b,5,1e12\n"
    with pytest.raises(
        DataError, match=r"has 1 bad line\(s\), .*a time \(dataset.init_args.time_unit: s\) in 'when': line 202"
    ):
        books(tmp_path, log).read()
    assert books(tmp_path, log, bad_rows="drop").read().counts["bad_rows"] == 1


def test_small_numbers_are_times_since_anything(tmp_path: Path) -> None:
    for unit in ("s", "ms"):
        assert books(tmp_path, LOG, time_unit=unit).read().interactions.height == 3


def test_dates_that_were_made_of_another_unit_are_an_error(tmp_path: Path) -> None:
    """`pandas.to_datetime` takes seconds for nanoseconds."""
    frame = pl.DataFrame({"reader": ["a", "b"], "isbn": ["x", "y"], "stars": [5, 1]})
    when = [datetime(1970, 1, 1, 0, 0, 1, 573463), datetime(1970, 1, 1, 0, 0, 1, 573464)]
    frame.with_columns(when=pl.Series(when)).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(
        DataError, match=r"columns.timestamp: all 2 times of 'when' in .* lie in the first months of 1970"
    ):
        Table(str(tmp_path / "log.parquet"), columns=BOOK_COLUMNS).read()
    when[0] = datetime(2019, 1, 1)
    frame.with_columns(when=pl.Series(when)).write_parquet(tmp_path / "log.parquet")
    assert Table(str(tmp_path / "log.parquet"), columns=BOOK_COLUMNS).read().counts["times_in_early_1970"] == 1


# Bad fields and the share of bad rows


def test_a_bad_field_leaves_its_row(tmp_path: Path) -> None:
    rows = "".join(f"b{at},Title {at},,1999\n" for at in range(3, 40))
    items = put(tmp_path / "items.csv", "isbn,name,genres,published\nb1,A,,long ago\nb2,B,,2001\n" + rows)
    with pytest.raises(
        DataError, match=r"has 1 bad line\(s\), .*a year or nothing in 'published': line 2: 'b1,A,,long ago'"
    ):
        books(tmp_path, items=items, item_columns=ABOUT).read()
    ratings = books(tmp_path, items=items, item_columns=ABOUT, bad_rows="drop").read()
    assert ratings.items.head(2).rows() == [("b1", "A", [], None), ("b2", "B", [], 2001)]
    assert (ratings.counts["bad_years"], ratings.counts["bad_item_rows"]) == (1, 0)


def test_too_many_bad_rows_stop_even_where_they_are_dropped(tmp_path: Path) -> None:
    log = HEAD + "".join(f"u{at},b,{'five' if at % 10 == 0 else 5},1\n" for at in range(100))
    with pytest.raises(
        DataError,
        match=r"^dataset.init_args.ratings: 10 of 100 rows of .*log.csv are bad \(bad_rows\), more than "
        r"dataset.init_args.max_bad: 0.05 allows. .*line 2: 'u0,b,five,1'; .*Correct the settings or the file, or ra",
    ):
        books(tmp_path, log, bad_rows="drop").read()
    assert books(tmp_path, log, bad_rows="drop", max_bad=0.1).read().counts["bad_rows"] == 10
    with pytest.raises(DataError, match=r"max_bad must be a share in \[0, 1\], got 5"):
        books(tmp_path, log, bad_rows="drop", max_bad=5)


def test_too_many_bad_fields_stop_even_where_they_are_dropped(tmp_path: Path) -> None:
    items = put(tmp_path / "items.csv", "isbn,name,genres,published\nb1,A,,long ago\nb2,B,,2001\n")
    with pytest.raises(DataError, match=r"items: 1 of 2 rows of .* are bad \(bad_years\), .* line 2: 'b1,A,,long ago'"):
        books(tmp_path, items=items, item_columns=ABOUT, bad_rows="drop").read()

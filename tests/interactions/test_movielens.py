"""The MovieLens readers, on files of a few lines in each of the five formats."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packers import PACKERS
from shapes import write_movielens

from trackrec.interactions import DataError, MovieLens
from trackrec.interactions.sources import movielens as room
from trackrec.interactions.sources.movielens_files import split_title
from trackrec.storage.schemas import SCHEMAS, to_arrow


def put(root: Path, **files: str) -> Path:
    """Files named with _ for the dot, in Latin-1 as GroupLens writes them."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("_", ".")).write_bytes(text.encode("latin-1"))
    return root


def flags(*on: int) -> str:
    return "|".join("1" if position in on else "0" for position in range(19))


def write_100k(root: Path, ratings: str = "7\t2\t4\t887431900\n12\t1\t3\t887431973\n") -> Path:
    items = (
        f"1|Matrix, The (1999)|31-Mar-1999||http://a?b|{flags(1, 15)}\n"
        f"2|Misérables, Les (1995)|20-Oct-1995||http://c|{flags(8, 4)}\n"
        f"3|unknown||||{flags(0)}\n"
    )
    return put(root, u_data=ratings, u_item=items, u_user="7|24|M|technician|85711\n12|53|F|other|94043\n")


def write_1m(root: Path, ratings: str = "1::10::5::978300760\n2::11::3::978302109\n") -> Path:
    movies = "10::Léon, \"the\" Fish: Wanda, A (1988)::Comedy\n11::Cité, La (L'Été) (1995)::Children's|Sci-Fi\n"
    return put(root, ratings_dat=ratings, movies_dat=movies, users_dat="1::F::1::10::48067\n2::M::56::16::70072\n")


def write_10m(root: Path) -> Path:
    movies = "122::Boomerang (1992)::Comedy|Romance\n185::Net: a: b, The (1995)::Action\n"
    ratings = "1::122::5::838985046\n2::185::3.5::838983525\n"
    return put(root, ratings_dat=ratings, movies_dat=movies, tags_dat="15::4973::excellent!::1215184630\n")


def write_recbole(root: Path) -> Path:
    root.mkdir(parents=True)
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n5\t9\t4\t881250949\n5\t8\t2.5\t881250950\n"
    item = (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "8\tUsual Suspects, The\t1995\tCrime Thriller\n9\tMisérables, Les\t1995\tChildren's Drama\n"
    )
    user = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n5\t24\tM\twriter\t85711\n"
    for kind, text in {"inter": inter, "item": item, "user": user}.items():
        (root / f"ml-100k.{kind}").write_text(text, encoding="utf-8")
    return root


def test_ml_100k_reads_flags_latin_1_and_articles(tmp_path: Path) -> None:
    ratings = MovieLens(write_100k(tmp_path / "ml-100k"), download=False).read()
    assert ratings.items.rows() == [
        ("1", "The Matrix", ["Action", "Sci-Fi"], 1999),
        ("2", "Les Misérables", ["Children's", "Drama"], 1995),
        ("3", "unknown", [], None),
    ]
    assert ratings.users.rows() == [("7", ["24 years", "male", "technician"]), ("12", ["53 years", "female", "other"])]
    assert ratings.interactions.rows() == [("7", "2", 4.0, 887431900, 0), ("12", "1", 3.0, 887431973, 1)]


def test_ml_1m_reads_double_colons_and_codes(tmp_path: Path) -> None:
    ratings = MovieLens(write_1m(tmp_path), download=False).read()
    assert ratings.items.rows() == [
        ("10", 'A Léon, "the" Fish: Wanda', ["Comedy"], 1988),
        ("11", "La Cité (L'Été)", ["Children's", "Sci-Fi"], 1995),
    ]
    assert ratings.users.rows() == [
        ("1", ["Under 18", "female", "K-12 student"]),
        ("2", ["56+", "male", "self-employed"]),
    ]
    assert ratings.interactions.rows() == [("1", "10", 5.0, 978300760, 0), ("2", "11", 3.0, 978302109, 1)]


def test_recbole_reads_typed_headers_and_utf_8(tmp_path: Path) -> None:
    ratings = MovieLens(write_recbole(tmp_path / "any"), variant="recbole", download=False).read()
    assert ratings.items.rows() == [
        ("8", "The Usual Suspects", ["Crime", "Thriller"], 1995),
        ("9", "Les Misérables", ["Children's", "Drama"], 1995),
    ]
    assert ratings.users.rows() == [("5", ["24 years", "male", "writer"])]
    assert ratings.interactions.rows() == [("5", "9", 4.0, 881250949, 0), ("5", "8", 2.5, 881250950, 1)]


def test_ml_10m_has_no_users_and_half_stars(tmp_path: Path) -> None:
    """https://files.grouplens.org/datasets/movielens/ml-10m-README.html"""
    root = write_10m(tmp_path)
    ratings = MovieLens(root, download=False).read()
    assert ratings.items.rows() == [
        ("122", "Boomerang", ["Comedy", "Romance"], 1992),
        ("185", "The Net: a: b", ["Action"], 1995),
    ]
    assert ratings.users.rows() == [("1", []), ("2", [])]
    assert ratings.interactions.rows() == [("1", "122", 5.0, 838985046, 0), ("2", "185", 3.5, 838983525, 1)]
    assert list(MovieLens(root).content_key()) == ["movies.dat", "ratings.dat"]
    (root / "tags.dat").unlink()
    with pytest.raises(DataError, match=r"lacks users.dat"):
        MovieLens(root).read()
    assert MovieLens(root, variant="ml-10m").read().counts["ratings"] == 2


def test_ml_latest_reads_quoted_titles_and_films_without_genres(tmp_path: Path) -> None:
    """https://files.grouplens.org/datasets/movielens/ml-latest-README.html; of a series the first year is told."""
    movies = (
        "movieId,title,genres\n"
        '11,"American President, The (1995)",Comedy|Drama|Romance\n'
        '29,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",Adventure\n'
        "131,Death Note: Desu nôto (2006\u20132007),(no genres listed)\n"
        '140,"Say ""Hi"" (1999) ",(no genres listed)\n'
        "150,Babylon 5,Sci-Fi\n"
    )
    log = "userId,movieId,rating,timestamp\n1,11,4.0,964982703\n1,29,0.5,964981247\n2,131,5.0,1445714835\n"
    for name, text in (("movies.csv", movies), ("ratings.csv", log), ("links.csv", "movieId\n"), ("tags.csv", "x\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    ratings = MovieLens(tmp_path, download=False).read()
    assert ratings.items.rows() == [
        ("11", "The American President", ["Comedy", "Drama", "Romance"], 1995),
        ("29", "The City of Lost Children (La Cité des enfants perdus)", ["Adventure"], 1995),
        ("131", "Death Note: Desu nôto", [], 2006),
        ("140", 'Say "Hi"', [], 1999),
        ("150", "Babylon 5", ["Sci-Fi"], None),
    ]
    assert ratings.interactions.rows() == [
        ("1", "11", 4.0, 964982703, 0),
        ("1", "29", 0.5, 964981247, 1),
        ("2", "131", 5.0, 1445714835, 2),
    ]
    assert ratings.users.rows() == [("1", []), ("2", [])]
    for variant in ("ml-latest", "ml-latest-small", "ml-20m", "ml-25m", "ml-32m"):
        assert MovieLens(tmp_path, variant=variant).content_key() == MovieLens(tmp_path).content_key()  # type: ignore[arg-type]


LOG, MOVIES = "userId,movieId,rating,timestamp\n", "movieId,title,genres\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ratings.csv", f"{LOG}1,1,4,5\n1,2,x,5\n", r"has 1 bad .*: line 3: '1,2,x,5'. Correct or delete"),
        ("ratings.csv", f"{LOG}1,1,4,1e300\n", r"seconds in 'timestamp': line 2: '1,1,4,1e300'"),
        ("ratings.csv", LOG, r"holds no ratings. Fetch the file again"),
        ("ratings.csv", "userId,rating,timestamp\n1,4,1\n", r"lacks the column\(s\) \['movieId'\]; .* \['userId', 'r"),
        ("movies.csv", f"{MOVIES}1,A (1999),X\n1,B,Y\n", r"tells twice of \['1'\]. Keep one line of each"),
        ("movies.csv", f"{MOVIES}1,A,B,C\n", r"want 3 fields between ',';.*line 2: '1,A,B,C'. Correct or delete"),
        ("movies.csv", f'{MOVIES}1,"A,B\n', r"line 2: a quotation mark opens there and never closes. Correct"),
    ],
)
def test_bad_lines_of_the_csv_releases_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_movielens(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"^dataset.init_args.root: .*{name} .*{message}") as failed:
        MovieLens(tmp_path, download=False).read()
    assert str(failed.value).count("dataset.init_args.") == 1


@pytest.mark.parametrize(
    ("write", "ending"),
    list(zip([write_100k, write_1m, write_10m, write_recbole, write_movielens], PACKERS, strict=True)),
)
def test_every_file_may_be_compressed(tmp_path: Path, write: Callable[[Path], Path], ending: str) -> None:
    root = tmp_path / "data"
    write(root)
    plain = MovieLens(root, download=False).read()
    for path in list(root.iterdir()):
        (root / (path.name + ending)).write_bytes(PACKERS[ending](path.read_bytes()))
        path.unlink()
    packed = MovieLens(root, download=False)
    ratings = packed.read()
    assert ratings.counts == plain.counts
    for table in ("items", "users", "interactions"):
        assert getattr(ratings, table).equals(getattr(plain, table))
    key = packed.content_key()
    assert key == {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in key}
    assert all(name.endswith(ending) for name in key)


@pytest.mark.parametrize("write", [write_100k, write_1m, write_recbole])
def test_frames_fit_the_tables(tmp_path: Path, write) -> None:
    ratings = MovieLens(write(tmp_path / "data"), download=False).read()
    for table in ("items", "users", "interactions"):
        frame = getattr(ratings, table)
        assert to_arrow(table, frame).schema == SCHEMAS[table]
        assert frame.columns == SCHEMAS[table].names


@pytest.mark.parametrize(
    ("raw", "title", "year"),
    [
        ("Toy Story (1995)", "Toy Story", 1995),
        ("Avventura, L' (1960)", "L'Avventura", 1960),
        ("Horseman on the Roof, The (Hussard sur le toit, Le) (1995)", None, 1995),
        ("Land Before Time III, The (1995) (V)", "The Land Before Time III", 1995),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("Mrs. Brown (Her Majesty, Mrs. Brown) (1997)", "Mrs. Brown (Her Majesty, Mrs. Brown)", 1997),
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly", 1966),
        ("1984", "1984", None),
    ],
)
def test_titles_read_as_spoken(raw: str, title: str | None, year: int | None) -> None:
    assert split_title(raw) == (title or "The Horseman on the Roof (Le Hussard sur le toit)", year)


def test_fault_16_user_attributes_survive_id_mapping(tmp_path: Path) -> None:
    """The release looked a re-mapped id up; here user 12, first in the ratings and last in the users, is still 12."""
    ratings = MovieLens(write_100k(tmp_path, ratings="12\t1\t5\t10\n7\t1\t5\t20\n"), download=False).read()
    joined = ratings.interactions.join(ratings.users, on="user_id", how="left", maintain_order="left")
    assert joined["attributes"].to_list() == [["53 years", "female", "other"], ["24 years", "male", "technician"]]


def test_fault_17_timestamps_are_not_cut_to_the_day(tmp_path: Path) -> None:
    """Two ratings of one day, the later one first in the file: their seconds survive."""
    ratings = MovieLens(write_1m(tmp_path, "1::10::5::978300761\n1::11::3::978300760\n"), download=False).read()
    assert ratings.interactions["timestamp"].to_list() == [978300761, 978300760]


def test_duplicates_and_strangers_are_counted(tmp_path: Path) -> None:
    lines = ["7\t1\t2\t200", "7\t1\t5\t100", "7\t99\t5\t100", "12\t2\t3\t50", "12\t2\t4\t50", "300\t1\t4\t60"]
    ratings = MovieLens(write_100k(tmp_path, "\n".join(lines)), download=False).read()
    assert ratings.interactions.rows() == [("7", "1", 2.0, 200, 0), ("12", "2", 4.0, 50, 4), ("300", "1", 4.0, 60, 5)]
    assert ratings.users.rows()[-1] == ("300", [])
    assert ratings.counts == {
        "ratings_read": 6,
        "ratings_of_unknown_items": 1,
        "duplicate_ratings": 2,
        "users_without_row": 1,
        "items": 3,
        "users": 3,
        "ratings": 3,
    }


@pytest.mark.parametrize(
    ("ratings", "line", "text"),
    [
        ("1::10::5::978300760\n\n1::11::five::978300761\n", "line 3", "five"),
        ("1::10::5::978300760\n1::11::5\n", "line 2", "1::11::5"),
        ("1::10::nan::978300760\n", "line 1", "nan"),
        ("1::10::5::soon\r\n", "line 1", "soon"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, ratings: str, line: str, text: str) -> None:
    with pytest.raises(DataError, match=rf"^dataset.init_args.root: .*ratings.dat has 1 bad.*{line}: .*{text}"):
        MovieLens(write_1m(tmp_path, ratings), download=False).read()


def test_only_the_first_bad_lines_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 9 bad line.*line 1: .*line 3: .*and 6 more"):
        MovieLens(write_1m(tmp_path, "x\n" * 9), download=False).read()


def test_repeated_items_and_unknown_codes_are_errors(tmp_path: Path) -> None:
    root = write_1m(tmp_path / "a")
    put(root, movies_dat="10::A::Drama\n10::B::Drama\n")
    with pytest.raises(DataError, match=r"movies.dat has 1 bad line.*line 2"):
        MovieLens(root, download=False).read()
    root = write_1m(tmp_path / "b")
    put(root, users_dat="1::F::1::10::48067\n2::M::2::16::70072\n")
    with pytest.raises(DataError, match=r"users.dat has 1 bad line.*56, occupation 0 to 20: line 2"):
        MovieLens(root, download=False).read()


def test_a_header_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    root = write_recbole(tmp_path / "data")
    (root / "ml-100k.inter").write_text("user_id:token\titem_id:token\trating:float\n5\t9\t4\n")
    with pytest.raises(DataError, match=r"lacks the column\(s\) \['timestamp'\]"):
        MovieLens(root, download=False).read()


def test_a_header_that_names_a_column_twice_is_an_error(tmp_path: Path) -> None:
    root = write_recbole(tmp_path / "data")
    text = (root / "ml-100k.item").read_text(encoding="utf-8")
    for name in ("item_id", "line", "text"):
        (root / "ml-100k.item").write_text(text.replace("class", name), encoding="utf-8")
        with pytest.raises(
            DataError, match=r"ml-100k.item repeats a column or has one named 'line' or 'text': \['item_id'"
        ):
            MovieLens(root, download=False).read()


@pytest.mark.parametrize("seconds", ["4e25", "978300760000", "-1e12"])
def test_times_beyond_all_seconds_are_bad(tmp_path: Path, seconds: str) -> None:
    with pytest.raises(DataError, match=r"seconds as timestamp: line 1: "):
        MovieLens(write_1m(tmp_path, f"1::10::5::{seconds}\n"), download=False).read()


def test_a_missing_root_says_what_to_do(tmp_path: Path) -> None:
    source = MovieLens(tmp_path / "ml-1m", download=False)
    wanted = (
        r"^dataset.init_args.root: .*ml-1m' is missing or empty.*ml-1m.zip .*ratings.dat.*init_args.download to true"
    )
    with pytest.raises(DataError, match=wanted) as of_read:
        source.read()
    with pytest.raises(DataError) as of_key:
        source.content_key()
    assert str(of_read.value) == str(of_key.value)
    with pytest.raises(DataError, match=r"Set dataset.init_args.variant to ml-100k or ml-1m"):
        MovieLens(tmp_path / "films").read()
    with pytest.raises(DataError, match=r"Put \*\.inter"):
        MovieLens(tmp_path / "ml-1m", variant="recbole").read()


def test_incomplete_and_ambiguous_roots_are_named(tmp_path: Path) -> None:
    root = write_1m(tmp_path / "ml-1m")
    with pytest.raises(DataError, match=r"holds no ratings; want .* Did you mean .*ml-1m'\?"):
        MovieLens(tmp_path).read()
    (root / "movies.dat").unlink()
    with pytest.raises(DataError, match=r"lacks movies.dat"):
        MovieLens(root).read()
    write_100k(root)
    with pytest.raises(DataError, match=r"several formats. Set dataset.init_args.variant"):
        MovieLens(root).read()
    with pytest.raises(DataError, match=r"must be a folder"):
        MovieLens(root / "u.data").read()


def test_arguments_are_checked_without_reading(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.init_args.variant must be one of .*'ml-15m'. Did you mean 'ml-1m'\?"):
        MovieLens(tmp_path, variant="ml-15m")
    with pytest.raises(DataError, match=r"dataset.init_args.threshold must be in \[1, 5\), got nan"):
        MovieLens(tmp_path, threshold=float("nan"))
    assert MovieLens(tmp_path / "nowhere").threshold == 3.0


def test_the_content_key_follows_the_bytes(tmp_path: Path) -> None:
    root = write_1m(tmp_path)
    (root / "notes.txt").write_text("not read")
    source = MovieLens(root)
    before = source.content_key()
    assert list(before) == ["movies.dat", "ratings.dat", "users.dat"]
    assert before["users.dat"] == hashlib.sha256((root / "users.dat").read_bytes()).hexdigest()
    write_1m(root, "1::10::4::978300760\n")
    changed = {name for name, key in source.content_key().items() if key != before[name]}
    assert changed == {"ratings.dat"}


def test_a_missing_root_is_fetched_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, root = write_1m(tmp_path / "site"), tmp_path / "data" / "ml-1m"
    monkeypatch.setattr(room, "GROUPLENS", files.as_uri())
    with pytest.raises(DataError, match=r"can't be fetched .*Fetch it by hand and unpack it so that .*ratings.dat"):
        MovieLens(root).read()
    assert list(root.parent.iterdir()) == []
    with zipfile.ZipFile(files / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/README", "terms")
        for path in files.glob("*.dat"):
            archive.write(path, f"ml-1m/{path.name}")
    assert MovieLens(root).read().counts["ratings"] == 2
    assert [path.name for path in root.parent.iterdir()] == ["ml-1m"]
    assert (root / "README").read_text() == "terms"


@pytest.mark.parametrize(
    ("folder", "archive", "inside"),
    [("ml-latest-small", "ml-latest-small", "ml-latest-small"), ("ml-10m", "ml-10m", "ml-10M100K")],
)
def test_later_releases_are_fetched_by_the_name_of_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, archive: str, inside: str
) -> None:
    files = tmp_path / "site"
    (write_10m if folder == "ml-10m" else write_movielens)(files)
    monkeypatch.setattr(room, "GROUPLENS", files.as_uri())
    with zipfile.ZipFile(files / f"{archive}.zip", "w") as packed:
        packed.writestr(f"{inside}/README.txt", "terms")
        for path in (*files.glob("*.dat"), *files.glob("*.csv")):
            packed.write(path, f"{inside}/{path.name}")
    root = tmp_path / folder
    assert MovieLens(root).read().counts["ratings"] == (2 if folder == "ml-10m" else 750)
    assert (root / "README.txt").read_text() == "terms"


def test_an_archive_of_a_release_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "ml-latest.zip").write_bytes(PACKERS[".zip"](b""))
    with pytest.raises(DataError, match=r"must be a folder, got the file .*ml-latest.zip'. Unpack it. It should hold"):
        MovieLens(tmp_path / "ml-latest.zip").read()

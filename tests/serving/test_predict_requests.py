"""What `trackrec predict` is asked and what it writes: every column stays, ids are text, a row without one is named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from trackrec.interactions import DataError
from trackrec.prompts.settings import PromptSettings
from trackrec.serving.predict import predict
from trackrec.serving.request_files import (
    check_column,
    check_form,
    check_no_column,
    check_output,
    read_requests,
    write_answers,
)

P = pl.Series([0.25, None, 0.5], dtype=pl.Float32)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_ids_are_text(tmp_path):
    found = read_requests(written(tmp_path / "asked.csv", "user_id,item_id,place\n001, 0002007770,1\n1,B00X,2\n"))
    assert found.ids["user_id"].to_list() == ["001", "1"]
    assert found.ids["item_id"].to_list() == ["0002007770", "B00X"]
    pl.DataFrame({"item_id": ["a", "b"], "user_id": [1, 2]}).write_parquet(tmp_path / "asked.parquet")
    found = read_requests(tmp_path / "asked.parquet")
    assert found.ids["user_id"].to_list() == ["1", "2"]
    assert found.rows.columns == ["item_id", "user_id"]
    assert found.rows["user_id"].to_list() == [1, 2]


def test_whole_floats_are_the_ids_that_they_were_and_lists_are_none(tmp_path):
    path = tmp_path / "asked.parquet"
    pl.DataFrame({"user_id": [1.0, 22.0], "item_id": ["a", "2.0"]}).write_parquet(path)
    assert read_requests(path).ids.rows() == [("1", "a"), ("22", "2")]
    pl.DataFrame({"user_id": [1.0, 2.0**60], "item_id": ["a", "b"]}).write_parquet(path)
    with pytest.raises(DataError, match=r"^--requests: 1 ids of .*, such as '1.*e\+?18', have lost digits.*as text"):
        read_requests(path)
    pl.DataFrame({"user_id": [[1], [2]], "item_id": ["a", "b"]}).write_parquet(path)
    with pytest.raises(DataError, match=r"^--requests: column 'user_id' of .*asked\.parquet holds List"):
        read_requests(path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "user_id,item_id\n1,2\n1,\n", r"--requests: .*a\.csv has 1 bad line.*line 3: '1,'.* delete them\.$"),
        ("a.csv", "user_id,item_id\n", r"--requests: .*a\.csv holds no row"),
        ("a.csv", "", r"--requests: .*a\.csv is empty"),
        (
            "a.csv",
            'user_id,item_id\n1,"2\n',
            r"--requests: .* line 2: .* opens there.*Correct the line\.$",
        ),
        ("a.parquet", "no Parquet", r"--requests: .*a\.parquet can't be read"),
        ("a.csv", "user,item_id\n1,2\n", r"--requests: .*a\.csv lacks user_id; it has \['user', 'item_id'\]"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, words):
    path = written(tmp_path / name, text)
    with pytest.raises(DataError, match=words) as error:
        read_requests(path)
    assert "init_args" not in str(error.value)


def test_a_file_that_is_not_there_is_told_with_its_neighbour(tmp_path):
    written(tmp_path / "asked.csv", "user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"--requests: .*no such file\. Did you mean '.*asked\.csv'\?"):
        read_requests(tmp_path / "askd.csv")


def test_lines_of_objects_keep_lists_that_may_be_empty(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"user_id": 1, "item_id": 12345678901234567890, "x": []}\n'
        '{"user_id": 2, "item_id": "03", "x": ["a", "b"]}\n'
        '{"user_id": 3, "item_id": 4, "x": null}\n'
    )
    read = read_requests(path)
    assert read.ids.rows() == [("1", "12345678901234567890"), ("2", "03"), ("3", "4")]
    assert read.rows["x"].to_list() == [None, ["a", "b"], None]
    path.write_text('{"user_id": 1, "item_id": 2, "x": "a"}\n{"user_id": 2, "item_id": 3, "x": ["b"]}\n')
    with pytest.raises(DataError, match=r"--requests: a column of .*in\.jsonl holds single values in some lines and"):
        read_requests(path)


def test_a_folder_and_a_glob_are_their_files_in_order(tmp_path):
    for number in (2, 1):
        frame = pl.DataFrame({"user_id": [number, number], "item_id": ["a", "b"]})
        frame.write_parquet(tmp_path / f"part-{number}.parquet")
        frame.write_csv(tmp_path / f"part-{number}.csv")
    for where in (tmp_path, tmp_path / "*.csv"):
        assert read_requests(where).ids["user_id"].to_list() == ["1", "1", "2", "2"]
    written(tmp_path / "part-3.csv", "item_id,user_id\na,3\n")
    with pytest.raises(DataError, match=r"part-3\.csv has the columns \['item_id', 'user_id'\].*part-1\.csv has"):
        read_requests(tmp_path / "*.csv")


# A column may have any name, even one that the readers use themselves.
ASKED = 'good,user_id,code,item_id,place,=c,note\n1,u,007,a,3,1.5,x\n0,v,010,b,,22,\n1,w,1,c,5,0.25,"y, z"\n'


def test_every_column_stays_in_every_form(tmp_path):
    asked = read_requests(written(tmp_path / "asked.csv", ASKED))
    outputs = [tmp_path / f"out{ending}" for ending in (".csv", ".tsv", ".parquet", ".jsonl")]
    for output in outputs:
        write_answers(output, asked, {"p": P})
    assert outputs[0].read_text() == (
        "good,user_id,code,item_id,place,=c,note,p\n"
        '1,u,007,a,3,1.5,x,0.25\n0,v,010,b,,22,,\n1,w,1,c,5,0.25,"y, z",0.5\n'
    )
    assert outputs[1].read_text().splitlines()[1] == "1\tu\t007\ta\t3\t1.5\tx\t0.25"
    # Text files don't say what is a number: 007 and 010 would lose something, the places don't.
    due = {"good": [1, 0, 1], "user_id": ["u", "v", "w"], "code": ["007", "010", "1"], "item_id": ["a", "b", "c"]}
    due |= {"place": [3, None, 5], "=c": [1.5, 22.0, 0.25], "note": ["x", None, "y, z"], "p": [0.25, None, 0.5]}
    assert pl.read_parquet(outputs[2]).to_dict(as_series=False) == due
    assert pl.read_ndjson(outputs[3]).to_dict(as_series=False) == due


def test_parquet_keeps_its_types(tmp_path):
    frame = pl.DataFrame({"user_id": [7, 8, 9], "item_id": ["1", "2", "3"], "tags": [["a"], [], None], "code": "7"})
    frame.write_parquet(tmp_path / "asked.parquet")
    asked = read_requests(tmp_path / "asked.parquet")
    write_answers(tmp_path / "out.parquet", asked, {"chance": P})
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.drop("chance").equals(frame)
    assert found.drop("chance").schema == frame.schema
    check_form(tmp_path / "out.jsonl", asked)
    with pytest.raises(DataError, match=r"--output: a \.csv file can't hold the requests' column 'tags'"):
        check_form(tmp_path / "out.csv", asked)


def test_a_column_of_the_requests_is_never_replaced(tmp_path):
    path = written(tmp_path / "asked.csv", "user_id,item_id,p\n1,2,theirs\n")
    asked = read_requests(path)
    with pytest.raises(DataError, match=r"--column: .*asked\.csv has a column 'p' already.*--column p_predicted"):
        check_column("p", asked, path)
    with pytest.raises(DataError, match="--column"):
        check_column("user_id", asked, path)
    with pytest.raises(DataError, match="--column must name"):
        check_column(" ", asked, path)
    check_column("p_predicted", asked, path)
    check_no_column("answered_by", asked, path)
    with pytest.raises(DataError, match=r"--requests: .*asked\.csv has a column 'p' already, .*Rename it"):
        check_no_column("p", asked, path)


def test_the_output_is_a_file_of_a_known_kind(tmp_path):
    with pytest.raises(DataError, match=r"--output must end in \.parquet, \.csv, \.tsv, \.jsonl, got '.*out\.xlsx'"):
        check_output(tmp_path / "out.xlsx")
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_output(tmp_path / "out.csv")


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = written(tmp_path / "asked.csv", "user_id,item_id\n1,2\n")
    output = written(tmp_path / "out.csv", "of before")

    def crash(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trackrec.storage.atomic.os.fsync", crash)
    with pytest.raises(OSError, match="No space"):
        write_answers(output, read_requests(path), {"p": P.head(1)})
    assert output.read_text() == "of before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["asked.csv", "out.csv"]


def test_prompts_with_attributes_are_no_prompts_of_new_users(tmp_path):
    """The empty history that a new user gets is another user's, whose attributes stand in its prompts."""
    exp: Any = SimpleNamespace(prompts=PromptSettings(user_attributes=True))
    with pytest.raises(DataError, match=r"--unknown cold: prompts\.user_attributes is true"):
        predict(exp, None, tmp_path / "asked.csv", tmp_path / "p.parquet", "reccot", "cold")  # type: ignore[arg-type]

"""What `trackrec predict` is asked: ids are text, and a row without one is named."""

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from trackrec.interactions import DataError
from trackrec.prompts.settings import PromptSettings
from trackrec.serving.predict import predict, read_requests


def test_ids_are_text(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("user_id,item_id,place\n001, 0002007770,1\n1,B00X,2\n")
    found = read_requests(path)
    assert found["user_id"].to_list() == ["001", "1"]
    assert found["item_id"].to_list() == ["0002007770", "B00X"]
    assert found["place"].to_list() == [1, 2]
    found.with_columns(user_id=pl.Series([1, 2])).write_parquet(tmp_path / "asked.parquet")
    assert read_requests(tmp_path / "asked.parquet")["user_id"].to_list() == ["1", "2"]


def test_whole_floats_are_the_ids_that_they_were_and_lists_are_none(tmp_path):
    path = tmp_path / "asked.parquet"
    pl.DataFrame({"user_id": [1.0, 22.0], "item_id": [1.5, 2.0]}).write_parquet(path)
    found = read_requests(path)
    assert found["user_id"].to_list() == ["1", "22"]
    assert found["item_id"].to_list() == ["1.5", "2.0"]
    pl.DataFrame({"user_id": [[1], [2]], "item_id": ["a", "b"]}).write_parquet(path)
    with pytest.raises(DataError, match=r"asked\.parquet holds ids that are no text"):
        read_requests(path)


def test_a_row_without_an_id_is_named(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("user_id,item_id\n1,2\n1,\n")
    with pytest.raises(DataError, match=r"has 1 rows without item_id, the first is row 2"):
        read_requests(path)
    path.write_text("user_id,item_id\n")
    with pytest.raises(DataError, match=r"asked\.csv holds no row"):
        read_requests(path)
    path.with_suffix(".parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"asked\.parquet can't be read"):
        read_requests(path.with_suffix(".parquet"))
    path.write_text("user,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"lacks user_id; it has user, item_id"):
        read_requests(path)


def test_prompts_with_attributes_are_no_prompts_of_new_users(tmp_path):
    """The empty history that a new user gets is another user's, whose attributes stand in its prompts."""
    exp: Any = SimpleNamespace(prompts=PromptSettings(user_attributes=True))
    with pytest.raises(DataError, match=r"--unknown cold: prompts\.user_attributes is true"):
        predict(exp, None, tmp_path / "asked.csv", tmp_path / "p.parquet", "reccot", "cold")  # type: ignore[arg-type]

"""Text arms: which rows they keep, what their placebos hold, and what PCA and log-odds may read."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tiny import frame

from trackrec.ctr.arms.arm import Arm, parse_arms, scored_arms, text_sources
from trackrec.ctr.arms.assemble import CTRInputs, draw_arm, prepare, runnable_arms
from trackrec.ctr.arms.log_odds import (
    log_odds_arm,
    log_odds_of,
    log_odds_of_some_users,
    random_log_odds,
    shuffled_log_odds,
)
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.arms.texts import (
    MissingEmbeddingError,
    principal_components,
    random_texts,
    shuffled_texts,
    text_arm,
    texts_of_some_users,
)
from trackrec.ctr.features.features import TextArm
from trackrec.ctr.training.data import TensorLoader

HISTORIES = [f"h{u}" for u in range(12)]


def vectors(dim=6, seed=0, histories=HISTORIES):
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=dim).astype(np.float32) for key in histories}


@pytest.fixture
def inputs(tables):
    given = {"reccot": vectors(), "prompt": vectors(5, 1), "untuned": vectors(6, 2), "teacher": vectors(6, 3)}
    return CTRInputs(tables.samples, tables.histories, tables.items, tables.interactions, 3.0, given)


def batch_of(data, arm, split="train", net_seed=0):
    loader = TensorLoader(draw_arm(data, arm, 1, net_seed), split, arm)
    return loader.rows(torch.arange(loader.n_rows))


def test_arms_without_texts_are_left_out_and_said(inputs):
    given = inputs._replace(vectors={"reccot": vectors(), "teacher": vectors(histories=HISTORIES[:11])})
    arms, notes = runnable_arms(given, ["none", "reccot", "prompt", "teacher", "random"], TextSettings())
    assert arms == ["none", "reccot", "random"]
    assert notes == [
        "arm prompt left out: there are no vectors of prompt",
        "arm teacher left out: its texts cover 91.7% of the histories, less than 99%",
    ]
    kept = TextSettings(missing="keep", coverage=[0.5, 0.1])
    assert runnable_arms(given, ["none", "reccot", "teacher"], kept)[0] == [
        *("none", "reccot", "teacher", "reccot@0.5", "reccot@0.1")
    ]
    with pytest.raises(ValueError, match=r"ctr\.arms must be among none, reccot, .*got 'recot'"):
        runnable_arms(given, ["none", "recot"], TextSettings())
    with pytest.raises(ValueError, match=r"ctr\.text\.use: log_odds needs V's log-odds of the samples"):
        runnable_arms(given, ["none", "reccot"], TextSettings(use="log_odds"))
    with pytest.raises(ValueError, match="none of prompt can run: there are no vectors of prompt"):
        runnable_arms(given, ["prompt"], TextSettings())


def test_every_arm_has_the_same_rows_and_features(inputs):
    arms = ["none", "reccot", "shuffled", "random", "prompt", "untuned", "teacher", "reccot+prompt"]
    data = prepare(inputs, arms)
    plain = batch_of(data, "none")
    for arm in arms[1:]:
        batch = batch_of(data, arm)
        assert set(batch) - set(plain) == {"text"}, arm
        assert all(torch.equal(batch[name], plain[name]) for name in plain)
    own = torch.tensor(np.stack([inputs.vectors["reccot"][key] for key in HISTORIES]))
    history = data.splits["train"]["history"].long()
    assert torch.equal(batch_of(data, "reccot")["text"], own[history])
    joined = batch_of(data, "reccot+prompt")["text"]
    assert torch.equal(joined[:, :6], own[history])
    assert joined.shape[1] == 11
    assert not torch.isclose(batch_of(data, "random")["text"], own[history]).all(dim=1).any()


def test_random_vectors_belong_to_a_user_and_look_like_the_texts(inputs):
    data = prepare(inputs, ["reccot", "random"])
    text, history = batch_of(data, "random")["text"], data.splits["train"]["history"]
    assert len(text.unique(dim=0)) == len(history.unique()) == 12
    wide = text_arm(data, "wide", HISTORIES, 3.0 + 0.1 * np.random.default_rng(0).normal(size=(12, 4000)))
    noise = random_texts(wide, seed=2).matrix
    assert float(noise.mean()) == pytest.approx(3.0, abs=0.01)
    assert float(noise.std()) == pytest.approx(float(wide.matrix.std()), rel=0.2)
    again, other = (random_texts(wide, seed=seed).matrix for seed in (2, 3))
    assert torch.equal(noise, again)
    assert not torch.equal(noise, other)


def drawn_vectors(matrix, seed=0):
    return random_texts(TextArm(torch.tensor(matrix, dtype=torch.float32), torch.arange(len(matrix))), seed).matrix


def test_random_vectors_have_the_covariance_of_the_texts():
    """Numbers that go together in the texts do so in the noise; independent normals had a covariance of 0 there."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(20_000, 3)) @ np.array([[1.0, 0.9, 0.0, 0.2], [0.0, 0.3, -0.5, 0.2], [0.0, 0.0, 0.1, 0.0]])
    noise = drawn_vectors(mixed + np.arange(1.0, 5.0)).double().numpy()
    np.testing.assert_allclose(np.cov(noise.T), np.cov(mixed.T), atol=0.03)
    np.testing.assert_allclose(noise.mean(axis=0), [1, 2, 3, 4], atol=0.03)


def test_with_fewer_texts_than_numbers_the_noise_has_their_rank():
    texts = np.random.default_rng(1).normal(size=(6, 40))
    noise = drawn_vectors(texts).double().numpy() - texts.mean(axis=0)
    directions = np.linalg.svd(texts - texts.mean(axis=0), full_matrices=False)[2][:5]
    np.testing.assert_allclose(noise @ directions.T @ directions, noise, atol=1e-5)
    assert np.abs(noise).max() > 0.3


def test_a_text_of_many_users_counts_once_in_the_noise():
    """Of two distinct texts: mean (1, 0), variance 2 in the first number and none in the second."""
    noise = drawn_vectors([[0.0, 0.0], *[[2.0, 0.0]] * 9_999]).double().numpy()
    assert noise[:, 0].mean() == pytest.approx(1.0, abs=0.05)
    assert noise[:, 0].var() == pytest.approx(2.0, abs=0.1)
    assert not noise[:, 1].any()
    assert torch.equal(drawn_vectors([[3.0, 1.0]] * 4), torch.tensor([[3.0, 1.0]] * 4))


@pytest.mark.parametrize("arm", ["shuffled", "random", "reccot@0.5"])
def test_each_training_seed_has_its_own_draw(inputs, arm):
    data = prepare(inputs, ["none", "reccot", arm], TextSettings(missing="keep"))
    first, again, second, other_run = (
        draw_arm(data, arm, *seeds).arms[arm] for seeds in ((7, 0), (7, 0), (7, 1), (8, 0))
    )

    def same(a, b):
        return torch.equal(a.matrix, b.matrix) and torch.equal(a.rows, b.rows)

    assert same(first, again)
    assert not same(first, second)
    assert not same(first, other_run)
    own = data.arms["reccot"].matrix
    assert (first.matrix is own) == (second.matrix is own) == (arm != "random")  # the vectors are shared
    assert draw_arm(data, "reccot", 7, 0) is draw_arm(data, "none", 7, 1) is data


@pytest.mark.parametrize("arm", ["shuffled", "random", "reccot@0.5"])
def test_each_training_seed_has_its_own_draw_of_log_odds(inputs, arm):
    odds = dict.fromkeys(inputs.samples["sample_id"].to_list(), 0.0)
    rng = np.random.default_rng(0)
    odds = {key: float(rng.normal(2.0, 1.0)) for key in odds}
    given, settings = inputs._replace(log_odds={"reccot": odds}), TextSettings(use="log_odds")
    data = prepare(given, ["none", arm], settings)
    first, again, second = (draw_arm(data, arm, 7, seed).columns[arm]["train"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    if arm != "reccot@0.5":
        scored = prepare(given._replace(log_odds={"reccot": odds, arm: odds}), ["none", arm], settings)
        assert draw_arm(scored, arm, 7, 0) is scored  # V has read another user's texts for these rows


def test_random_log_odds_have_the_mean_and_spread_of_the_train_rows():
    values = torch.tensor([1.0, 3.0, 9.0, 2.0]).repeat(5_000)
    known = torch.tensor([1.0, 1.0, 0.0, 1.0]).repeat(5_000)
    noise = random_log_odds({"train": torch.stack([values * known, known], dim=1)}, (0, 1))["train"]
    assert torch.equal(noise[:, 1], known)
    assert not noise[known == 0, 0].any()
    assert float(noise[known > 0, 0].mean()) == pytest.approx(2.0, abs=0.03)
    assert float(noise[known > 0, 0].std()) == pytest.approx((2 / 3) ** 0.5, rel=0.03)


def test_rows_without_text_are_left_out_or_stay(inputs):
    given = inputs._replace(vectors={**inputs.vectors, "reccot": vectors(histories=HISTORIES[:9])})
    out = prepare(given, ["none", "reccot"])
    kept = prepare(given, ["none", "reccot", "shuffled", "random", "prompt"], TextSettings(missing="keep"))
    assert sum(map(len, out.sample_ids.values())) == 9 * 12
    assert sum(map(len, kept.sample_ids.values())) == 12 * 12
    assert not out.spec_for("reccot").text_gaps
    assert not draw_arm(out, "random", 1, 0).spec_for("random").text_gaps
    users = kept.user_ids["train"]
    for arm in ("reccot", "shuffled", "random", "prompt"):
        assert draw_arm(kept, arm, 1, 0).spec_for(arm).text_gaps
        mask = batch_of(kept, arm)["text_mask"]
        assert {user for user, has in zip(users, mask.tolist(), strict=True) if not has} == {"u9", "u10", "u11"}, arm
    assert "text_mask" not in batch_of(out, "reccot")


def test_fault_14_missing_embedding_is_an_error(data):
    with pytest.raises(MissingEmbeddingError, match=r"'teacher': 2 of 12 histories have no embedding, first \['h0', "):
        text_arm(data, "teacher", HISTORIES[1:11], np.ones((10, 4)))
    with pytest.raises(ValueError, match="1 vectors hold NaN"):
        text_arm(data, "teacher", HISTORIES, np.r_[np.ones((11, 4)), np.full((1, 4), np.nan)])
    with pytest.raises(ValueError, match="more than one vector"):
        text_arm(data, "teacher", [*HISTORIES, "h0"], np.ones((13, 4)))
    with pytest.raises(KeyError, match="arm must be one of"):
        data.spec_for("teacher")


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_is_a_derangement_over_users(data, seed):
    rows = shuffled_texts(data, data.arms["reccot"], seed).rows
    owner = [data.history_users[row] for row in rows]
    assert all(mine != theirs for mine, theirs in zip(data.history_users, owner, strict=True))
    assert sorted(owner) == sorted(data.history_users)
    assert torch.equal(rows, shuffled_texts(data, data.arms["reccot"], seed).rows)


def test_shuffled_never_hands_a_user_another_history_of_their_own(data):
    """With several histories per user (``per: sample``) the exchange is still between users."""
    owners = [f"u{place // 4}" for place in range(12)]
    several = replace(data, history_users=owners)
    for seed in range(10):
        rows = shuffled_texts(several, several.arms["reccot"], seed).rows
        assert all(owners[place] != owners[row] for place, row in enumerate(rows.tolist()))
    with pytest.raises(ValueError, match="needs the texts of two users"):
        shuffled_texts(replace(data, history_users=["u0"] * 12), data.arms["reccot"], 0)


def test_coverage_arms_keep_whole_users_and_are_nested(data):
    owners = [f"u{place // 2}" for place in range(12)]
    several = replace(data, history_users=owners)
    kept = {}
    for share in (0.1, 0.5):
        arm = texts_of_some_users(several, several.arms["reccot"], share, seed=4)
        kept[share] = {owner for owner, row in zip(owners, arm.rows.tolist(), strict=True) if row >= 0}
        assert arm.gaps
        assert all((owner in kept[share]) == (row >= 0) for owner, row in zip(owners, arm.rows.tolist(), strict=True))
    assert (len(kept[0.1]), len(kept[0.5])) == (1, 3)
    assert kept[0.1] < kept[0.5]


def test_pca_is_fitted_on_train_texts_only(data):
    held_out = torch.isin(data.splits["train"]["history"], torch.tensor([10, 11]), invert=True)
    train = {name: tensor[held_out] for name, tensor in data.splits["train"].items()}
    data = replace(data, splits={**data.splits, "train": train})
    changed = data.arms["reccot"].matrix.clone()
    changed[10:] *= 50.0
    other = replace(data, arms={"reccot": replace(data.arms["reccot"], matrix=changed)})
    first, second = (principal_components(d, d.arms["reccot"], 3, "reccot").matrix for d in (data, other))
    assert first.shape == (12, 3)
    assert torch.equal(first[:10], second[:10])
    assert not torch.allclose(first[10:], second[10:])
    centred = data.arms["reccot"].matrix[:10].double() - data.arms["reccot"].matrix[:10].double().mean(dim=0)
    spread = torch.linalg.svdvals(centred)[:3] ** 2 / 9
    expected = spread / spread.sum() * 3
    torch.testing.assert_close(first[:10].double().var(dim=0), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"ctr\.text\.pca_dim must be at most 6"):
        principal_components(data, data.arms["reccot"], 7, "reccot")


def test_pca_counts_a_text_once_however_many_rows_its_user_has(data):
    train = data.splits["train"]
    once = torch.tensor([torch.nonzero(train["history"] == h)[0, 0] for h in range(12)])
    fewer = replace(data, splits={**data.splits, "train": {name: t[once] for name, t in train.items()}})
    first, second = (principal_components(d, d.arms["reccot"], 2, "reccot").matrix for d in (data, fewer))
    assert torch.equal(first, second)


def test_equal_texts_have_no_components_but_no_error(data):
    same = replace(data.arms["reccot"], matrix=torch.ones(12, 6))
    reduced = principal_components(data, same, 2, "reccot").matrix
    assert torch.equal(reduced, torch.zeros(12, 2))


def test_pca_agrees_with_scikit_learn(data):
    from sklearn.decomposition import PCA

    matrix = data.arms["reccot"].matrix.double().numpy()
    expected = PCA(3, svd_solver="full").fit(matrix)
    own = principal_components(data, data.arms["reccot"], 3, "reccot").matrix.double().numpy()
    scores = expected.transform(matrix)
    signs = np.sign((own * scores).sum(axis=0))
    scale = np.sqrt(expected.explained_variance_.sum() / 3)
    np.testing.assert_allclose(own, signs * scores / scale, atol=1e-5)


def test_text_settings_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match=r"ctr\.text\.coverage needs ctr\.text\.missing: keep"):
        TextSettings(coverage=[0.5])
    with pytest.raises(ValueError, match=r"ctr\.text\.coverage: shares must be between 0 and 1, got 1\.0"):
        TextSettings(missing="keep", coverage=[1.0])
    with pytest.raises(ValueError, match=r"ctr\.text\.pca_dim must be at least 3"):
        TextSettings(pca_dim=2)


def scores(rows):
    common = {"history_id": "h", "source": "x", "round": 0, "validator": "v", "answer_mass": 1.0, "p_true": 0.5}
    return frame("scores", [{**common, "sample_id": key, "draw": draw, "p_yes": p} for key, draw, p in rows])


def test_log_odds_are_those_of_the_mean_and_leave_out_what_v_was_tuned_on():
    table = scores([("s1", 0, 0.25), ("s1", 1, 0.75), ("s2", 0, 0.9), ("s3", 0, 0.9), ("s4", 0, 1.0)])
    found = log_odds_of(table, tuned_on={"s3"})
    assert set(found) == {"s1", "s2", "s4"}
    assert found["s1"] == pytest.approx(0.0, abs=1e-9)
    assert found["s2"] == pytest.approx(np.log(9), rel=1e-5)
    assert np.isfinite(found["s4"])


def test_log_odds_are_two_more_dense_columns(inputs):
    ids = inputs.samples["sample_id"].to_list()
    rng = np.random.default_rng(0)
    given = {key: float(value) for key, value in zip(ids[::2], rng.normal(0, 3, len(ids[::2])), strict=True)}
    settings = TextSettings(use="log_odds")
    odds = inputs._replace(log_odds={"reccot": given, "plain": dict.fromkeys(ids, 0.5)}, vectors={})
    arms, notes = runnable_arms(odds, ["none", "reccot", "shuffled", "random", "plain", "prompt"], settings)
    assert arms == ["none", "reccot", "shuffled", "random", "plain"]
    assert notes == ["arm prompt left out: there are no log-odds of prompt"]
    data = prepare(odds, arms, settings)
    assert sum(map(len, data.sample_ids.values())) == len(ids)
    plain = batch_of(data, "none")["dense"]
    for arm in arms[1:]:
        spec = draw_arm(data, arm, 1, 0).spec_for(arm)
        assert (spec.n_dense, spec.text_dim) == (data.spec.n_dense + 2, 0)
        batch = batch_of(data, arm)
        assert "text" not in batch
        assert torch.equal(batch["dense"][:, :-2], plain)
        values, known = batch["dense"][:, -2], batch["dense"][:, -1]
        assert not values[known == 0].any()
        assert arm == "plain" or known.tolist() == [float(key in given) for key in data.sample_ids["train"]]
    own = batch_of(data, "reccot")["dense"][:, -2].tolist()
    expected = [np.clip(given.get(key, 0.0), -6, 6) / 2 for key in data.sample_ids["train"]]
    assert own == pytest.approx(expected, abs=1e-6)


def test_shuffled_log_odds_come_from_other_users_of_the_split(data):
    users: dict[str, str] = {}
    for split, ids in data.sample_ids.items():
        users.update(zip(ids, data.user_ids[split], strict=True))
    number = {user: 0.01 * place for place, user in enumerate(sorted(set(users.values())))}
    given = log_odds_arm(data, "reccot", {key: number[user] for key, user in users.items()})
    for seed in range(5):
        shuffled = shuffled_log_odds(data, given, seed)
        for split, values in shuffled.items():
            own = given[split]
            assert not torch.isclose(values[:, 0], own[:, 0]).any()
            assert torch.equal(values[:, 1], own[:, 1])


def test_log_odds_that_teach_nothing_are_an_error(data):
    with pytest.raises(ValueError, match="no train row has log-odds"):
        log_odds_arm(data, "reccot", dict.fromkeys(data.sample_ids["valid"], 1.0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        log_odds_arm(data, "reccot", {"s1": float("nan")})


def test_labels_of_no_row_reach_an_arm(inputs):
    turned = inputs.samples.with_columns(label=(1 - pl.col("label")).cast(pl.Int8))
    arms = ["reccot", "shuffled", "random", "prompt"]
    first, second = (
        prepare(inputs._replace(samples=samples), arms, TextSettings(pca_dim=3)) for samples in (inputs.samples, turned)
    )
    for arm in arms:
        assert torch.equal(batch_of(first, arm)["text"], batch_of(second, arm)["text"])


def test_v_is_asked_for_the_arms_that_need_it():
    assert scored_arms(["none", "random"]) == ["reccot"]
    assert scored_arms(["none", "reccot", "reccot@0.5"]) == ["reccot"]
    assert scored_arms(["shuffled", "plain"]) == ["reccot", "plain", "shuffled"]
    assert scored_arms(["none", "teacher"]) == []


def test_coverage_of_log_odds_keeps_whole_users_and_is_nested(data):
    rng = np.random.default_rng(0)
    odds = {key: float(rng.normal()) for ids in data.sample_ids.values() for key in ids}
    given = log_odds_arm(data, "reccot", odds)
    kept = {}
    for share in (0.5, 0.25):
        columns = log_odds_of_some_users(data, given, share, seed=1)
        kept[share] = set()
        for split, values in columns.items():
            has = {}
            for user, row in zip(data.user_ids[split], values.tolist(), strict=True):
                has.setdefault(user, set()).add(row[1])
                assert row[1] or row[0] == 0
            assert all(len(values) == 1 for values in has.values())
            kept[share] |= {user for user, values in has.items() if values == {1.0}}
    assert (len(kept[0.5]), len(kept[0.25])) == (6, 3)
    assert kept[0.25] < kept[0.5]


@pytest.mark.parametrize(
    ("name", "model", "texts", "coverage", "source", "placebo"),
    [
        ("none", "net", (), 1.0, "none", False),
        ("reccot", "net", ("reccot",), 1.0, "reccot", False),
        ("shuffled", "net", ("shuffled",), 1.0, "reccot", True),
        ("random", "net", ("random",), 1.0, "reccot", True),
        ("prompt", "net", ("prompt",), 1.0, "prompt", True),
        ("facts", "net", ("facts",), 1.0, "facts", True),
        ("reccot+prompt", "net", ("reccot", "prompt"), 1.0, "reccot+prompt", False),
        ("reccot@0.25", "net", ("reccot",), 0.25, "reccot", False),
        ("logistic", "logistic", (), 1.0, "none", False),
        ("lightgbm+random", "lightgbm", ("random",), 1.0, "reccot", True),
        ("logistic+reccot+teacher", "logistic", ("reccot", "teacher"), 1.0, "reccot+teacher", False),
        ("item_user", "mean", (), 1.0, "none", False),
        ("validator/reccot", "validator", ("reccot",), 1.0, "reccot", False),
        ("validator/plain", "validator", (), 1.0, "none", False),
    ],
)
def test_a_name_is_read_in_one_place(name, model, texts, coverage, source, placebo):
    arm = Arm.parse(name)
    assert (arm.name, arm.model, arm.texts, arm.coverage) == (name, model, texts, coverage)
    assert (arm.source, arm.is_placebo) == (source, placebo)


@pytest.mark.parametrize("name", ["", "recot", "reccot+", "reccot+reccot", "shuffled+prompt", "reccot@2", "logistic+x"])
def test_what_is_no_arm_is_an_error(name):
    with pytest.raises(ValueError, match="no arm"):
        Arm.parse(name)


def test_a_configuration_names_arms_of_the_nets_alone():
    assert [arm.name for arm in parse_arms(["none", "reccot+prompt"])] == ["none", "reccot+prompt"]
    for wrong in ("logistic", "item_mean", "reccot@0.5", "validator/plain", "x"):
        with pytest.raises(ValueError, match=rf"tune\.arm must be among none, reccot, .*got '{wrong}'"):
            parse_arms(["none", wrong], "tune.arm")
    assert text_sources(["none", "shuffled", "reccot+prompt"]) == {"none", "shuffled", "reccot", "prompt"}

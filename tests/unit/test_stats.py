"""Statistics by hand, and against rliable where it is installed (``pip install rliable 'pandas<3'``)."""

from __future__ import annotations

import numpy as np
import pytest

from stats import aggregate, curves
from stats.bootstrap import draw, estimate, interval, resampled

TAUS = np.linspace(0, 1, 11)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_iqm_is_the_mean_of_the_middle_half():
    scores = np.array([[0.0, 100.0], [1.0, 2.0], [3.0, 4.0], [5.0, -50.0]])
    assert aggregate.iqm(scores) == pytest.approx((1 + 2 + 3 + 4) / 4)  # 8 scores, 2 left out at either end


def test_iqm_of_three_runs_is_their_mean():
    assert aggregate.iqm(np.array([[0.0], [0.5], [1.0]])) == pytest.approx(0.5)


def test_iqm_leaves_out_whole_scores_only():
    assert aggregate.iqm(np.array([[9.0], [1.0], [2.0], [3.0], [-7.0]])) == pytest.approx(2.0)


def test_median_is_over_tasks_and_mean_over_runs():
    scores = np.array([[0.0, 1.0, 10.0], [2.0, 3.0, 30.0]])
    assert aggregate.median(scores) == 2.0
    assert aggregate.mean(scores) == pytest.approx((1 + 2 + 20) / 3)


def test_what_lies_beyond_the_target_does_not_close_the_gap():
    assert aggregate.optimality_gap(np.array([[0.5, 3.0]])) == pytest.approx(0.25)


def test_improvement_counts_pairs_and_half_the_ties():
    x, y = np.array([[1.0], [2.0]]), np.array([[1.0], [0.0], [3.0]])
    assert aggregate.probability_of_improvement(x, y) == pytest.approx((1.5 + 2) / 6)


def test_improvement_is_over_tasks_with_equal_weight():
    x, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert aggregate.probability_of_improvement(x, y) == 0.5


def test_profile_is_the_share_above():
    scores = np.array([[0.0, 0.5], [1.0, 0.5]])
    assert aggregate.profile(scores, np.array([-0.1, 0.0, 0.5, 1.0])).tolist() == [1.0, 0.75, 0.25, 0.0]


def test_normalised_by_task():
    found = aggregate.normalised(np.array([[5.0, 0.0]]), np.array([0.0, -1.0]), np.array([10.0, 1.0]))
    assert found.tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="low < high"):
        aggregate.normalised(np.array([[5.0]]), np.array([1.0]), np.array([1.0]))


def test_leading_axes_are_resamples():
    scores = rng().random((7, 5, 3))
    for statistic in (aggregate.iqm, aggregate.mean, aggregate.median, aggregate.optimality_gap):
        np.testing.assert_allclose(statistic(scores), [statistic(one) for one in scores])
    np.testing.assert_allclose(aggregate.profile(scores, TAUS), [aggregate.profile(one, TAUS) for one in scores])
    pairs = aggregate.probability_of_improvement(scores, scores[:, :2])
    np.testing.assert_allclose(pairs, [aggregate.probability_of_improvement(one, one[:2]) for one in scores])


def test_resampling_stays_within_tasks_and_draws_each_on_its_own():
    scores = np.arange(5)[:, None] + 100.0 * np.arange(3)
    drawn = resampled(scores, draw(rng(), 400, 5, 3))
    assert (drawn // 100 == np.arange(3)).all()
    runs = drawn % 100
    assert (np.bincount(runs.astype(int).ravel(), minlength=5) > 1000).all()  # 1200 of each are expected
    assert (runs[:, :, 0] != runs[:, :, 1]).any()


def test_interval_holds_its_share_of_the_resamples():
    scores = rng(3).random((10, 2))
    which = draw(rng(4), 4000, 10, 2)
    low, high = interval(aggregate.mean, [scores], [which])
    inside = np.mean(
        (aggregate.mean(resampled(scores, which)) >= low) & (aggregate.mean(resampled(scores, which)) <= high)
    )
    assert inside == pytest.approx(0.95, abs=0.002)
    spread = scores.std(0).mean() / np.sqrt(10 * 2)  # of a mean over two independent tasks of 10 runs each
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.15)


def test_estimate_is_the_same_for_the_same_seed():
    scores = [rng(1).random((5, 2)), rng(2).random((3, 2))]
    one, again = (estimate(aggregate.probability_of_improvement, scores, rng(7)) for _ in range(2))
    assert one.tolist() == again.tolist() and one[1] <= one[0] <= one[2]


def test_area_is_the_mean_height():
    assert curves.area(np.array([[0.0, 1.0, 1.0]]), np.array([0, 10, 40])).tolist() == [(5 + 30) / 40]
    assert curves.area(np.array([0.3]), np.array([10])) == 0.3


def test_ending_and_first_reaching():
    values = np.array([[0.0, 0.2, 0.9, 0.6], [0.0, 0.1, 0.2, 0.3]])
    assert curves.ending(values, 2).tolist() == pytest.approx([0.75, 0.25])
    first = curves.first_reaching(values, np.array([0, 10, 20, 30]), 0.9)
    assert first[0] == 20 and np.isnan(first[1])


# --- rliable ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rliable():
    pytest.importorskip("rliable", reason="rliable is not installed (pip install rliable 'pandas<3')")
    from rliable import library, metrics

    return library, metrics


@pytest.mark.parametrize("shape", [(3, 1), (5, 4), (10, 7)])
@pytest.mark.parametrize("seed", [0, 1])
def test_point_estimates_are_rliables(rliable, shape, seed):
    _, metrics = rliable
    x, y = rng(seed).normal(0.5, 0.4, shape), rng(seed + 100).normal(0.6, 0.4, (shape[0] + 2, shape[1])).round(1)
    assert aggregate.iqm(x) == pytest.approx(metrics.aggregate_iqm(x), abs=1e-12)
    assert aggregate.median(x) == pytest.approx(metrics.aggregate_median(x), abs=1e-12)
    assert aggregate.mean(x) == pytest.approx(metrics.aggregate_mean(x), abs=1e-12)
    assert aggregate.optimality_gap(x, 0.8) == pytest.approx(metrics.aggregate_optimality_gap(x, 0.8), abs=1e-12)
    ours = aggregate.probability_of_improvement(x.round(1), y)
    assert ours == pytest.approx(metrics.probability_of_improvement(x.round(1), y), abs=1e-12)


def same_draws(seed: int, resamples: int, *shapes: tuple[int, int]) -> list[np.ndarray]:
    """What rliable draws: from NumPy's global generator, array by array within each resample."""
    old = np.random.RandomState(seed)
    drawn = [[old.choice(runs, (runs, tasks), replace=True) for runs, tasks in shapes] for _ in range(resamples)]
    return [np.array(one) for one in zip(*drawn, strict=True)]


@pytest.mark.parametrize("shape", [(3, 1), (5, 4), (10, 7)])
def test_intervals_are_rliables_for_the_same_draws(rliable, shape):
    library, metrics = rliable
    scores = rng(5).random(shape)
    for ours, theirs in (
        (aggregate.iqm, metrics.aggregate_iqm),
        (aggregate.optimality_gap, metrics.aggregate_optimality_gap),
    ):
        np.random.seed(11)
        values, bounds = library.get_interval_estimates({"x": scores}, lambda x, f=theirs: np.array([f(x)]), reps=200)
        assert ours(scores) == pytest.approx(values["x"][0], abs=1e-6)
        np.testing.assert_allclose(interval(ours, [scores], same_draws(11, 200, shape)), bounds["x"][:, 0], atol=1e-6)


def test_intervals_of_improvement_are_rliables_for_the_same_draws(rliable):
    library, metrics = rliable
    x, y = rng(6).random((5, 3)), rng(7).random((4, 3))
    np.random.seed(12)
    values, bounds = library.get_interval_estimates(
        {"x,y": (x, y)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=100
    )
    ours = interval(aggregate.probability_of_improvement, [x, y], same_draws(12, 100, x.shape, y.shape))
    np.testing.assert_allclose(ours, bounds["x,y"][:, 0], atol=1e-6)
    assert aggregate.probability_of_improvement(x, y) == pytest.approx(values["x,y"][0], abs=1e-6)


def test_profiles_are_rliables_for_the_same_draws(rliable):
    library, _ = rliable
    scores = rng(8).random((6, 4))
    np.random.seed(13)
    values, bounds = library.create_performance_profile({"x": scores}, TAUS, reps=100)
    np.testing.assert_allclose(aggregate.profile(scores, TAUS), values["x"], atol=1e-6)

    def ours(one: np.ndarray) -> np.ndarray:
        return aggregate.profile(one, TAUS)

    np.testing.assert_allclose(interval(ours, [scores], same_draws(13, 100, (6, 4))), bounds["x"], atol=1e-6)

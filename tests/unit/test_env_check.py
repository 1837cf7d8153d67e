"""``check_env`` passes a sound environment and catches each way of breaking it."""

from __future__ import annotations

import pytest

from envs.base import BatchedEnv
from envs.check import EnvCheckError, check_env, main
from toy_envs import Toy

FAULTS = {
    "limit": "ends_are_clean: a row runs on after 4",
    "same_rows": "rows_draw_differently: rows draw the same",
    "seed_ignored": "rows_draw_differently: another seed changes nothing",
    "reset_all": "rows_are_independent: resetting row 0 changes",
    "shared_generator": "rows_are_independent",
    "global_generator": "same_seed_same_episode",
    "row_leak": "rows_are_independent: row 0's actions",
    "shared_clock": "rows_are_independent",
    "both_flags": "ends_are_clean: terminated and truncated together",
    "ended_reward": "ends_are_clean: a row that has ended gets a reward",
    "ended_moves": "ends_are_clean: ['obs', 'state'] of a row that has ended change",
    "no_refusal": "unavailable_is_refused: action",
    "no_metric": "tensors_fit_spec: info has []",
    "reward_shape": "tensors_fit_spec: reward has shape (3, 1), not (3,)",
    "reward_nan": "tensors_fit_spec: reward is not finite",
    "empty_mask": "tensors_fit_spec: avail is empty",
    "nothing_of_its_own": "tensors_fit_spec: avail is empty",
    "alias": "tensors_are_own: ['state'] changed after",
    "live": "tensors_are_own: writing into what was shown",
    "obs_dtype": "tensors_fit_spec: obs is torch.float64",
    "obs_shape": "tensors_fit_spec: obs has shape (3, 2, 1)",
    "obs_padding": "tensors_fit_spec: obs of agent 1 is not zero",
    "avail_padding": "tensors_fit_spec: avail of agent 1 goes beyond its 2",
    "no_extras": "tensors_fit_spec: extras are []",
    "reseed": "reseeding_starts_over",
    "state": "state_round_trip: after load_state_dict",
}


def toy(fault: str | None = None, box: bool = False) -> object:
    def factory(n_envs: int, seed: int) -> BatchedEnv:
        return Toy(Toy.Config(fault=fault, box=box), n_envs, "cpu", seed)

    return factory


@pytest.mark.parametrize("box", [False, True])
def test_sound_environment_passes(box: bool) -> None:
    check_env(toy(box=box), max_steps=50)


def test_box_that_takes_anything_is_caught() -> None:
    with pytest.raises(EnvCheckError) as caught:
        check_env(toy("no_refusal", box=True), max_steps=10, episodes=3)
    refused = [p for p in caught.value.problems if p.startswith("unavailable_is_refused: action")]
    assert len(refused) == 3 and "[1.0]" not in "".join(refused), caught.value.problems  # above, below, nan


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault: str) -> None:
    with pytest.raises(EnvCheckError) as caught:
        check_env(toy(fault), max_steps=10, episodes=3)
    assert any(problem.startswith(FAULTS[fault]) for problem in caught.value.problems), str(caught.value)


def test_exception_is_a_problem_and_all_are_listed() -> None:
    class Raising(Toy):
        def state_dict(self) -> dict:
            raise KeyError("lost")

        def label(self) -> str:
            return "/absolute"

    with pytest.raises(EnvCheckError) as caught:
        check_env(lambda n_envs, seed: Raising(Toy.Config(), n_envs, "cpu", seed), max_steps=10)
    assert [p.partition(":")[0] for p in caught.value.problems] == ["spec_is_sound", "state_round_trip"]
    assert "state_round_trip: raised KeyError: 'lost'" in str(caught.value)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix_game", "preset=xor"]) == 0
    assert "matrix_game keeps its promises" in capsys.readouterr().out

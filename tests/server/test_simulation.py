"""Timing and faults as plain values."""

import random
from argparse import ArgumentTypeError
from itertools import islice, pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core.program import ProgramError
from mockchat.server.simulation import FAULTS, Simulation, is_fault
from tests.helpers import faults


@pytest.mark.parametrize("kind", ["400", "429", "503", "529", "599", "disconnect", "stall"])
def test_faults_there_are(kind: str) -> None:
    assert is_fault(kind)
    assert Simulation(faults=faults(f"{kind}=first:1")).begin(b"7")[1] == kind


@pytest.mark.parametrize(
    "kind", ["", "200", "399", "600", "4 29", "+429", "٤٢٩", "Stall", "header", "4" * 5000, "429\n"]
)
def test_faults_there_are_not(kind: str) -> None:
    assert not is_fault(kind)
    with pytest.raises(ArgumentTypeError, match=f"is not a fault: give KIND=RATE .* or header; KIND is {FAULTS}"):
        Simulation(faults=faults(f"{kind}=0.1"))


@pytest.mark.parametrize(
    "how",
    [
        "",
        "0",
        "-0.1",
        "1.01",
        "nan",
        "inf",
        "first",
        "first:",
        "first:0",
        "first:1.5",
        "first:-1",
        "x first:1",
        "first:1000000000",
    ],
)
def test_when_a_fault_can_not_come(how: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"'503={how}' is not a fault: give KIND=RATE "):
        Simulation(faults=faults("429=0.5", f"503={how}"))


def test_rates_of_more_than_1() -> None:
    Simulation(faults=faults("429=0.5", "500=0.5", "503=first:9"))
    Simulation(faults=faults("429=0.33", "500=0.56", "503=0.11"))
    with pytest.raises(ProgramError, match=r"the rates of the faults are 1\.25 in sum, which is more than 1"):
        Simulation(faults=faults("429=0.5", "500=0.5", "stall=0.25"))


def test_jitter_of_nothing() -> None:
    with pytest.raises(ProgramError, match="jitter varies the time to first token and the inter-token latency"):
        Simulation(jitter=0.5, faults=faults("503=1"))


def test_each_history_fails_its_first_times() -> None:
    simulation = Simulation(faults=faults("503=first:2", "stall=first:1"))
    expected = ["503", "503", "stall", None, None]
    for history in (b"0", b"", b"3"):
        assert [simulation.begin(history)[1] for _ in expected] == expected


def test_rates_are_met() -> None:
    simulation = Simulation(faults=faults("429=0.2", "503=0.1", "disconnect=first:1"), random_seed=1)
    assert {simulation.begin(b"1")[1], simulation.begin(b"2")[1]} <= {"disconnect", "429", "503"}
    drawn = [simulation.begin(b"1")[1] for _ in range(10_000)]
    assert 1900 < drawn.count("429") < 2100
    assert 900 < drawn.count("503") < 1100
    assert drawn.count(None) == 10_000 - drawn.count("429") - drawn.count("503")
    assert {Simulation(faults=faults("500=1")).begin(b"0")[1] for _ in range(100)} == {"500"}


@given(st.lists(st.integers(0, 5), max_size=30), st.randoms(use_true_random=False), st.integers())
def test_with_a_seed_the_order_of_arrival_does_not_matter(
    histories: list[int], order: random.Random, seed: int
) -> None:
    def run(histories: list[int]) -> dict[tuple[int, int], object]:
        simulation = Simulation(ttft_ms=1, jitter=1, faults=faults("503=first:1", "stall=0.3"), random_seed=seed)
        found: dict[tuple[int, int], object] = {}
        for position, history in enumerate(histories):
            chance, fault = simulation.begin(b"%d" % history)
            attempt = histories[:position].count(history)
            found[history, attempt] = fault, chance.random(), next(simulation.moments(0, chance))
        return found

    expected = run(histories)
    order.shuffle(histories)
    assert run(histories) == expected


def test_another_seed_is_another_run_and_none_is_chance() -> None:
    runs = [
        tuple(Simulation(random_seed=seed).begin(b"%d" % history)[0].random() for history in range(3))
        for seed in (0, 0, 1, -1, None, None)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs)) == 5
    assert len(set(runs[0])) == 3  # Each history has choices of its own.


def test_faults_do_not_change_the_other_choices() -> None:
    plain, failing = (Simulation(random_seed=3, faults=faults(*given)) for given in ([], ["503=0.01"]))
    assert [plain.begin(b"1")[0].random() for _ in range(9)] == [failing.begin(b"1")[0].random() for _ in range(9)]


def test_moments() -> None:
    moments = Simulation(ttft_ms=200, itl_ms=10).moments(5.0, random.Random())
    assert list(islice(moments, 4)) == pytest.approx([5.2, 5.21, 5.22, 5.23])


def test_jitter_is_log_normal_with_the_mean_asked_for() -> None:
    simulation = Simulation(ttft_ms=100, itl_ms=10, jitter=0.5)
    chance = random.Random(1)
    firsts = [next(simulation.moments(0, chance)) for _ in range(20_000)]
    assert fmean(firsts) == pytest.approx(0.1, rel=0.03)
    assert pstdev(firsts) == pytest.approx(0.05, rel=0.05)
    assert min(firsts) > 0
    moments = list(islice(simulation.moments(0, chance), 20_001))
    gaps = [after - before for before, after in pairwise(moments)]
    assert fmean(gaps) == pytest.approx(0.01, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.005, rel=0.05)

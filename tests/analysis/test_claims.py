"""Every verdict a claim can get, from planted data."""

from pathlib import Path

import numpy as np
import planted
import pytest

import analysis
import data_manifests
from analysis.claims import judge, side
from analysis.load import Study


def verdicts(study: Study) -> dict[str, str]:
    return {f"{claim.id} {claim.variant}".strip(): claim.verdict for claim in judge(study)}


def of_dump(tmp_path: Path, model: str, scores: planted.ScoreMaker) -> dict[str, str]:
    path = planted.write_dump(tmp_path / "d.zarr", scores, model=model)
    return verdicts(analysis.load([planted.write_run(tmp_path / "run", model="m3ch"), path]))


def test_planted_demo_reproduces_everything(demo: list[Path]) -> None:
    assert set(verdicts(analysis.load(demo)).values()) == {"reproduced"}


def test_nothing_to_judge_is_not_tested(tmp_path: Path) -> None:
    found = verdicts(analysis.load(planted.write_run(tmp_path / "run", model="m3ch")))
    assert set(found.values()) == {"not tested"}


@pytest.mark.parametrize(
    ("top1", "expected"), [(0.72, "reproduced"), (0.625, "partly"), (0.62, "not"), (0.61, "not"), (0.5, "not")]
)
def test_accuracy_claims(tmp_path: Path, top1: float, expected: str) -> None:
    runs = [
        planted.write_run(tmp_path / "m3ch", model="m3ch", top1=0.62),
        planted.write_run(tmp_path / "m4ch", model="m4ch", top1=top1),
    ]
    assert verdicts(analysis.load(runs))["table2-m4ch-over-m3ch"] == expected


def test_accuracy_claim_reads_pseudo_depth_only(tmp_path: Path) -> None:
    runs = [
        planted.write_run(tmp_path / "m3ch", model="m3ch", top1=0.62),
        planted.write_run(tmp_path / "m4ch", model="m4ch", depth="real", top1=0.9),
    ]
    assert verdicts(analysis.load(runs))["table2-m4ch-over-m3ch"] == "not tested"


@pytest.mark.parametrize("variant", ["literal", "gauge_fixed"])
@pytest.mark.parametrize(
    ("betas", "falls", "peaks"),
    [
        ([0.6, 0.9, 0.4, 0.2], "reproduced", "reproduced"),
        ([0.6, 0.9, -0.4, -0.2], "partly", "reproduced"),
        ([-0.2, -0.2, -0.4, 0.9], "not", "not"),
        ([0.2, 0.3, 0.9, 0.5], "reproduced", "not"),
    ],
)
def test_figure1_claims(tmp_path: Path, betas: list[float], falls: str, peaks: str, variant: str) -> None:
    found = of_dump(tmp_path, "m4ch", planted.falling(betas, offset=0.1))
    assert found[f"figure1-falls {variant}"] == falls
    assert found[f"figure1-peaks-early {variant}"] == peaks


def test_bent_scores_are_not_linear(tmp_path: Path) -> None:
    def bent(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.broadcast_to(abs(delta - 0.9)[:, None, None], (len(delta), planted.LAYERS, planted.HEADS, 16, 16))

    assert of_dump(tmp_path, "m4ch", bent)["figure1-linear literal"] == "not"


def test_figure5_claims_of_scores_that_follow_depth(tmp_path: Path) -> None:
    found = of_dump(tmp_path, "m3ch", planted.falling([1.0] * 4))
    assert found["figure5-negative gauge_fixed"] in ("reproduced", "partly")
    assert found["figure5-distance-stronger gauge_fixed"] == "not"


def test_figure5_claims_of_constant_scores(tmp_path: Path) -> None:
    """The offset alone reproduces the paper's literal claims; gauge-fixed, nothing is there to judge."""
    found = of_dump(tmp_path, "m3ch", planted.constant(-1.0))
    assert found["figure5-negative literal"] == "reproduced"
    assert found["figure5-distance-stronger literal"] == "reproduced"
    assert found["figure5-negative gauge_fixed"] == "not tested"
    assert found["figure5-distance-stronger gauge_fixed"] == "not tested"
    rising = of_dump(tmp_path / "rising", "m3ch", planted.constant(1.0))
    assert rising["figure5-negative literal"] == "not"


def test_side_reads_the_interval() -> None:
    assert [side(v, b, above=True) for v, b in ((2, 1), (2, -1), (-1, -2), (0, 0))] == [
        "reproduced",
        "partly",
        "not",
        "not",
    ]
    assert side(-2, -1, above=False) == "reproduced"


def test_manifest_is_whole() -> None:
    claims = data_manifests.load("claims")["claim"]
    assert len({claim["id"] for claim in claims}) == len(claims)
    for claim in claims:
        assert {"id", "sentence", "rule", "statistic", "judged", "shown_in"} <= claim.keys()
        assert "better" in claim or {"model", "variants", "expected"} <= claim.keys()

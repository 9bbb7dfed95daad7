"""The columns that the study's docstrings explain are those of its frames."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import planted
import pytest
from test_fine_tuning import planted_matrix

import analysis
from analysis.figures import FIGURES
from analysis.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of every model a run with a small dump, of what figures are drawn from; table 3."""
    folder = tmp_path_factory.mktemp("every")
    few: dict[str, Any] = {"num_images": 16, "samples": 60}
    runs = [
        planted.write_run(folder / "m3ch", model="m3ch", scores=planted.local, dump_epochs=(0, 5), **few),
        planted.write_run(folder / "mlin", model="mlin", scores=planted.falling(planted.BETAS), **few),
        planted.write_run(folder / "m4ch", **few),
        planted.write_run(folder / "mdf1", model="mdf1", **few),
        planted.write_run(folder / "mmlp", model="mmlp", scores=planted.falling(planted.BETAS), **few),
    ]
    dump = {"num_images": 16, "num_causal": 8, "interventions": ["swap"], "causal": -0.2}
    planted.write_dump(folder / "m4ch" / "dumps" / "latest.zarr", planted.falling(planted.BETAS), **dump)
    planted.write_dump(folder / "mdf1" / "dumps" / "latest.zarr", planted.local, model="mdf1", num_images=16)
    phi = {"phi_grid": planted.PHI_GRID, "phi": [[abs(each) for each in planted.PHI_GRID]] * planted.LAYERS}
    planted.write_parameters(folder / "mmlp", {5: phi})
    for run in (runs[0], runs[2]):
        planted.write_sweep(run, planted.enduring([0.7, 0.6, 0.5, 0.3], samples=60))
        planted.write_gap(run, {"pixel": 0.7})
    (folder / "matrix.json").write_text(planted_matrix("m4ch").model_dump_json())
    return analysis.load(folder, matrix=folder / "matrix.json")


def explained(method: Callable[..., Any]) -> set[str]:
    """Words before the colon of a line that is nothing but words before it."""
    lines = re.findall(r"^ +([a-z0-9_]+(?:, [a-z0-9_]+)*): ", method.__doc__ or "", flags=re.MULTILINE)
    return {word for line in lines for word in line.split(", ")}


def frames(study: Study) -> Iterator[tuple[str, list[str]]]:
    for spec in FIGURES.values():
        for variant in spec.variants:
            if (spec.name, variant) == ("fused-score-maps", "causal"):
                continue  # as score-maps, of which a dump is there
            for name, frame in study.frames(spec.name, variant).items():
                yield f"{spec.name} {variant} {name}", list(frame)


def test_columns_of_figures_are_explained_and_no_others(study: Study) -> None:
    known, seen = explained(Study.frames), set()
    for name, columns in frames(study):
        for column in columns:
            base = column if column in known else re.sub(r"_(low|high)$", "", column)
            assert base in known | {"low", "high"}, f"{column} of {name} is not explained"
            seen.add(base)
    assert known <= seen, f"no frame has {known - seen}"


def test_columns_of_tables_and_claims_are_explained_and_no_others(study: Study) -> None:
    tables = {column for number in (1, 2, 3) for column in study.table(number)}
    ends = {f"{name}_{end}" for name in ("top1", "top5", "gap") for end in ("low", "high")}
    assert explained(Study.table) == tables - ends and ends < tables
    claims = study.claims()
    assert explained(Study.claims) == set(claims)
    assert set(claims["verdict"]) <= {"reproduced", "in part", "open", "contradicted", "not tested"}
    assert claims["ours"].dtype == bool and claims["id"].is_unique

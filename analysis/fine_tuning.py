"""Table 3: mIoU of fine-tuned models by the depth they were trained with and tested with, from `train matrix`."""

import pandas as pd

import data_manifests
from analysis.tables import percent, points
from training.records import Matrix

_ORDER = (("real", "real"), ("real", "pseudo"), ("pseudo", "pseudo"), ("pseudo", "real"))  # trained, tested; as printed


def table3(matrix: Matrix) -> pd.DataFrame:
    """One row a model and cell: mIoU with its interval (shares 0..1), the paper's beside it where it has one (%)."""
    paper = data_manifests.load("paper")["table3"]
    rows = []
    for cell in sorted(matrix.cells, key=lambda c: _ORDER.index((c.trained, c.tested))):
        printed = paper.get(cell.model, {}).get(cell.trained, {}).get(cell.tested)
        rows.append(
            {**cell.model_dump(exclude={"pseudo_values"}), "num_images": matrix.num_images, "paper_miou": printed}
        )
    return pd.DataFrame(rows).astype({"paper_miou": float})


def differences(matrix: Matrix) -> pd.DataFrame:
    """Paired differences of cells of one model, with intervals (shares 0..1)."""
    rows = [
        {**d.model_dump(exclude={"of", "minus"}), "of": _arrow(d.of), "minus": _arrow(d.minus)}
        for d in matrix.differences
    ]
    return pd.DataFrame(rows, columns=["name", "model", "seed", "of", "minus", "value", "low", "high", "error"])


def readable3(matrix: Matrix) -> pd.DataFrame:
    """Table 3 as people read it, all text: one row a model, the paper's in brackets after it."""
    paper = data_manifests.load("paper")["table3"]
    own: dict[tuple[str, str, int], dict[tuple[str, str], str]] = {}
    for cell in matrix.cells:
        text = f"{percent(cell.miou)} [{percent(cell.low)}, {percent(cell.high)}]"
        own.setdefault((cell.name, cell.model, cell.seed), {})[cell.trained, cell.tested] = text
    rows = []
    for (name, model, seed), cells in own.items():
        row = {"model": model, "fine-tuned from": name, "seed": str(seed)}
        rows.append(row | {_arrow(pair): cells.get(pair, "–") for pair in _ORDER})
        if printed := paper.get(model):
            row = {"model": "paper (NYUDepthV2)", "fine-tuned from": "", "seed": ""}
            rows.append(row | {_arrow((a, b)): f"{printed[a][b]:.2f}" for a, b in _ORDER})
    return pd.DataFrame(rows)


def readable_differences(matrix: Matrix) -> pd.DataFrame:
    frame = differences(matrix)
    return pd.DataFrame(
        {
            "model": frame["model"],
            "seed": frame["seed"].astype(str),
            "mIoU of (train → test)": frame["of"],
            "minus": frame["minus"],
            "points": [points(row.value, row.low, row.high) for row in frame.itertuples()],
        }
    )


def _arrow(pair: tuple[str, str]) -> str:
    return f"{pair[0]} → {pair[1]}"

"""Table 1: rules on size and cost, which are exact: models of the paper's size against its print."""

import numpy as np
import pandas as pd

from analysis.claims.finding import Claim, Finding, Rule, of_records, share
from analysis.load import BASELINE, Study
from analysis.tables import table1

_NONE = Finding("not tested", "needs a run of the paper's size: ViT-B/16, 224 px, 1000 classes")


def _printed(study: Study) -> pd.DataFrame:
    return table1(study).dropna(subset=["paper_parameters"])


def _parameters_printed(study: Study, claim: Claim) -> Finding:
    frame = _printed(study)
    if frame.empty:
        return _NONE
    off = (frame["parameters"] - frame["paper_parameters"]).to_numpy(int)
    verdict, observed = share(off == 0, "models")
    others = [f"{model} {each:+,}".replace("-", "−") for model, each in zip(frame["model"], off, strict=True) if each]
    return Finding(verdict, observed, ", ".join(others) or "no difference")


def _macs_printed(study: Study, claim: Claim) -> Finding:
    frame = _printed(study)
    frame = frame[frame["model"] != BASELINE].dropna(subset=["gmacs_over_m3ch"])
    if frame.empty:
        return Finding("not tested", "needs m3ch and another run of the paper's size: ViT-B/16, 224 px, 1000 classes")
    off = (frame["gmacs_over_m3ch"] - frame["paper_gmacs_over_m3ch"]).to_numpy(float)
    verdict, observed = share(np.abs(off) <= claim["threshold"], "models")
    each = ", ".join(
        f"{row.model} {row.gmacs_over_m3ch:+.3g} for {row.paper_gmacs_over_m3ch:+.2f}" for row in frame.itertuples()
    )
    return Finding(verdict, observed, each.replace("-", "−"))


RULES: dict[str, Rule] = {
    "parameters_printed": of_records(_parameters_printed),
    "macs_printed": of_records(_macs_printed),
}

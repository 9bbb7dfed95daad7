"""Table 1: rules on size and cost, which are exact: models of the paper's size against its print."""

import numpy as np
import pandas as pd

from analysis.claims.finding import Claim, Finding, Rule, of_records, share
from analysis.load import Study
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
    if frame.empty:
        return _NONE
    off = (frame["gmacs"] / frame["paper_gmacs"].astype(float) - 1).to_numpy(float)
    verdict, observed = share(np.abs(off) <= claim["threshold"], "models")
    each = ", ".join(f"{model} {100 * part:+.1f} %" for model, part in zip(frame["model"], off, strict=True))
    return Finding(verdict, observed, each.replace("-", "−"))


RULES: dict[str, Rule] = {
    "parameters_printed": of_records(_parameters_printed),
    "macs_printed": of_records(_macs_printed),
}

"""Table 2: rules on accuracy, paired over validation samples."""

from analysis.claims.finding import DEPTH, Claim, Finding, Rule, of_records, side
from analysis.load import BASELINE, Study, recipe_differences
from analysis.tables import gap, groups, points


def _accuracy_gap(study: Study, claim: Claim) -> Finding:
    better, worse = claim["better"], claim["worse"]
    grouped = groups(study)
    ours, theirs = (grouped.get((model, "none" if model == BASELINE else DEPTH), []) for model in (better, worse))
    difference = gap(ours, theirs)
    if difference is None:
        return Finding("not tested", f"needs {better} and {worse} of one seed, on {DEPTH} depth")
    if unlike := recipe_differences([*ours, *theirs]):
        return Finding("not tested", f"{better} and {worse} differ in {'; '.join(unlike)}")
    value, low, high = difference["gap"], difference["low"], difference["high"]
    observed, _, interval = points(value, low, high).partition(" ")
    return Finding(side(value, low, above=True), f"{observed} points", interval)


RULES: dict[str, Rule] = {"accuracy_gap": of_records(_accuracy_gap)}

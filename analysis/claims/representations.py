"""Figures 9, 11 and 12: rules on probes, paired by fold, and on CKA, paired by block of images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.cka import baseline, cka_difference, compare
from analysis.claims.finding import DEPTH, Claim, Finding, Rule, defined, of_dump, of_records, share, span
from analysis.load import AnalysisError, Study, check_same_axes
from analysis.probes import mse_difference, probe

if TYPE_CHECKING:
    from analysis.attention import Variant
    from training.dumps.store import Dump


def _probe_below(study: Study, claim: Claim) -> Finding:
    """MSE of `model` minus that of each of `others`, in every layer."""
    found, others = {}, _last_dumps(study, claim["others"])
    for dump in _last_dumps(study, [claim["model"]]):
        for other in others:
            _check_same_folds(dump, other)
            found[other.info.model] = mse_difference(probe(dump), probe(other))
    if not found:
        return Finding(
            "not tested", f"needs dumps of {claim['model']} and of {' or '.join(claim['others'])} on {DEPTH} depth"
        )
    verdict, observed = share(np.concatenate([defined(each.high) < 0 for each in found.values()]), "cells")
    return Finding(verdict, observed, _by_name({f"minus {n}": each.value for n, each in found.items()}))


def _cka_below(study: Study, claim: Claim) -> Finding:
    """CKA with m3ch of `model` minus that of each of `others`, in the first `share_of_layers`."""
    found, ours, others = {}, _last_dumps(study, [claim["model"]]), _last_dumps(study, claim["others"])
    if not ours or not others:
        return Finding(
            "not tested", f"needs dumps of {claim['model']} and of {' or '.join(claim['others'])} on {DEPTH} depth"
        )
    base = baseline(study, DEPTH)
    compared = compare(base, ours[0])
    early = int(np.ceil(claim["share_of_layers"] * base.info.num_layers))
    for other in others:
        found[other.info.model] = cka_difference(compared, compare(base, other))
    if len(compared.hsics) < 2:
        return Finding("not tested", "needs at least two blocks of images")
    holds = np.concatenate([defined(each.high[:early]) < 0 for each in found.values()])
    verdict, observed = share(holds, "cells")
    return Finding(verdict, observed, _by_name({f"minus {n}": each.value[:early] for n, each in found.items()}))


def _rgb_branch_below(dump: "Dump", variant: "Variant", claim: Claim) -> Finding:
    """MSE of the RGB branch minus that of the depth branch; `equal_width` after PCA to the narrower one."""
    rgb, depth = (probe(dump, stream, "ridge", _width(dump, str(variant))) for stream in ("rgb", "depth"))
    difference = mse_difference(rgb, depth)
    verdict, observed = share(defined(difference.high) < 0, "layers")
    return Finding(verdict, observed, f"RGB minus depth {span(difference.value)} z²")


def _branches_flat(dump: "Dump", variant: "Variant", claim: Claim) -> Finding:
    """Range over the fused layers of each branch's R²."""
    found = {s: probe(dump, s, "ridge", _width(dump, str(variant))).r2().value for s in ("rgb", "depth")}
    if min(map(len, found.values())) < 2:
        return Finding("not tested", f"{dump.info.model} has a single layer of two branches")
    ranges = {stream: float(np.ptp(defined(value))) for stream, value in found.items()}
    verdict, observed = share(np.array([each <= claim["threshold"] for each in ranges.values()]), "branches")
    return Finding(verdict, observed, "; ".join(f"{stream}: range of R² {each:.2f}" for stream, each in ranges.items()))


def _of_branches(rule: Any) -> Rule:
    """A rule on a dump of two branches."""

    def branched(dump: "Dump", variant: "Variant", claim: Claim) -> Finding:
        if not dump.info.first_attention_layer:
            return Finding("not tested", f"this {dump.info.model} has no layers of two branches")
        finding: Finding = rule(dump, variant, claim)
        return finding

    return of_dump(branched)


def _width(dump: "Dump", variant: str) -> int | None:
    widths = [stream.width for stream in dump.info.streams if stream.name != "tokens"]
    return min(widths) if variant == "equal_width" else None


def _last_dumps(study: Study, models: list[str]) -> "list[Dump]":
    """The last dump on pseudo-depth of the lowest seed of each of these models that has one."""
    of_depth = {model: Study([], [d for d in study.dumps if d.info.model == model]) for model in models}
    return [each.epoch_dumps(m, DEPTH)[-1] for m, each in of_depth.items() if DEPTH in each.depth_fields()]


def _check_same_folds(first: "Dump", second: "Dump") -> None:
    check_same_axes([first, second])
    if first.keys() != second.keys():
        raise AnalysisError(
            f"{first.path} and {second.path} hold different images: make both with the same train dump --images"
        )


def _by_name(values: dict[str, np.ndarray]) -> str:
    return "; ".join(f"{name} {span(each)}" for name, each in values.items())


RULES: dict[str, Rule] = {
    "probe_below": of_records(_probe_below),
    "cka_below": of_records(_cka_below),
    "rgb_branch_below": _of_branches(_rgb_branch_below),
    "branches_flat": _of_branches(_branches_flat),
}

"""The figures by name: what each shows and in which variants. Each is drawn by a file of its own.

A new one is its file here, with DRAWS, and a line in this list; then commands, page and notebook know it.
Neither matplotlib nor pandas are imported before something is drawn, so that `analyze --help` lists figures at once.
"""

from analysis.figures.spec import FigureSpec
from analysis.load import AnalysisError

_MAPS = (
    "Mean score before softmax between patches this far apart and this different in depth: all layers and heads "
    "pooled, then a small map a layer, on one scale. Below, the slope on |Δ| among pairs at one distance, with 95 % "
    "intervals. {needs}\n\n"
    "- literal: scores as the model computes them (the paper's); in grey, the slope on another image's depth.\n\n"
    "- causal: the slope alone, when an image is given another image's depth and keeps its photograph. Needs "
    "`train dump RUN --data D --causal 500`."
)
_SPECS = (
    FigureSpec(
        "scores-by-depth",
        "attention scores against the depth difference |Δ|",
        number=1,
        variants=("literal", "gauge_fixed", "causal"),
        about="Does a patch attend less to patches at another depth? m4ch's scores before softmax by bin of |Δ|, a "
        "panel a layer, and below them the slope per 1 z with 95 % intervals over images: given distance, by which "
        "claims are judged, beside the paper's; in grey, given distance on another image's depth. Small, the slopes of "
        "the other models. Draws the last dump of every run.\n\n"
        "- literal: scores as the model computes them, which is what the paper plots.\n\n"
        "- gauge_fixed: scores and |Δ| minus their mean over the keys of a query, which softmax cannot see. The CSV "
        "`-evidence` holds controls (the slope within pairs of positions too), nulls, tests and effect sizes.\n\n"
        "- causal: the slope by layer when an image is given another image's depth and keeps its photograph: what "
        "colour and position do cancels. Needs `train dump RUN --data D --causal 500`.",
    ),
    FigureSpec(
        "noise",
        "what noise on depth costs in accuracy",
        number=4,
        per_depth=False,
        about="How much does a model lean on its depth being right? Top-1 against the strength σ of noise added to "
        "z-standardised depth, and its change from σ = 0 on the same samples, a line a model, a column a kind of noise "
        "(one Gaussian a pixel, or one a patch). Needs `train evaluate RUN --data D --noise pixel`, and patch if you "
        "like, of each run: the same split and noise seed for all.",
    ),
    FigureSpec(
        "cosines",
        "does a model that never saw depth respect it?",
        number=5,
        variants=("literal", "gauge_fixed"),
        about="Cosine of m3ch's score matrix with |Δ| and with the patches' distance r, per layer, a line a "
        "checkpoint; in grey, with another image's |Δ|. The run needs a dump per checkpoint: `train dump RUN --data D "
        "--checkpoint epoch-5` and so on.\n\n"
        "- literal: all entries as they are (the paper's). Scores that are −1 everywhere already have cosine −0.90 "
        "with r: drawn in grey, dashed.\n\n"
        "- gauge_fixed: pairs of two patches, minus the mean over the keys of a query, which softmax cannot see.",
    ),
    FigureSpec(
        "attention-maps",
        "does attention fall with the depth difference at the same distance?",
        file="maps",
        number=6,
        about="Mean attention of a patch to patches this far away and this different in depth, m3ch above mlin: all "
        "layers and heads pooled, then a small map a layer, on one logarithmic scale. Columns of one colour mean that "
        "|Δ| does not matter at that distance. Below, each column's slope on |Δ| over its mean, with 95 % intervals. "
        "Needs `train dump RUN --data D` of both.",
    ),
    FigureSpec(
        "alpha",
        "mlin's depth bias α by epoch, a line a layer",
        file="parameters",
        number=7,
        variants=("literal", "effective"),
        per_depth=False,
        about="How strongly does each block of mlin come to hold back attention between depths? From what training "
        "logs: no dump is needed.\n\n"
        "- literal: α itself, which starts at 1 (the paper's).\n\n"
        "- effective: α times |log γ_h|, the fall of the score per 1 z of |Δ|; mean and band over heads.",
    ),
    FigureSpec(
        "phi",
        "what mmlp learned to do with a depth difference Δ",
        file="parameters",
        number=8,
        variants=("effective", "literal"),
        per_depth=False,
        about="The learned function of the signed difference Δ, a line a layer, and below it how often a Δ occurs, if "
        "the run has a dump.\n\n"
        "- effective: the bias that is added to the score, φ(Δ) times log γ_h; mean and band over heads; below 0 "
        "it attends less.\n\n"
        "- literal: φ itself, against Δ in the paper's sign, where nearer is larger.",
    ),
    FigureSpec(
        "probes",
        "where in the network can depth be read off the tokens?",
        number=9,
        variants=("ridge", "literal"),
        about="Held-out error of a linear probe for patch depth on each block's output, of m3ch, mlin, mmlp and m4ch, "
        "and how much better it reads an image's own depth than another image's (selectivity). In grey: the same probe "
        "before training (needs `train dump RUN --data D --checkpoint epoch-0`), the mean depth at each position, and "
        "a probe for another image's depth.\n\n"
        "- ridge: the best ridge regression, its penalty chosen by nested cross-validation over images.\n\n"
        "- literal: gradient descent with early stopping, as the paper trains its probes.",
    ),
    FigureSpec(
        "score-maps",
        "does m4ch's score fall with the depth difference at every distance?",
        file="maps",
        number=10,
        variants=("literal", "causal"),
        about=_MAPS.format(needs="Needs `train dump RUN --data D` of m4ch."),
    ),
    FigureSpec(
        "cka",
        "how like RGB alone do models with depth see the same images?",
        number=11,
        variants=("debiased", "literal", "input_adjusted"),
        about="Linear CKA of each layer with the same layer of m3ch. In grey, a floor (m3ch before training: needs its "
        "`train dump RUN --data D --checkpoint epoch-0`) and a ceiling (a second seed of m3ch, or another of its "
        "epochs). All dumps must be of the same images.\n\n"
        "- debiased: unrelated features get 0; 95 % intervals over blocks of images.\n\n"
        "- literal: the biased CKA, which grows with width over images; in grey, what unrelated features would get.\n\n"
        "- input_adjusted: debiased, after the similarities of the photographs' pixels are regressed out of both: "
        "models may be alike for no more than having seen the same images.",
    ),
    FigureSpec(
        "branch-probes",
        "which branch of a fusion model holds depth?",
        file="probes",
        number=12,
        variants=("ridge", "equal_width"),
        about="Figure 9's probes on the RGB and the depth branch of mdf1 and mgem, in the blocks that have both.\n\n"
        "- ridge: all channels of each branch; mdf1's RGB branch has twice as many.\n\n"
        "- equal_width: the wider branch reduced to the width of the other by PCA on the training folds.",
    ),
    FigureSpec(
        "fused-score-maps",
        "do mdf1's and mgem's scores fall with the depth difference at every distance?",
        file="maps",
        number=13,
        variants=("literal", "causal"),
        about=_MAPS.format(
            needs="The blocks after the two branches have been fused; needs `train dump RUN --data D` of either."
        ),
    ),
    FigureSpec(
        "gap",
        "how much noise is the step from pseudo-depth to real depth worth?",
        file="noise",
        number=14,
        variants=("literal", "softmax"),
        per_depth=False,
        about="Figure 4's curves for models trained on pseudo-depth, with σ* upright: the noise that moves a model's "
        "output as far as real depth of the same images does. Where the curves stand at σ* says which model has the "
        "better accuracy left. Needs, of each run, `train evaluate RUN --data D --noise pixel` (and patch) and "
        "`train gap RUN --data NYU-SHARDS`.\n\n"
        "- literal: the output is the logits.\n\n"
        "- softmax: the output is the shares after softmax.",
    ),
)
FIGURES = {spec.name: spec for spec in _SPECS}


def figure_of(name: str | int) -> FigureSpec:
    """By its name or by the paper's number."""
    for spec in FIGURES.values():
        if name in (spec.name, spec.number):
            return spec
    known = ", ".join(spec.name + f" ({spec.number})" * (spec.number is not None) for spec in FIGURES.values())
    raise AnalysisError(f"figure must be one of {known}, got {name!r}")

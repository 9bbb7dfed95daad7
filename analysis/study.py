"""What a notebook asks of runs: `study = analysis.load("runs/")`, then figures, frames, tables and claims."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import accuracy, fine_tuning, tables
from analysis.claims import judge, scoreboard
from analysis.figures import figure_of
from analysis.load import AnalysisError, Given
from analysis.read import read


class Study(Given):
    """Runs, dumps and a matrix, with what they show; made by `analysis.load`."""

    def figure(self, name: str | int, variant: str | None = None, depth: str | None = None) -> Figure:
        """A figure by its name or the paper's number; in its first variant, of the usual depth field, unless told."""
        return figure_of(name).drawn(self, variant, depth).figure

    def frames(self, name: str | int, variant: str | None = None, depth: str | None = None) -> dict[str, pd.DataFrame]:
        """What a figure draws, as frames by name; "" is the figure's own. Shares are 0..1, depth is z.

        Beside an estimate stand its bounds, named after it with `_low` and `_high`, or `low` and `high` where the frame
        has one estimate: 95 %, over images, unless said otherwise. NaN: undefined, or not in this dump.

        Whose row it is:
        model, seed, run, epoch, depth_field: the run, its checkpoint and the depth that the dump holds
        variant, label, role: the variant drawn; the name in the legend; model, floor or ceiling
        layer, part, quantity: block from 1, or all; content (scores before a bias) or total; what is measured
        stream, width: whose outputs are probed, tokens or a branch, and in how many channels
        noise, output, reading: pixel or patch; logits or softmax; real depth as z or as the inverse depth of a teacher
        sample: what the images' similarities are of, class token, mean patch or single tokens
        num_images, images, num_undefined: images behind the row, or the cell; where the quantity has no value
        num_pairs, pairs, num_bins: pairs of patches behind the row, or the cell; cells behind the line
        samples, seeds, block: validation samples; trainings; images to a Gram matrix
        shown, undefined: whether enough is behind a cell to draw it; why there is no value, or whether

        Scores and attention against depth:
        delta_low, delta_high, delta, paper_delta: bounds of a bin of |Δ|; Δ, farther is larger; as the paper signs it
        distance: between two patches, in patches, rounded down
        score, mean: mean score in the bin; mean score, or share of attention, in the cell
        slope: of score on |Δ|, per 1 z; at a distance; of attention over its mean there
        association: the gauge-fixed slope over pairs of the scores whose slope under a swap of depth stands beside it
        other, other_given_distance: the same slope on another image's |Δ|; given distance
        partial_slope, colour_slope, given_distance: given distance; colour too; given distance, with its null beside
        partial, colour: bounds of partial_slope and of colour_slope; colour: given distance and colour (of `-evidence`)
        distance_effects, two_way: the slope within distances; within pairs of positions
        causal, flipped, shuffled: when depth is swapped; on depth that is mirrored; that is shuffled
        bias, content, content_is: the slope of the bias; of the learned scores; which are adding, offsetting, neither
        odds_ratio: exp(slope), by which 1 z multiplies the odds of attending; of two_way in `-evidence`
        partial_correlation, standardised: of score and |Δ| without distance; slope times SD(|Δ|) / SD(score)
        nearer_keys, farther_keys, asymmetry: slopes where the key is nearer, farther, than the query; their difference
        bin_slope, linearity: slope of the line through the bins; r² of the line, pairs counted
        heads_below_zero, attended_depth: share of heads with a slope below 0; |Δ| attended over |Δ| to be expected
        p, p_images: of the slope against other images' depth; of how many images
        cosine, constant: of scores with |Δ|, r or another image's |Δ|; of scores that are -1 everywhere
        low_head, high_head: least and greatest cosine of a single head

        Learned biases (`_low` and `_high` are the least and most over heads):
        alpha, phi: α of mlin; φ(Δ) of mmlp
        effective, trained: what is added to a score, of alpha its fall per 1 z; whether the layer gets a gradient
        density, patch_depth: share of ordered pairs of patches per 1 z of Δ; what the depth of a patch is, of the dump

        Probes for depth (bounds over folds):
        mse, mse_control, mse_position: held-out squared error, z²; for another image's depth; of positions' means
        r2, r2_within, r2_control: share of variance of depth that is read; within images; of another image's depth
        selectivity, skill, skill_centred: r2 minus r2_control; 1 - mse / mse_position; of h and z minus position means
        setting: the penalty, or number of steps, that most folds chose

        Likeness of representations (bounds over blocks of images):
        cka, null: with the same layer of m3ch; what unrelated features would get
        input_adjusted, trimmed, trimmed_change: without what pixels explain; without the top 1 % of norms; minus cka

        Noise on depth (bounds over samples; of sigma_star over the images of the gap):
        sigma, top1, change: strength of the noise, z; accuracy; minus that at sigma 0
        e_star, sigma_star, share_above: how far real depth moves the output; the noise that does; resamples beyond all
        """
        return figure_of(name).drawn(self, variant, depth).frames

    def table(self, number: int) -> pd.DataFrame:
        """Table 1 (size and cost, a row a model), 2 (accuracy, a row a model and depth) or 3 (fine-tuning).

        Shares are 0..1 but for the paper's columns, which are as printed. `_low` and `_high` are 95 % bounds.

        Table 1:
        model, parameters, over_m3ch, runs: the model; its parameters; those above m3ch's; its runs
        gmacs, gmacs_over_m3ch: 1e9 products of matmuls and convolutions of an image; above m3ch's, the bias included
        bias_operations: elementwise operations of a depth bias on an image, left out of gmacs
        hours: in training steps, mean of the runs
        paper_parameters, paper_gmacs, paper_gmacs_over_m3ch, paper_hours: the paper's, for models of its size

        Table 2:
        depth: the depth field trained and tested with; none for m3ch
        top1, top5: shares right, means over seeds, bounds over samples
        top1_sd, seeds, epoch, samples: spread over seeds; trainings; last epoch; validation samples
        gap, gap_p, gap_seeds: top1 above m3ch's; two-sided p; whose seeds its bounds know of, none: images alone
        paper_top1, paper_top5: the paper's, on ImageNet, %

        Table 3:
        name, seed, trained, tested: the run that was fine-tuned; its seed; depth fine-tuned with; tested with
        miou, low, high, error: mIoU; 95 % bounds and standard error over images
        single_miou, commonest_miou, pixel_accuracy: without scales and mirrors; of the commonest label; share of pixels
        selection, num_images: how the checkpoint was chosen; test images
        paper_miou: the paper's, on NYUDepthV2, %
        """
        if number == 1:
            return tables.table1(self)
        if number == 2:
            return accuracy.table2(self)
        if number != 3:
            raise AnalysisError(f"table must be 1, 2 or 3, got {number!r}")
        if self.matrix is None:
            raise AnalysisError(
                "table 3 needs a matrix: make one with 'train matrix RUNS --data SHARDS --out FOLDER', then load(runs, "
                "matrix=FOLDER)"
            )
        return fine_tuning.table3(self.matrix)

    def claims(self) -> pd.DataFrame:
        """Every claim of the paper judged on these runs and dumps, a row each, in the paper's order; all but two text.

        id, sentence, place: short name; what is claimed, in our words; where the thesis says it
        estimand, precondition, reference, uncertainty: what is estimated, when, held against what, interval over what
        expected, observed, interval, seeds: what the claim expects; what was found; its 95 % interval; of what seeds
        verdict, why: reproduced, in part, open, contradicted or not tested; the reason
        shown_in, note: the figure or table; what to know beside it
        ours, contribution: whether the claim is not the thesis's (true or false); which of its three it is of (0: none)
        """
        return scoreboard(judge(self))


def study_of(paths: Iterable[Path | str] | Path | str, matrix: Path | str | None, digits: Path | str | None) -> Study:
    """`read`, with what it shows."""
    found = read(paths, matrix, digits)
    return Study(found.runs, found.dumps, found.matrix, found.digits, found.matrix_path, found.digits_path)

"""Lines for a shell: what makes something that is lacking, or all of it again."""

import shlex

from analysis.load import Loaded
from training.dumps.schema import UNPRINTABLE


def command(*words: object) -> str:
    """A line for a shell in which every word is one, whatever it holds; and a line, so what does not print is not."""
    return shlex.join(UNPRINTABLE.sub("\ufffd", str(word)) for word in words)


def to_make_again(study: Loaded) -> str:
    """Shell lines, one a product."""
    lines = []
    for run in study.runs:
        record = run.record
        lines.append(
            command(
                "train", "pretrain", "--preset", record.preset, "--model", record.model, "--data", record.shards.path,
                "--out", run.folder, "--set", f"data.depth={record.shards.depth_field}", "--set", f"seed={record.seed}",
            )
        )  # fmt: skip
    folders = {(run.record.study_hash, run.record.name): run.folder for run in study.runs}
    for info in (dump.info for dump in study.dumps):
        words = [
            "train", "dump", folders.get((info.study_hash, info.run), info.run), "--data", info.data,
            "--checkpoint", info.checkpoint, "--depth", info.depth_field, "--images", info.num_images,
            "--raw", info.num_raw, "--patch-depth", info.patch_depth,
        ]  # fmt: skip
        lines.append(command(*words, *(["--causal", info.num_causal] if info.num_causal else [])))
    for run in study.runs:
        for sweep in run.noise_sweeps:
            lines.append(
                command(
                    "train", "evaluate", run.folder, "--data", sweep.data, "--checkpoint", sweep.checkpoint,
                    "--split", sweep.split, "--depth", sweep.depth_field, "--noise", sweep.noise,
                    "--sigma", _listed(sweep.sigmas), "--noise-seed", sweep.noise_seed,
                )
            )  # fmt: skip
        for gap in run.gaps:
            lines.append(
                command(
                    "train", "gap", run.folder, "--data", gap.data, "--checkpoint", gap.checkpoint,
                    "--real", gap.real_field, "--sigma", _listed(gap.sigmas), "--noise-seed", gap.noise_seed,
                )
            )  # fmt: skip
    with_matrix = ["--matrix", study.matrix_path or "MATRIX"] if study.matrix else []
    lines.append(command("analyze", "report", *(run.folder for run in study.runs), *with_matrix, "--out", "report"))
    return "\n".join(lines)


def _listed(sigmas: list[float]) -> str:
    return ",".join(f"{sigma:g}" for sigma in sigmas)

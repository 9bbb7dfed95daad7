"""Lines for a shell: what makes something that is lacking, or all of it again."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from analysis.load import Given
from training.dumps.schema import UNPRINTABLE
from training.records import Run


def command(*words: object) -> str:
    """A line for a shell in which every word is one, whatever it holds; and a line, so what does not print is not."""
    return shlex.join(UNPRINTABLE.sub("\ufffd", str(word)) for word in words)


def to_make_again(study: Given) -> str:
    """Shell lines, one a product."""
    lines = [_pretrain(run) for run in study.runs]
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
    beside = ["--matrix", study.matrix_path or "MATRIX"] if study.matrix else []
    beside += ["--digits", study.digits_path or "DIGITS"] if study.digits else []
    lines.append(command("analyze", "report", *(run.folder for run in study.runs), *beside, "--out", "report"))
    return "\n".join(lines)


def _listed(sigmas: list[float]) -> str:
    return ",".join(f"{sigma:g}" for sigma in sigmas)


def _pretrain(run: Run) -> str:
    """With every setting that the result depends on: of the preset's values none is known to be as it was."""
    record = run.record
    known = _flat(record.config)
    settings = {key: known[key] for key in known if key.split(".")[0] in _DECIDING and key not in _GIVEN}
    settings["data.depth"] = record.shards.depth_field
    settings["runtime.snapshot_epochs"] = known.get("runtime.snapshot_epochs")  # which epochs can be dumped
    told = [f"{key}={_toml(value)}" for key, value in {**settings, "seed": record.seed}.items() if value is not None]
    init = ["--init", record.config["init"]] if record.config.get("init") else []
    return command(
        "train", "pretrain", "--preset", record.preset, "--model", record.model, "--data", record.shards.path,
        "--out", run.folder, *init, *(word for each in told for word in ("--set", each)),
    )  # fmt: skip


_DECIDING = ("model", "data", "augment", "optim")  # sections of the configuration
_GIVEN = ("model.name", "model.num_classes")  # by --model and by the shards


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """`optim.lr` and so on; what lies deeper stays together, as `--set` takes it."""
    return {
        f"{section}.{key}": value
        for section, content in config.items()
        if isinstance(content, Mapping)
        for key, value in content.items()
    }


def _toml(value: Any) -> str:
    """A text stays as it is where nothing is around it."""
    return value if isinstance(value, str) else _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}={_inline(each)}" for key, each in value.items() if each is not None) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_inline, value))}]"
    return json.dumps(value)

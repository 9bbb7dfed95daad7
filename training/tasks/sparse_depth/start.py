"""What a network begins with: an encoder's published weights, or a whole network that was trained before.

Weights of an encoder are timm's, by name or in a file in timm's layout; what a classifier has besides is left out. A
network is taken from the folder of a teacher, or of a finished run of `train depth`, and must be the same design and
size. Nothing is loaded by halves: a weight that is lacking or unknown is refused.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pipeline.teachers import TeacherError, sparse_teacher
from pipeline.teachers.sparse import SparseNetwork
from training.models.layouts import refuse_odd_tensors, unwrapped
from training.models.positions import resampled
from training.models.pretrained import How, Report, ReportRow
from training.models.vit import ModelError, load_checked
from training.models.weight_files import content_of, sha256_of
from training.weights import fetched, sha256_of_state

TEACHER = "teacher"  # the folder that a run ends with, which precompute-depth --teacher takes
SOURCES = "timm:NAME, a file of an encoder's weights, or the folder of a teacher or of a finished run of train depth"
_OF_CLASSIFIER = re.compile(r"head\.|fc_norm\.|mask_token$")  # and of DINOv2's own training


def initialise(network: SparseNetwork, source: str) -> Report:
    """Load `source` into the network; ModelError if unfit."""
    path = Path(source)
    if source.startswith("timm:"):
        state = fetched(source.removeprefix("timm:")).state_dict()
        return _of_encoder(network, state, source, sha256_of_state(state))
    if path.is_file():
        return _of_encoder(network, unwrapped(content_of(path), source), source, sha256_of(path))
    if path.is_dir():
        return _of_network(network, path)
    raise ModelError(f"--init must be {SOURCES}, got {source!r}: nothing there")


def _of_encoder(network: SparseNetwork, state: Mapping[str, Tensor], where: str, sha256: str) -> Report:
    own = network.encoder.state_dict()
    state = {_own_name(name, own): value for name, value in state.items() if not _OF_CLASSIFIER.match(name)}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(
            f"{where} is no encoder of {network.config.name}: {len(missing)} weights missing, {len(unexpected)} "
            f"unexpected (first: {(missing or unexpected)[0]}): choose {SOURCES}"
        )
    refuse_odd_tensors(state, where)
    fitted: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    for name, value in own.items():
        found = state[name]
        if name == "pos_embed" and found.shape != value.shape:
            found, adapted[name] = _positions(found, value, where)
        if found.shape != value.shape:
            raise ModelError(
                f"{where}: {name} must have shape {tuple(value.shape)} as the model's sizes ask, got "
                f"{tuple(found.shape)}: choose other weights"
            )
        fitted[name] = found.to(value.dtype)
    load_checked(network.encoder, fitted, where)
    rows = [_row("encoder", "loaded", [v for n, v in fitted.items() if n not in adapted])]
    rows += [_row("position embedding", "adapted", [fitted[name]], detail) for name, detail in adapted.items()]
    rest = [value for name, value in network.named_parameters() if not name.startswith("encoder.")]
    return Report(where, sha256, (*rows, _row("decoder", "fresh", rest)))


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """timm names a stage `stages.0` in a whole ConvNeXt and `stages_0` in one that gives features only."""
    other = re.sub(r"^(stem|stages)\.(\d+)", r"\1_\2", name)
    return other if name not in own and other in own else name


def _positions(table: Tensor, own: Tensor, where: str) -> tuple[Tensor, str]:
    """(1, 1 + patches, width) for the model's grid; both grids are square, behind the class token's row."""
    have, want = (math.isqrt(each.shape[1] - 1) if each.ndim == 3 else 0 for each in (table, own))
    if have == 0 or 1 + have**2 != table.shape[1]:
        raise ModelError(
            f"{where}: pos_embed must have shape (1, rows, width) with a row for the class token and one a patch of a "
            f"square grid, got {tuple(table.shape)}: choose other weights"
        )
    return resampled(table.float(), (have, have), (want, want)), f"{have}x{have} to {want}x{want}"


def _of_network(network: SparseNetwork, path: Path) -> Report:
    folder = path / TEACHER if (path / "run.json").is_file() else path
    if not folder.is_dir():
        raise ModelError(f"--init {path} is a run without a finished teacher ({TEACHER}/ is not there): let it end")
    if not (folder / sparse_teacher.CONFIG).is_file():
        raise ModelError(f"--init must be {SOURCES}, got {path}: it has no {sparse_teacher.CONFIG}")
    try:
        theirs, _ = sparse_teacher.load(folder)
    except TeacherError as error:
        raise ModelError(f"--init {path}: {error}") from None
    ours, other = network.config.model_dump(), theirs.config.model_dump()
    if ours["name"] != other["name"]:
        raise ModelError(
            f"--init {path} is a {other['name']}, which starts no {ours['name']}: choose --model {other['name']}"
        )
    for key, value in ours.items():
        if other[key] != value:
            raise ModelError(
                f"--init {path}: model.{key} must be {value} as the model's is, got {other[key]}: choose another, or "
                f"--set model.{key}"
            )
    load_checked(network, theirs.state_dict(), str(folder))
    encoder = [value for name, value in network.named_parameters() if name.startswith("encoder.")]
    rest = [value for name, value in network.named_parameters() if not name.startswith("encoder.")]
    rows = (_row("encoder", "loaded", encoder), _row("decoder", "loaded", rest))
    return Report(str(path), sha256_of(folder / "model.safetensors"), rows)


def _row(what: str, how: How, tensors: Sequence[Tensor], detail: str = "") -> ReportRow:
    return ReportRow(what, how, len(tensors), sum(tensor.numel() for tensor in tensors), detail)

"""Attention with a bias of pairs, in Triton: nothing with a query and a key dimension per head is stored in forward.

    scores_hij = q_hi . k_hj / sqrt(d_h) + c_h * P_ij,   out = softmax(scores) V

P is |d_i - d_j|, computed inside from one depth a token (NaN: zero), or a table that all heads read, or absent. Forward
is the online softmax of FlashAttention (Dao, 2023); it keeps one log-sum-exp a query. Backward is one program per image
and head: it holds all queries, so each gradient is written once, in one order, without atomics. A table's gradient
is a sum over heads, for which backward stores dscores.

Head dimension 16, 32 or 64 and at most 256 tokens, on a GPU with 160 KB of shared memory a block (A100, H100 and their
kin). Products accumulate in fp32. Checked in Triton's interpreter; no time has been taken on a GPU yet.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from training.models.score_bias import LinearBias, ScoreBias

_NONE, _DEPTHS, _TABLE = 0, 1, 2  # KIND in the kernels: what P is made of
_QUERY_BLOCK, _KEY_BLOCK = 64, 32
_TABLE_ALIGNMENT = 8  # elements of a row, for loads of 16 bytes


@triton.jit
def _scores(q, k, query, key, tokens, source, image, stride, coefficient, scale, KIND: tl.constexpr):
    """Scores of a tile, -inf beyond the last key, and the tile's P."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    pairs = tl.zeros_like(scores)
    if KIND == 1:
        of_query = tl.load(source + image * tokens + query, mask=query < tokens, other=0.0).to(tl.float32)
        of_key = tl.load(source + image * tokens + key, mask=key < tokens, other=0.0).to(tl.float32)
        difference = of_query[:, None] - of_key[None, :]
        pairs = tl.where(difference == difference, tl.abs(difference), 0.0)  # NaN differs from itself
    if KIND == 2:
        inside = (query < tokens)[:, None] & (key < tokens)[None, :]
        at = source + (image * tokens + query[:, None]) * stride + key[None, :]
        pairs = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if KIND != 0:
        scores += coefficient * pairs
    return tl.where((key < tokens)[None, :], scores, float("-inf")), pairs


@triton.jit
def _forward(
    qkv, source, coefficients, out, lse, tokens, heads, stride, scale,
    DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    num_blocks = tl.cdiv(tokens, QUERIES)
    image_head, block = tl.program_id(0) // num_blocks, tl.program_id(0) % num_blocks
    image, head = (image_head // heads).to(tl.int64), image_head % heads
    row = 3 * heads * DIM
    query, dim = block * QUERIES + tl.arange(0, QUERIES), tl.arange(0, DIM)
    is_query = (query < tokens)[:, None]
    first = qkv + image * tokens * row + head * DIM
    q = tl.load(first + query[:, None] * row + dim[None, :], mask=is_query, other=0.0)
    coefficient = 0.0
    if KIND != 0:
        coefficient = tl.load(coefficients + head)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    weighted = tl.zeros([QUERIES, DIM], tl.float32)
    for start in range(0, tokens, KEYS):
        key = start + tl.arange(0, KEYS)
        is_key = (key < tokens)[:, None]
        at_key = first + key[:, None] * row + dim[None, :]
        k = tl.load(at_key + heads * DIM, mask=is_key, other=0.0)
        v = tl.load(at_key + 2 * heads * DIM, mask=is_key, other=0.0)
        scores, _ = _scores(q, k, query, key, tokens, source, image, stride, coefficient, scale, KIND)
        now = tl.maximum(highest, tl.max(scores, 1))
        p = tl.exp(scores - now[:, None])
        shrink = tl.exp(highest - now)
        total = total * shrink + tl.sum(p, 1)
        weighted = weighted * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        highest = now
    at_out = out + (image * tokens + query[:, None]) * (heads * DIM) + head * DIM + dim[None, :]
    tl.store(at_out, (weighted / total[:, None]).to(out.dtype.element_ty), mask=is_query)
    tl.store(lse + (image * heads + head) * tokens + query, highest + tl.log(total), mask=query < tokens)


@triton.jit
def _backward(
    qkv, source, coefficients, out, lse, dout, dqkv, dcoefficients, dscores, tokens, heads, stride, scale,
    DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    image, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    row = 3 * heads * DIM
    query, dim = tl.arange(0, QUERIES), tl.arange(0, DIM)
    is_query = (query < tokens)[:, None]
    first = image * tokens * row + head * DIM
    at_query = first + query[:, None] * row + dim[None, :]
    at_out = (image * tokens + query[:, None]) * (heads * DIM) + head * DIM + dim[None, :]
    q = tl.load(qkv + at_query, mask=is_query, other=0.0)
    do = tl.load(dout + at_out, mask=is_query, other=0.0)
    o = tl.load(out + at_out, mask=is_query, other=0.0)
    inner = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    normaliser = tl.load(lse + (image * heads + head) * tokens + query, mask=query < tokens, other=0.0)
    coefficient = 0.0
    if KIND != 0:
        coefficient = tl.load(coefficients + head)
    dq = tl.zeros([QUERIES, DIM], tl.float32)
    dcoefficient = tl.zeros([QUERIES], tl.float32)
    for start in range(0, tokens, KEYS):
        key = start + tl.arange(0, KEYS)
        is_key = (key < tokens)[:, None]
        at_key = first + key[:, None] * row + dim[None, :]
        k = tl.load(qkv + at_key + heads * DIM, mask=is_key, other=0.0)
        v = tl.load(qkv + at_key + 2 * heads * DIM, mask=is_key, other=0.0)
        scores, pairs = _scores(q, k, query, key, tokens, source, image, stride, coefficient, scale, KIND)
        p = tl.where(is_query, tl.exp(scores - normaliser[:, None]), 0.0)
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, input_precision="ieee")
        ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - inner[:, None])
        if KIND != 0:
            dcoefficient += tl.sum(ds * pairs, 1)
        if KIND == 2:
            at_pair = ((image * heads + head) * tokens + query[:, None]) * stride + key[None, :]
            inside = is_query & (key < stride)[None, :]  # the padding of a row gets its zeros here
            tl.store(dscores + at_pair, ds.to(dscores.dtype.element_ty), mask=inside)
        ds = ds.to(q.dtype)
        dk = tl.dot(tl.trans(ds), q, input_precision="ieee") * scale
        dq += tl.dot(ds, k, input_precision="ieee")
        tl.store(dqkv + at_key + heads * DIM, dk.to(dqkv.dtype.element_ty), mask=is_key)
        tl.store(dqkv + at_key + 2 * heads * DIM, dv.to(dqkv.dtype.element_ty), mask=is_key)
    tl.store(dqkv + at_query, (dq * scale).to(dqkv.dtype.element_ty), mask=is_query)
    if KIND != 0:
        tl.store(dcoefficients + image * heads + head, tl.sum(dcoefficient, 0))


def attention(qkv: Tensor, heads: int, bias: ScoreBias | None) -> Tensor:
    """(batch, tokens, 3 * width), as the linear layer gives it -> (batch, tokens, width). Differentiable.

    `triton_refusal` of `attention` tells what shapes and devices it takes.
    """
    if bias is None:
        return _attention(qkv, None, None, heads)[0]
    if isinstance(bias, LinearBias):
        return _attention(qkv, bias.coefficient.float(), bias.depths.float(), heads)[0]
    table = F.pad(bias.table, (0, -bias.table.shape[-1] % _TABLE_ALIGNMENT)).to(qkv.dtype)
    return _attention(qkv, bias.coefficient.float(), table, heads)[0]


def _kind(source: Tensor | None) -> int:
    return _NONE if source is None else _DEPTHS if source.ndim == 2 else _TABLE


@torch.library.custom_op("pseudodepth::attention", mutates_args=())
def _attention(qkv: Tensor, coefficient: Tensor | None, source: Tensor | None, heads: int) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp of scores (batch, heads, tokens). `source`: depths, a table or nothing."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out, lse = _empty_outputs(qkv, heads)
    _forward[(triton.cdiv(tokens, _QUERY_BLOCK) * batch * heads,)](
        qkv.contiguous(), source if source is None else source.contiguous(), coefficient, out, lse,
        tokens, heads, source.shape[-1] if source is not None else 0, (width // heads) ** -0.5,
        DIM=width // heads, QUERIES=_QUERY_BLOCK, KEYS=_KEY_BLOCK, KIND=_kind(source),
    )  # fmt: skip
    return out, lse


@_attention.register_fake
def _(qkv: Tensor, coefficient: Tensor | None, source: Tensor | None, heads: int) -> tuple[Tensor, Tensor]:
    return _empty_outputs(qkv, heads)


def _empty_outputs(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    return qkv.new_empty(batch, tokens, width), qkv.new_empty(batch, heads, tokens, dtype=torch.float32)


@torch.library.custom_op("pseudodepth::attention_backward", mutates_args=())
def _attention_backward(
    dout: Tensor, qkv: Tensor, coefficient: Tensor | None, source: Tensor | None, out: Tensor, lse: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, of the coefficient per image (batch, heads), and of the scores if the source is a table."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    dqkv, dcoefficient, dscores = _empty_gradients(qkv, source, heads)
    _backward[(batch * heads,)](
        qkv.contiguous(), source if source is None else source.contiguous(), coefficient, out, lse, dout.contiguous(),
        dqkv, dcoefficient, dscores, tokens, heads, source.shape[-1] if source is not None else 0,
        (width // heads) ** -0.5, DIM=width // heads, QUERIES=max(16, triton.next_power_of_2(tokens)),
        KEYS=_KEY_BLOCK, KIND=_kind(source), num_warps=8,
    )  # fmt: skip
    return dqkv, dcoefficient, dscores


@_attention_backward.register_fake
def _(
    dout: Tensor, qkv: Tensor, coefficient: Tensor | None, source: Tensor | None, out: Tensor, lse: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(qkv, source, heads)


def _empty_gradients(qkv: Tensor, source: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens = qkv.shape[:2]
    of_scores = (batch, heads, tokens, source.shape[-1]) if source is not None and source.ndim == 3 else (0,)
    return (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        qkv.new_empty(batch, heads, dtype=torch.float32),
        qkv.new_empty(of_scores),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, coefficient, source, ctx.heads = inputs
    ctx.save_for_backward(qkv, coefficient, source, *output)


def _differentiate(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
    qkv, coefficient, source, out, lse = ctx.saved_tensors
    dqkv, per_image, dscores = torch.ops.pseudodepth.attention_backward(
        dout, qkv, coefficient, source, out, lse, ctx.heads
    )
    if coefficient is None:
        return dqkv, None, None, None
    dtable = None
    if source.ndim == 3:
        dtable = (dscores * coefficient[:, None, None]).sum(1).to(source.dtype)
    return dqkv, per_image.sum(0), dtable, None


_attention.register_autograd(_differentiate, setup_context=_remember)

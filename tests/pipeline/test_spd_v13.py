"""SPD v13.1: counts of its document at full width, and behaviour at tiny ones."""

import contextlib
import json

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.teachers import TeacherError, sparse, spd_v13
from pipeline.teachers.spd_v13 import SpdV13, SpdV13Config

TINY = SpdV13Config(
    dims=(8, 8, 12, 16), depths=(1, 1, 1, 1), neck=(8, 12, 16, 20), width=16, heads=2, encoder_heads=4,
    encoder_layers=1, local_layers=1, routed=12,
)  # fmt: skip
PARAMETERS = {
    "encoder": 27_864_960, "attention3": 3_548_928, "neck": 401_664, "attention4": 3_548_928, "once": 653_568,
    "tokens": 139_472, "local": 890_112, "image3": 741_504, "image4": 741_504, "final": 1_410_241,
}  # fmt: skip
PARTS_OF_ONCE = {"pairs3": 148_224, "pairs4": 295_680, "rows": 73_920, "centres": 135_744}
SIZE = (128, 160)


@pytest.fixture(scope="module")
def full() -> SpdV13:
    """The published widths, without numbers: shapes alone."""
    with torch.device("meta"):
        return SpdV13(SpdV13Config()).eval()


def lively(config: SpdV13Config = TINY, seed: int = 0) -> SpdV13:
    """A network whose answers and routing differ from query to query, as those of an untrained one hardly do."""
    torch.manual_seed(seed)
    network = SpdV13(config).eval()
    with torch.no_grad():
        network.final.types.normal_()
        network.final.head[2].weight.normal_(std=0.3)
        for module in network.modules():
            if isinstance(module, spd_v13.Layer):
                module.query.weight.mul_(6)
    return network


@pytest.fixture(scope="module")
def network() -> SpdV13:
    return lively().double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoded(network: SpdV13, images: Tensor) -> sparse.Encoded:
    with torch.no_grad():
        return network.encode(images)


def some_queries(number: int = 40, size: tuple[int, int] = SIZE, seed: int = 2) -> Tensor:
    """Two images' queries, from edge to edge and a little beyond."""
    drawn = torch.rand(2, number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.tensor((size[1] + 4.0, size[0] + 4.0)) - 2.5


def test_every_part_has_the_parameters_of_the_document(full):
    counted = {name: sum(p.numel() for p in part.parameters()) for name, part in full.named_children()}
    assert counted == PARAMETERS
    assert {n: sum(p.numel() for p in part.parameters()) for n, part in full.once.named_children()} == PARTS_OF_ONCE
    assert sum(counted.values()) == 39_940_881
    assert sum(counted.values()) - counted["encoder"] == 12_075_921
    written = spd_v13.__doc__
    assert all(f"{number:,}" in written for number in (*PARAMETERS.values(), 39_940_881, 12_075_921))


@pytest.mark.parametrize(("size", "macs"), [((480, 640), 24_934_912), ((256, 320), 24_090_112)])
def test_a_query_costs_what_the_document_says(full, monkeypatch, size, macs):
    monkeypatch.setattr(spd_v13, "in_full", lambda tensor: contextlib.nullcontext())  # shapes alone know no autocast
    with FlopCounterMode(display=False) as of_image:
        encoded = full.encode(torch.empty(1, 3, *size, device="meta"))
    with FlopCounterMode(display=False) as of_queries:
        full.at(encoded, torch.empty(1, 3, 2, device="meta"))
    assert full.macs_of_query(size) == macs
    assert of_queries.get_total_flops() == 2 * 3 * full.macs_of_query(size, as_written=False)
    assert of_image.get_total_flops() == 2 * full.macs_of_image(size, as_written=False)
    if size == (480, 640):
        assert full.macs_of_image(size) == 35_817_292_800
        assert round((66.7e9 - 35.8e9) / macs, -1) == 1_240
        assert full.macs_of_query(size, as_written=False) == 6_001_792


@pytest.mark.parametrize("size", [(32, 64), (96, 160)])
def test_costs_are_those_of_any_width(size):
    config = TINY.model_copy(update={"num_offsets": 5, "image_layers": 3, "final_layers": 1, "depths": (2, 1, 3, 1)})
    network = SpdV13(config)  # in evaluation torch fuses self-attention, which the counter does not see
    with FlopCounterMode(display=False) as of_image:
        encoded = network.encode(torch.randn(2, 3, *size))
    with FlopCounterMode(display=False) as of_queries:
        network.at(encoded, torch.zeros(2, 7, 2))
    assert of_image.get_total_flops() == 2 * 2 * network.macs_of_image(size, as_written=False)
    assert of_queries.get_total_flops() == 2 * 2 * 7 * network.macs_of_query(size, as_written=False)


def test_a_query_looks_up_92_points_and_3_and_reads_91_and_23_tokens(monkeypatch):
    network = lively(TINY.model_copy(update={"routed": 20})).double()
    looked, read = [], []

    def counting(feature_map: Tensor, points: Tensor) -> Tensor:
        looked.append(points.shape[2])
        return sparse.look_up(feature_map, points)

    monkeypatch.setattr(spd_v13, "look_up", counting)
    for attention in (network.local, network.final.attention):
        attention.register_forward_pre_hook(lambda _, given: read.append(given[1].shape[2]))
    with torch.no_grad():
        network.at(network.encode(torch.randn(1, 3, *SIZE, dtype=torch.float64)), torch.zeros(1, 4, 2))
    assert sum(looked[:-3]) == 92 and looked[-3:] == [1, 1, 1]
    assert read == [91, 23]


def test_reading_tokens_is_attention_to_their_keys_and_values_written_out(network):
    """In the document's words, and with weights dropped: keys and values of each token, then softmax."""
    torch.manual_seed(4)
    h, tokens = torch.randn(2, 3, 16).double(), torch.randn(2, 3, 9, 16).double()
    for attention in (network.local, network.final.attention):
        layer = attention.layers[0]
        with torch.no_grad():
            torch.nn.init.normal_(layer.pairs.bias)
            key, value = layer.pairs(tokens).unflatten(-1, (2, 2, 8)).unbind(3)  # (batch, queries, tokens, heads, 8)
            query = layer.query(layer.norm(h)).unflatten(-1, (2, 8)) / 8**0.5
            weights = torch.einsum("bqhd,bqthd->bqht", query, key).softmax(-1)
            read = h + layer.out(torch.einsum("bqht,bqthd->bqhd", weights, value).flatten(2))
            torch.testing.assert_close(layer(h, tokens), read + layer.ffn(read), rtol=0, atol=1e-12)
            dropped = torch.nn.Dropout(0.5)
            layer.dropout, kept = dropped, layer.dropout
            torch.manual_seed(7)
            found = layer(h, tokens)
            torch.manual_seed(7)
            read = h + layer.out(torch.einsum("bqht,bqthd->bqhd", dropped(weights), value).flatten(2))
            torch.testing.assert_close(found, read + layer.ffn(read), rtol=0, atol=1e-12)
            layer.dropout = kept


def test_without_its_attention_the_encoder_is_timms(images):
    import timm

    network = SpdV13(TINY).eval()
    plain = timm.create_model("convnextv2_tiny", features_only=True, dims=TINY.dims, depths=TINY.depths).eval()
    plain.load_state_dict(network.encoder.state_dict())
    with torch.no_grad():
        for with_attention in (True, False):
            if not with_attention:
                network.attention3 = nn.Identity()
            own, theirs = network.levels(images.float()), plain(images.float())
            assert [tuple(level.shape[1:]) for level in own] == [(8, 32, 40), (8, 16, 20), (12, 8, 10), (16, 4, 5)]
            same = [torch.equal(a, b) for a, b in zip(own, theirs, strict=True)]
            assert same == [True, True, not with_attention, not with_attention]


@pytest.mark.parametrize(("kind", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_an_answer_depends_on_its_query_alone(images, kind, bound):
    network, images, queries = lively().to(kind), images.to(kind), some_queries().to(kind)
    with torch.no_grad():
        encoded = network.encode(images)
        answers = network.at(encoded, queries)
        order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(3))
        permuted = torch.empty_like(answers)
        permuted[:, order] = network.at(encoded, queries[:, order])
        chunked = torch.cat([network.at(encoded, chunk) for chunk in queries.split(7, 1)], 1)
        alone = torch.cat([network.at(encoded, queries[:, [k]]) for k in range(5)], 1)
        own = torch.cat([network(images[[b]], queries[[b]]) for b in range(2)])
    assert answers.std() > 0.1
    for others in (permuted, chunked, own):
        torch.testing.assert_close(others, answers, rtol=bound, atol=0)
    torch.testing.assert_close(alone, answers[:, :5], rtol=bound, atol=0)


def test_dense_is_what_is_answered_at_the_centres(network, encoded, images, monkeypatch):
    monkeypatch.setattr(spd_v13, "_CHUNK", 300)
    with torch.no_grad():
        dense = network.dense(encoded)
        v, u = 4 * torch.arange(32) + 1.5, 4 * torch.arange(40) + 1.5
        queries = torch.stack([u.expand(32, 40), v[:, None].expand(32, 40)], -1).view(1, -1, 2).expand(2, -1, -1)
        asked = network.at(encoded, queries.double())
        assert dense.shape == (2, 32, 40)
        torch.testing.assert_close(dense.flatten(1), asked, rtol=1e-12, atol=0)
        assert network(images).shape == (2, *SIZE)


def test_queries_may_be_pixels_of_a_photograph_of_another_size(network, encoded):
    queries = some_queries()
    photograph = (3 * queries + 1, (3 * SIZE[0], 3 * SIZE[1]))  # centres of pixels three times as many
    with torch.no_grad():
        torch.testing.assert_close(network.at(encoded, *photograph), network.at(encoded, queries), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (160, 96)])
def test_odd_multiples_of_32_run_and_show_no_more_cells_than_there_are(size):
    network = lively()
    with torch.no_grad():
        encoded = network.encode(torch.randn(1, 3, *size))
        depth = network.dense(encoded)
        cells = network.routed(encoded, torch.zeros(1, 3, 2))
    number = size[0] * size[1] // 32**2
    assert depth.shape == (1, size[0] // 4, size[1] // 4) and depth.isfinite().all()
    assert cells.shape == (1, 3, min(12, number)) and cells.max() < number


def test_other_sides_are_refused_in_one_line(network):
    with pytest.raises(TeacherError, match=r"^an image's sides must be multiples of 32 px, got 476x350: .*crop it$"):
        network.encode(torch.zeros(1, 3, 350, 476))


@pytest.mark.parametrize("seed", range(2))
def test_untrained_it_says_two_and_a_half_metres_everywhere(seed):
    torch.manual_seed(seed)
    network = SpdV13(SpdV13Config(dims=(8, 8, 12, 16), depths=(1, 1, 1, 1))).eval()
    with torch.no_grad():
        depth = network(torch.randn(2, 3, 64, 96), some_queries(200, (64, 96)).float())
    assert not network.final.types.any()
    assert ((depth / 2.5 - 1).abs() < 0.05).all() and depth.std() > 0


def test_codes_tell_the_cells_around_a_query_apart():
    steps = sparse.neighbours((2, 2), 2, torch.zeros(1))  # of that map a cell is 1 wide
    steps = torch.cat([steps[:12], steps[13:]])
    assert steps.abs().max() == 2 and len(steps.unique(dim=0)) == 24
    codes = spd_v13.offset_code(steps)
    assert codes.shape == (24, 16)
    assert torch.pdist(codes).min() > 0.1
    assert torch.pdist(spd_v13.offset_code(12 * steps)).max() < 1e-4  # φ of δ itself: one code for all
    ends = spd_v13.offset_code(torch.tensor([[-5.9, 0.0], [5.9, 0.0]]))
    assert torch.pdist(ends).min() > 0.1


def test_cells_of_one_level_are_told_apart_by_place_and_by_level(network, encoded):
    flat = {name: torch.ones_like(feature_map) for name, feature_map in encoded.maps.items()}
    with torch.no_grad():
        _, tokens = network.tokens(flat, torch.zeros(2, 1, 2, dtype=torch.float64))
    assert torch.pdist(tokens[0, 0]).min() > 1e-3
    parts = tokens[0, 0].split([32, 25, 25, 9])
    places = [part - part.mean(0) for part in parts[1:]]
    torch.testing.assert_close(places[0], places[1])
    inner = places[0].view(5, 5, -1)[1:4, 1:4].flatten(0, 1)
    torch.testing.assert_close(places[2], inner - inner.mean(0))


def test_the_heaviest_cells_are_routed_and_of_equals_the_first(network, encoded):
    weights = []
    hook = network.image4.layers[-1].register_forward_hook(lambda layer, given, gave: weights.append(gave[1]))
    with torch.no_grad():
        cells = network.routed(encoded, some_queries())
    hook.remove()
    (of_heads,) = weights
    mean = of_heads.mean(1)
    assert cells.dtype == torch.long and cells.shape == (2, 40, 12)
    torch.testing.assert_close(of_heads.sum(-1), torch.ones(2, 2, 40, dtype=torch.float64))
    assert torch.equal(mean.gather(2, cells), mean.topk(12).values)
    assert len(cells.unique()) > 12

    tied = lively().double()
    with torch.no_grad():
        tied.image4.layers[-1].query.weight.zero_()
        tied.image4.layers[-1].query.bias.zero_()
        cells = tied.routed(encoded, some_queries())
    assert torch.equal(cells, torch.arange(12).expand(2, 40, 12))


def test_routing_does_not_see_its_own_dropout(encoded):
    network, queries = lively(TINY.model_copy(update={"dropout": 0.9})).double(), some_queries()
    with torch.no_grad():
        cells, depth = network.routed(encoded, queries), network.at(encoded, queries)
        network.image4.layers[-1].train()
        torch.manual_seed(0)
        assert torch.equal(network.routed(encoded, queries), cells)
        assert not torch.allclose(network.at(encoded, queries), depth, rtol=1e-3)


def test_routed_cells_are_read_by_what_answers(network, encoded):
    """And no others: g matters at those cells alone."""
    queries = some_queries(1)
    with torch.no_grad():
        cells = network.routed(encoded, queries)
        image = torch.arange(2)[:, None]

        def answer_with(rows: Tensor) -> Tensor:
            return network.at(sparse.Encoded(encoded.maps | {"rows": rows}, encoded.size), queries)

        read, unread = encoded.maps["rows"].clone(), torch.zeros_like(encoded.maps["rows"])
        read[image, cells[:, 0]] *= -1
        unread[image, cells[:, 0]] = encoded.maps["rows"][image, cells[:, 0]]
        depth = network.at(encoded, queries)
        assert torch.equal(answer_with(unread), depth)
        assert not torch.isclose(answer_with(read), depth, rtol=1e-4).any()


def test_training_reaches_every_parameter(images):
    network = SpdV13(TINY).double().train()
    torch.manual_seed(0)
    network(images, some_queries()).log().square().sum().backward()
    unmoved = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert not unmoved and not still
    for name, parameter in network.named_parameters():
        if "pairs" in name and name.endswith("bias"):
            keys, values = parameter.grad.chunk(2)
            assert keys.norm() < 1e-10 * values.norm()  # a key's bias moves all scores alike
    assert network.final.types.grad.any(1).all() and network.tokens.offsets.weight.grad.any(1).all()


def test_dropout_draws_in_training_alone(network, images):
    drawing, queries = lively().double().train(), some_queries(4)
    with torch.no_grad():
        answers = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            answers.append(drawing(images, queries))
        assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
        assert torch.equal(network(images, queries), network(images, queries))


def test_in_bfloat16_coordinates_and_metres_stay_whole():
    network, size, kinds = lively(), (32, 448), []
    for careful in (network.tokens.offsets, network.final.head):
        careful.register_forward_hook(lambda module, given, gave: kinds.append(gave.dtype))
    queries = torch.stack([torch.arange(396.0, 412.0), torch.full((16,), 13.0)], -1)[None]
    torch.manual_seed(5)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        encoded = network.encode(images)
        assert {made.dtype for made in encoded.maps.values()} == {torch.float32}
        exact = network.at(encoded, queries)
        with torch.autocast("cpu", torch.bfloat16):
            inside = network.encode(images)
            rough, whole = network.at(encoded, queries), network(images, queries)
        coarse = network.at(encoded, queries.bfloat16())
    assert {made.dtype for made in inside.maps.values()} == {torch.float32}
    assert rough.dtype == whole.dtype == torch.float32 and set(kinds) == {torch.float32}
    assert (rough / exact - 1).abs().max() < 0.03 and (whole / exact - 1).abs().max() < 0.1
    step, its_error = exact.log().diff(), rough.log().diff() - exact.log().diff()
    assert its_error.norm() < 0.3 * step.norm()
    assert (coarse.log().diff() - step).norm() > 0.5 * step.norm()  # what columns in bfloat16 would do


def test_a_config_survives_json():
    written = json.loads(TINY.model_dump_json())
    assert written["name"] == "spd-v13"
    assert SpdV13Config.model_validate(written) == TINY
    again = SpdV13(SpdV13Config.model_validate(written))
    again.load_state_dict(lively().state_dict())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width": 200, "neck": (64, 128, 200, 384)}, "width must be a multiple of its 6 heads, got 200"),
        ({"dims": (96, 192, 380, 768)}, r"dims\[2\] must be a multiple of its 6 heads, got 380"),
        ({"neck": (64, 128, 192, 380)}, r"neck\[3\] must be a multiple of its 6 heads, got 380"),
        ({"width": 96}, r"neck\[2\] must be width, 96: .* got 192"),
        ({"routed": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"depths": (3, 3, 9)}, "depths"),
        ({"name": "spd-v15"}, "spd-v13"),
        ({"layers": 2}, "not permitted"),
    ],
)
def test_configs_that_cannot_be_built_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        SpdV13Config(**given)

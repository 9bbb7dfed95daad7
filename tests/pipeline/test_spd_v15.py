"""SPD v15.2: its counts, that asking and mapping are the same network, that an answer depends on its query alone."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from pipeline.teachers import TeacherError
from pipeline.teachers.sparse import centres, look_up, neighbours, normalised, whole
from pipeline.teachers.spd_v15 import SpdV15, SpdV15Config

TINY = {"encoder_width": 24, "encoder_heads": 3, "encoder_depth": 4, "taps": (0, 1, 2, 3), "position_px": 56,
        "width": 16, "heads": 4, "layer_scale": 1.0}  # fmt: skip
DECODERS = ("full", "no-stage-2", "look-up")


def tiny(decoder="full", dtype=torch.float64):
    torch.manual_seed(0)
    network = SpdV15(SpdV15Config(decoder=decoder, **TINY)).to(dtype).eval()
    if decoder != "look-up":
        for embedding in (network.scale_embedding, network.position_embedding):
            torch.nn.init.normal_(embedding)  # so that what place and map of a token do is seen
    return network


def images(height, width, batch=2, dtype=torch.float64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture(scope="module")
def of_the_document():
    with torch.device("meta"):
        return SpdV15()


def parameters(*modules):
    return sum(weight.numel() for module in modules for weight in module.parameters())


def test_has_the_documents_parameters(of_the_document):
    net = of_the_document
    neck = {name: parameters(level) - 24_768 for name, level in net.neck.items()}
    assert neck == {"l1": 65_600, "l2": 16_448, "l3": 0, "l4": 36_928}
    assert parameters(net.neck) == 218_048
    assert [parameters(rcu) for rcu in (net.rcu_l4, net.rcu_l3, net.rcu_sum)] == [73_856] * 3
    assert parameters(net.rcu_l4, net.rcu_l3, net.rcu_sum, net.to_l3, net.to_s8) == 229_888
    assert parameters(net.stage_1) == parameters(net.stage_2) == 49_984
    embeddings = net.scale_embedding.numel() + net.position_embedding.numel()
    assert parameters(net.stage_1, net.stage_2, net.head) + embeddings == 110_209
    assert parameters(net) - parameters(net.encoder) == 558_145
    assert parameters(net) == 22_614_337


def test_has_the_documents_multiply_accumulates(of_the_document):
    net = of_the_document
    assert net.macs_of_query() == 456_960 + 248_960 + 8_320 + 19_200 == 733_440
    dense = net.macs_of_dense((350, 476))
    assert round(dense / 1e5) / 10 == 1_699.7
    assert int(dense / net.macs_of_query()) == 2_317
    assert round(net.macs_of_dense((224, 224)) / net.macs_of_query()) == 698
    keys_and_values = 2 * 75 * 64**2
    assert round(1000 * keys_and_values / net.macs_of_query()) == 838


@pytest.mark.parametrize("decoder", DECODERS)
def test_multiply_accumulates_are_those_that_torch_counts(decoder):
    network, look_ups = tiny(decoder, torch.float32), {"full": 75, "no-stage-2": 50, "look-up": 2}[decoder]
    encoded = network.encode(images(56, 84, 1, torch.float32))
    with FlopCounterMode(display=False) as counter:
        network.at(encoded, torch.zeros(1, 10, 2))
    assert counter.get_total_flops() // 2 == 10 * (network.macs_of_query(as_written=False) - look_ups * 4 * 16)


def test_encoder_neck_and_global_path_cost_what_the_design_counts(of_the_document):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        of_the_document.eval().encode(torch.zeros(1, 3, 350, 476))
    found = {part: sum(flops.values()) / 2e9 for part, flops in counter.get_flop_counts().items()}
    neck, encoder = found["Sequential"], found["PatchEmbed"] + found["Block"]
    assert round(encoder, 2) == 24.94 and round(neck, 3) == 0.161
    assert round(found["Global"] - encoder - neck, 3) == 0.159


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("grid", [(25, 34), (3, 4), (5, 1)])
def test_the_dense_map_is_what_asking_every_cell_gives(decoder, grid):
    network, batch = tiny(decoder), images(14 * grid[0], 14 * grid[1], 1)
    with torch.no_grad():
        encoded = network.encode(batch)
        dense = network.dense(encoded)
        assert dense.shape == (1, 4 * grid[0], 4 * grid[1])
        queries = centres(dense.shape[1:], encoded.size, batch)[None]
        torch.testing.assert_close(network.at(encoded, queries).view_as(dense), dense, rtol=0, atol=1e-10)
    assert dense.std() > 1e-3


def test_in_single_precision_the_dense_map_is_what_asking_gives_to_rounding():
    network, batch = tiny(dtype=torch.float32), images(70, 98, 2, torch.float32)
    with torch.no_grad():
        encoded = network.encode(batch)
        dense = network.dense(encoded)
        queries = centres(dense.shape[1:], encoded.size, batch)[None].expand(2, -1, -1)
        torch.testing.assert_close(network.at(encoded, queries).view_as(dense), dense, rtol=1e-5, atol=1e-5)


def test_neighbours_a_cell_apart_are_another_network(monkeypatch):
    """The document's dense mode."""
    network, batch = tiny(), images(70, 98, 1)
    stage, kept = network.stage_1, network.stage_1.dense

    def undilated(found, maps, grid, step, embedding):
        assert step == 2
        return kept(found, maps, grid, 1, embedding)

    with torch.no_grad():
        encoded = network.encode(batch)
        dense = network.dense(encoded)
        monkeypatch.setattr(stage, "dense", undilated)
        assert (network.dense(encoded) - dense).abs().max() > 1e-4


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_an_answer_depends_on_its_query_alone(dtype, within):
    network, batch = tiny(dtype=dtype), images(42, 70, 2, dtype)
    queries = torch.rand(2, 64, 2, generator=torch.Generator().manual_seed(2), dtype=dtype) * queries_up_to(42, 70)
    with torch.no_grad():
        encoded = network.encode(batch)
        together = network.at(encoded, queries)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
        permuted = network.at(encoded, queries[:, order])[:, order.argsort()]
        chunked = torch.cat([network.at(encoded, part) for part in queries.split(7, 1)], 1)
        alone = torch.stack([network(batch[1:], queries[1:, [k]])[0, 0] for k in range(0, 64, 16)])
    for other in (permuted, chunked):
        torch.testing.assert_close(other, together, rtol=0, atol=within)
    torch.testing.assert_close(alone, together[1, ::16], rtol=0, atol=max(within, 1e-12))


def queries_up_to(height, width):
    return torch.tensor([width - 1.0, height - 1.0])


def test_keys_and_values_of_maps_are_those_of_tokens_written_out():
    """Stage 1 in the document's words: projections of each token, as `dense` makes them of whole maps."""
    network, batch = tiny(), images(42, 70, 1)
    with torch.no_grad():
        encoded = network.encode(batch)
        points = normalised(torch.tensor([[[0.0, 0.0], [69.0, 41.0], [30.2, 11.7]]]).double(), encoded.size,
                            torch.float64)[:, :, None]  # fmt: skip
        near = points + neighbours(encoded.maps["s8"].shape[2:], 2, points)
        stage, embedding = network.stage_1, network._embedding(("s8", "l2"))
        tokens = torch.cat([look_up(encoded.maps[name], near) for name in ("s8", "l2")], 2)
        found = look_up(encoded.maps["s8"], points)[:, :, 0]
        key, value = stage.key(tokens + embedding), stage.value(tokens + embedding)
        mapped = torch.cat([look_up(of_map(stage.key, encoded.maps[name]), near) for name in ("s8", "l2")], 2)
        torch.testing.assert_close(mapped + F.linear(embedding, stage.key.weight), key, rtol=0, atol=1e-12)
        query = stage.query(stage.norm(found)).unflatten(-1, (4, 1, 4))
        score = query @ key.unflatten(-1, (4, 4)).permute(0, 1, 3, 4, 2) / 4**0.5
        read = (score.softmax(-1) @ value.unflatten(-1, (4, 4)).transpose(2, 3)).flatten(2)
        expected = found + stage.out(read)
        expected = expected + stage.layer(stage.norm_layer(expected))
        torch.testing.assert_close(stage(found, tokens + embedding), expected, rtol=0, atol=1e-12)


def of_map(linear, feature_map):
    return F.conv2d(feature_map, linear.weight[:, :, None, None], linear.bias)


def test_looks_up_as_grid_sample_does_with_its_border():
    generator = torch.Generator().manual_seed(4)
    for shape in ((2, 3, 7, 5), (1, 2, 1, 6), (1, 2, 4, 1)):
        feature_map = torch.randn(shape, generator=generator, dtype=torch.float64)
        points = torch.rand(shape[0], 50, 3, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
        theirs = F.grid_sample(feature_map, points, padding_mode="border", align_corners=False)
        torch.testing.assert_close(look_up(feature_map, points), theirs.permute(0, 2, 3, 1), rtol=0, atol=1e-12)


def test_queries_are_pixels_of_the_photograph_whatever_was_encoded():
    network, batch = tiny(), images(42, 70, 1)
    queries = torch.tensor([[[0.0, 0.0], [10.0, 20.0]]], dtype=torch.float64)
    twice = 2 * queries + 0.5  # the centre of a pixel lies between four of an image twice as large
    with torch.no_grad():
        encoded = network.encode(batch)
        asked, in_photograph = network.at(encoded, queries), network.at(encoded, twice, (84, 140))
    torch.testing.assert_close(asked, in_photograph, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decoder", DECODERS)
def test_trains_every_parameter_of_the_dense_map(decoder):
    network = tiny(decoder).train()
    depth = network(images(28, 42))
    assert depth.shape == (2, 28, 42) and (depth > 0).all()
    depth.log().square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_dense_map_teaches_what_asking_every_cell_does(decoder):
    network, batch = tiny(decoder).train(), images(28, 42)
    encoded = network.encode(batch)
    weights = torch.rand(2, 8 * 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    queries = centres((8, 12), encoded.size, batch)[None].expand(2, -1, -1)
    taught = []
    for depth in (network.dense(encoded).flatten(1), network.at(encoded, queries)):
        network.zero_grad()
        (depth.log() * weights).sum().backward(retain_graph=True)
        taught.append({name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None})
    for name, gradient in taught[1].items():
        torch.testing.assert_close(taught[0][name], gradient, rtol=1e-9, atol=1e-12)
    without = set(taught[0]) - set(taught[1])
    assert without <= {"stage_1.key.bias", "stage_2.key.bias"}, "which softmax does not see"


def test_answers_under_autocast_are_those_without_to_its_precision():
    network, batch = tiny(dtype=torch.float32), images(28, 420, 1, torch.float32)
    queries = torch.tensor([[[400.0, 10.0], [401.0, 10.0], [402.0, 10.0]]])
    with torch.no_grad():
        full = network(batch, queries)
        with torch.autocast("cpu", torch.bfloat16):
            rough, dense = network(batch, queries), network(batch)
    assert rough.dtype == dense.dtype == torch.float32
    torch.testing.assert_close(rough, full, rtol=0.1, atol=0.1)
    assert len(rough.unique()) == 3, "a bfloat16 column near 400 would be the same for all"


def test_refuses_sides_that_are_no_multiples_of_the_patch():
    network = tiny()
    for size in ((351, 476), (350, 477), (13, 28)):
        with pytest.raises(TeacherError, match=f"multiples of 14 px, got {size[1]}x{size[0]}"):
            network.encode(images(*size, 1))


@pytest.mark.parametrize("grid", [(37, 37), (32, 45)])
def test_odd_grids_run(grid):
    network = tiny(dtype=torch.float32)
    with torch.no_grad():
        depth = network(images(14 * grid[0], 14 * grid[1], 1, torch.float32))
    assert depth.isfinite().all()


def test_a_configuration_that_cannot_be_says_why():
    assert SpdV15Config.model_validate(SpdV15Config().model_dump(mode="json")) == SpdV15Config()
    for wrong, told in (({"width": 30}, "multiple of its 4 heads"), ({"taps": (2, 5, 8, 12)}, "12 blocks"),
                        ({"position_px": 500}, "multiple of 14"), ({"colour": 1}, "Extra inputs")):  # fmt: skip
        with pytest.raises(ValidationError, match=told):
            SpdV15Config(**wrong)


def test_the_dense_map_is_resized_for_whoever_wants_every_pixel():
    network, batch = tiny(), images(28, 42, 1)
    with torch.no_grad():
        dense = network.dense(network.encode(batch))
        torch.testing.assert_close(network(batch), whole(dense, (28, 42)), rtol=0, atol=0)

"""Bytes and operations, against numbers worked out by hand."""

import pytest
import torch

from benchmarks.machine import Machine, measure_bandwidth, measure_matrix_rate
from benchmarks.roofline import ALL_SEVEN, GRANITE_8B, Lora, Rows, check, decode, generate, prefill, seconds, step

MACHINE = Machine(bandwidth=4e12, matrix_rate=8e14)


def test_the_8b_models_weights():
    # q and o 4096 x 4096, k and v 4096 x 1024, gate, up and down 4096 x 12800
    assert GRANITE_8B.layer_params == 2 * 16_777_216 + 2 * 4_194_304 + 3 * 52_428_800 == 199_229_440
    assert GRANITE_8B.head_params == 201_338_880
    assert GRANITE_8B.weight_bytes == 16_341_032_960
    assert GRANITE_8B.kv_bytes == 40 * 2 * 1024 * 2 == 163_840


@pytest.mark.parametrize(
    ("targets", "params", "share"),
    [
        # of each layer, for rank 32: 32 * (8192 + 5120 + 5120); and 32 * (8192 + 3 * 16896) more
        (("q_proj", "k_proj", "v_proj"), 40 * 589_824, 0.0029),
        (ALL_SEVEN, 40 * 2_473_984, 0.0121),
    ],
    ids=["qkv", "all-seven"],
)
def test_an_adapters_share_of_a_decode_step(targets, params, share):
    lora = Lora(32, targets)
    assert GRANITE_8B.lora_params(lora.rank, lora.targets) == params
    base, adapted = decode(GRANITE_8B, [1]), decode(GRANITE_8B, [1], lora, ["a"])
    assert adapted.bytes - base.bytes == adapted.lora == 2 * params
    assert adapted.flops - base.flops == 2 * params
    assert adapted.bytes / base.bytes - 1 == pytest.approx(share, abs=5e-5)


def test_an_adapter_is_read_once_however_many_rows_use_it():
    lora = Lora(32, ALL_SEVEN)
    one = decode(GRANITE_8B, [1024] * 64, lora, ["a"] * 64)
    eight = decode(GRANITE_8B, [1024] * 64, lora, [index % 8 for index in range(64)])
    some = decode(GRANITE_8B, [1024] * 64, lora, ["a"] * 3 + [None] * 61)
    assert (eight.lora, some.lora) == (8 * one.lora, one.lora)
    assert eight.flops == one.flops
    assert one.flops - some.flops == 61 * 2 * 40 * 2_473_984


def test_a_decode_step_by_hand():
    one = decode(GRANITE_8B, [1024])
    assert (one.weights, one.head) == (15_938_355_200, 402_677_760)
    assert (one.kv_read, one.kv_written, one.lora) == (1024 * 163_840, 163_840, 0)
    # a multiply-add for each weight; 4096 for each of 1,024 scores, and as many for the weighted sum, in 40 layers
    assert one.flops == 2 * (40 * 199_229_440 + 201_338_880 + 2 * 40 * 4096 * 1024)
    assert one.bytes == 15_938_355_200 + 402_677_760 + 1025 * 163_840
    assert one.seconds(MACHINE) == one.bytes / 4e12 == pytest.approx(4.127e-3, rel=1e-3)
    many = decode(GRANITE_8B, [1024] * 64)
    assert many.bytes == one.weights + one.head + 64 * 1025 * 163_840


def test_a_prefill_is_bound_by_its_products():
    long = prefill(GRANITE_8B, 2048)
    pairs = 2048 * 2049 // 2
    assert long.flops == 2 * (2048 * 40 * 199_229_440 + 201_338_880 + 2 * 40 * 4096 * pairs)
    assert long.seconds(MACHINE) == long.flops / 8e14 > long.bytes / 4e12
    assert prefill(GRANITE_8B, 10, cached=100).kv_read == 110 * 163_840
    adapted = prefill(GRANITE_8B, 2048, lora=Lora(), adapted=3)
    assert adapted.flops - long.flops == 3 * 2 * 40 * 589_824


def test_a_check_reads_its_context_and_not_the_products_of_it():
    first, *rest = check(GRANITE_8B, 32_768, 23, 8, Lora(), adapted=3)
    assert (first.kv_read, first.kv_written) == (32_791 * 163_840, 23 * 163_840)
    assert [each.kv_read for each in rest] == [(32_791 + turn) * 163_840 for turn in range(1, 8)]
    assert all(each.lora == 2 * 40 * 589_824 for each in [first, *rest])
    assert seconds([first, *rest], MACHINE) == pytest.approx(8 * (16_388e6 + 32_795 * 163_840) / 4e12, rel=1e-3)
    again = check(GRANITE_8B, 0, 32_791, 8, Lora())[0]
    assert again.seconds(MACHINE) > 100 * first.seconds(MACHINE)


def test_checks_of_one_context_read_it_once():
    first, second = check(GRANITE_8B, 2048, 23, 2, Lora(), adapted=3, num=8)
    assert first.kv_read == (2048 + 8 * 23) * 163_840
    assert second.kv_read == (2048 + 8 * 24) * 163_840
    assert first.lora == second.lora == 8 * 2 * 40 * 589_824


def test_a_batch_reads_all_prompts_and_then_decodes():
    first, *rest = generate(GRANITE_8B, 4, 10, 3, Lora(), ["a", "b", "a", "b"], adapted=2)
    assert (first.kv_written, first.lora) == (40 * 163_840, 2 * 2 * 40 * 589_824)
    assert [each.kv_read for each in rest] == [4 * 11 * 163_840, 4 * 12 * 163_840]
    assert generate(GRANITE_8B, 4, 10, 1)[0].lora == 0


def test_rows_without_logits_read_no_output_layer():
    assert step(GRANITE_8B, [Rows(100, logits=0)]).head == 0


def test_a_machine_is_measured():
    machine = Machine(measure_bandwidth(torch.device("cpu"), 1 << 20), 1e9)
    assert 1e7 < machine.bandwidth < 1e14
    assert 1e7 < measure_matrix_rate(torch.device("cpu"), torch.float32, 64) < 1e16
    assert str(Machine(4.25e12, 7.5e14)) == "4,250 GB/s, 750,000 GFLOP/s"

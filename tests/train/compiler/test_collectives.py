"""Device groups in every HLO notation, mapped to mesh axes, networks and links; times against closed forms."""

import io

import numpy as np
import pytest

from castor.tasks.errors import ConfigurationError
from castor.train.compiler.chips import CHIPS, Topology
from castor.train.compiler.collectives import Fabric, describe, replica_groups
from castor.train.compiler.hlo import parse

AXES = ("data", "fsdp", "sequence", "tensor")


def fabric(name: str, sizes: tuple[int, ...], num_slices: int = 1) -> Fabric:
    """A mesh over the torus in its natural order, slices outermost."""
    topology = Topology.of(name, num_slices)
    within = np.arange(topology.size) % topology.slice_size
    return Fabric(
        topology,
        AXES,
        sizes,
        np.stack(np.unravel_index(within, topology.shape), -1),
        np.arange(topology.size) // topology.slice_size,
    )


def collective(line: str, operand: str, where: Fabric, partitions: int):
    text = f"HloModule m, num_partitions={partitions}\nENTRY %main () -> f32[1] {{\n  %a = {operand} parameter(0)\n  ROOT %c = {line}\n}}\n"
    program = parse(io.StringIO(text))
    main = program.computations["main"]
    return describe(program, main, main.root, where)


@pytest.mark.parametrize(
    ("notation", "first", "number"),
    [
        ("{{0,2},{1,3}}", [0, 2], 2),
        ("[2,4]<=[8]", [0, 1, 2, 3], 2),
        ("[4,2]<=[2,4]T(1,0)", [0, 4], 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", [0, 2, 4, 6], 2),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0','axis_2'}", list(range(8)), 1),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", [0, 2, 4, 6], 2),
        ("mesh['a'=8] {'a':(2)4}", [0, 1, 2, 3], 2),
        ("mesh['a'=8] {'a':(1)2}", [0, 4], 4),
        ("{}", list(range(8)), 1),
    ],
)
def test_notations_of_groups(notation, first, number):
    groups = replica_groups(
        f", channel_id=3, replica_groups={notation}, dimensions={{1}}, use_global_device_ids=true", 8
    )
    assert groups[0].tolist() == first and len(groups) == number
    assert sorted(groups.ravel().tolist()) == sorted(range(groups.size))


def test_an_all_gather_along_fsdp_inside_a_slice():
    where = fabric("v5e:16x16", (1, 16, 1, 16))
    line = "bf16[16,512]{1,0} all-gather(%a), channel_id=1, replica_groups=[16,16]<=[16,16]T(1,0), dimensions={0}"
    found = collective(line, "bf16[1,512]{1,0}", where, 256)
    assert (found.kind, found.axes, found.network, found.group) == ("all-gather", ("fsdp",), "ICI", 16)
    assert found.payload == 16 * 1024 and found.wire == 15 * 1024
    # A closed ring of sixteen: two links per chip.
    assert found.seconds == pytest.approx(15 * 1024 / (2 * 50e9))


def test_an_all_reduce_over_two_slices_crosses_the_data_centre_network():
    where = fabric("v5p:4x4x4", (2, 64, 1, 1), num_slices=2)
    found = collective(
        "f32[1024]{0} all-reduce(%a), channel_id=2, replica_groups=[64,2]<=[2,64]T(1,0), to_apply=%add",
        "f32[1024]{0}",
        where,
        128,
    )
    assert (found.axes, found.network, found.group) == (("data",), "DCN", 2)
    assert found.seconds == pytest.approx(4096 / CHIPS["v5p"].dcn)
    both = collective(
        "f32[1024]{0} all-reduce(%a), channel_id=2, replica_groups={}, to_apply=%add", "f32[1024]{0}", where, 128
    )
    assert both.axes == ("data", "fsdp") and both.network == "ICI+DCN"
    # Inside the slice the sum is scattered, so only each chip's share crosses slices.
    assert both.seconds == pytest.approx(2 * 4096 * 63 / 64 / (6 * 100e9) + 4096 / 64 / CHIPS["v5p"].dcn)


def test_a_permute_takes_one_link_and_its_own_lane():
    where = fabric("v5e:4x4", (1, 8, 1, 2))
    line = "f32[256]{0} collective-permute(%a), channel_id=3, source_target_pairs={{0,2},{2,4},{4,6},{6,0}}"
    found = collective(line, "f32[256]{0}", where, 16)
    assert (found.axes, found.wire, found.seconds) == (("fsdp",), 1024, 1024 / 50e9)
    other = collective(line.replace("{0,2},{2,4},{4,6},{6,0}", "{0,6},{2,0},{4,2},{6,4}"), "f32[256]{0}", where, 16)
    assert other.lane != found.lane


@pytest.mark.parametrize(
    ("sizes", "members", "links"),
    [
        ((1, 64, 1, 8), np.arange(0, 512, 8), 4.0),  # two closed sides of a v5p cube
        ((1, 64, 1, 8), np.arange(8), 2.0),  # one
        ((1, 64, 1, 8), np.arange(4), 1.0),  # half of one: a line
        (
            (1, 64, 1, 8),
            np.arange(0, 8, 4),
            1.0,
        ),  # two chips four apart share the links between them, yet one is the least
        ((1, 512, 1, 1), np.arange(512), 6.0),
    ],
)
def test_links(sizes, members, links):
    assert fabric("v5p:8x8x8", sizes).links(members) == links


def test_a_v5e_slice_shorter_than_a_row_is_open():
    assert fabric("v5e:4x4", (1, 16, 1, 1)).links(np.arange(16)) == 2.0
    assert fabric("v5e:16x16", (1, 256, 1, 1)).links(np.arange(256)) == 4.0


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e:2x2x2", "v5p:4x4", "v5e:0x4", "v5e:ax4"])
def test_what_is_no_topology_is_refused(name):
    with pytest.raises(ConfigurationError, match="topology"):
        Topology.of(name)


def test_clocks_are_those_of_the_chips():
    assert {name: round(chip.clock / 1e6) for name, chip in CHIPS.items()} == {
        "v4": 1049,
        "v5e": 1503,
        "v5p": 1751,
        "v6e": 1751,
    }

"""Volume files: round trips, refusal of other files, equal bytes for equal volumes, and order by number."""

import mrcfile
import pytest
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc, read_volumes, write_mrc, write_volumes

BOX = 32


def test_mrc_files_round_trip_with_their_origin(tmp_path, blobs):
    volume = blobs.volume(BOX)
    write_mrc(tmp_path / "new" / "v.mrc", volume, 3.5)
    read, voxel_A = read_mrc(tmp_path / "new" / "v.mrc")
    assert torch.equal(read, volume) and voxel_A == pytest.approx(3.5)
    with mrcfile.open(tmp_path / "new" / "v.mrc") as mrc:
        assert float(mrc.header.origin.x) == pytest.approx(-16 * 3.5)


def test_a_file_that_is_not_mrc_is_named(tmp_path):
    (tmp_path / "bad.mrc").write_bytes(b"no map")
    for name in ("bad.mrc", "absent.mrc"):
        with pytest.raises(HetacumnError, match=name):
            read_mrc(tmp_path / name)


def test_equal_volumes_give_equal_files_without_a_date(tmp_path):
    for name in ("one", "other"):
        write_mrc(tmp_path / f"{name}.mrc", torch.ones(8, 8, 8), 2.0)
    content = (tmp_path / "one.mrc").read_bytes()
    assert content == (tmp_path / "other.mrc").read_bytes()
    assert b"20" not in content[224:1024] and b"hetacumn" in content[224:304]


def test_writing_fewer_volumes_removes_the_earlier_ones(tmp_path):
    for count in (3, 2):
        write_volumes(tmp_path / "new", torch.ones(count, 4, 4, 4), "class_", 2.5)
        write_volumes(tmp_path / "new", count * torch.ones(1, 4, 4, 4), "class_half", 2.5)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["class_1.mrc", "class_2.mrc", "class_half1.mrc"]
    assert read_volumes(tmp_path / "new", "class_half")[0].unique().tolist() == [2.0]


def test_ten_or_more_volumes_sort_by_name_in_the_order_of_their_numbers(tmp_path):
    volumes = torch.arange(11.0)[:, None, None, None].expand(11, 4, 4, 4)
    for count in (9, 11):
        write_volumes(tmp_path, volumes[:count], "path_", 2.5)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert [float(read_mrc(tmp_path / name)[0][0, 0, 0]) for name in names] == list(range(count))
        assert read_volumes(tmp_path, "path_")[0].equal(volumes[:count])
    assert names[0] == "path_01.mrc" and names[-1] == "path_11.mrc"
    (tmp_path / "path_03.mrc").unlink()
    with pytest.raises(HetacumnError, match="path_1.mrc: 10 volumes; expected volumes numbered from 1 without gaps"):
        read_volumes(tmp_path, "path_")


def test_volumes_of_earlier_versions_are_read_in_the_order_of_their_numbers(tmp_path):
    for k in range(1, 12):
        write_mrc(tmp_path / f"class_{k}.mrc", torch.full((4, 4, 4), float(k)), 2.5)
    volumes, voxel_A = read_volumes(tmp_path, "class_")
    assert volumes[:, 0, 0, 0].tolist() == list(range(1, 12)) and voxel_A == pytest.approx(2.5)
    with pytest.raises(HetacumnError, match="truth_class1.mrc"):
        read_volumes(tmp_path, "truth_class")

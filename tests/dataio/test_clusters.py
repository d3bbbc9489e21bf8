"""The cluster file: written, read, and refused where it is wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hamsb.dataio.clusters import Clusters, make_clusters, read_clusters, write_clusters


def test_a_cluster_file_is_read_as_it_was_written(tmp_path):
    centers = torch.tensor([[0.0], [10.0], [4.0]])
    names, labels = ["id3", "id,1", "id2", "id4"], torch.tensor([2, 0, 0, 1])
    clusters = make_clusters(names, labels, torch.cdist(centers, centers))
    assert clusters.nearest == {0: (2, 1), 1: (2, 0), 2: (0, 1)}
    path = tmp_path / "deep" / "clusters.csv"
    write_clusters(clusters, path)
    assert path.read_text() == (
        "## nearest to 0: 2 1\n## nearest to 1: 2 0\n## nearest to 2: 0 1\n"
        'speaker,cluster\n"id,1",0\nid2,0\nid3,2\nid4,1\n'
    )
    again = read_clusters(path)
    assert again.of_speaker == clusters.of_speaker == dict(zip(names, labels.tolist()))
    assert again.nearest == clusters.nearest and again.path == path
    write_clusters(make_clusters(names, labels), path)
    assert read_clusters(path).nearest is None
    # A single cluster has no other.
    write_clusters(make_clusters(["a", "b"], [0, 0], [[0.0]]), path)
    assert read_clusters(path).nearest == {0: ()}


def test_a_cluster_is_nearest_to_itself_even_among_coincident_centers():
    clusters = make_clusters(["a", "b", "c"], [0, 1, 2], np.zeros((3, 3)))
    assert clusters.nearest == {0: (1, 2), 1: (0, 2), 2: (0, 1)}


def test_a_cluster_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "clusters.csv"
    write_clusters(make_clusters(["a"], [0]), path)
    before = path.read_text()
    broken = SimpleNamespace(nearest={0: (1,), 1: (0,)}, of_speaker={"a": 0, 1: 2})
    with pytest.raises(TypeError):  # fails between the first and the last line
        write_clusters(broken, path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clusters.csv"]


HEADER = "speaker,cluster\n"


def test_a_wrong_cluster_file_is_refused_with_its_line(tmp_path):
    for text, message in [
        ("", "no speakers"),
        (HEADER, "no speakers"),
        ("id1,0\n", ":1: expected the header 'speaker,cluster', found 'id1,0'"),
        ("# comment\n" + HEADER, ":1: expected the header"),
        ("## nearest to x: 1\n" + HEADER, ":1: expected the header"),
        (HEADER + "id1,0\n\nid2,1\n", ":3: expected a speaker .* found ''"),
        (HEADER + "id1,0\nid2\n", ":3: expected a speaker"),
        (HEADER + "id1,0\nid2,1,4\n", ":3: expected a speaker"),
        (HEADER + ",0\n", ":2: expected a speaker"),
        (HEADER + "id1,-1\n", ":2: expected a speaker"),
        (HEADER + "id1,1.5\n", ":2: expected a speaker"),
        (HEADER + "id1,0\nid2,1\nid1,1\n", ":4: speaker id1 for the second time"),
        (HEADER + "## nearest to 0: 1\nid1,0\n", ":2: expected a speaker"),
        ("## nearest to 0: 1\n## nearest to 0: 1\n" + HEADER, ":2: a second line for"),
        ("## nearest to 0: 1\n" + HEADER + "a,0\nb,1\n", "no line '## nearest to 1:'"),
        (
            "## nearest to 0: 1\n## nearest to 1: 1\n" + HEADER + "a,0\nb,1\n",
            ":2: must name",
        ),
        ("## nearest to 0: 1 2\n## nearest to 1: 0\n" + HEADER + "a,0\nb,1\n", ":1: must"),
        ("## nearest to 7:\n" + HEADER + "a,0\n", ":1: must name"),
    ]:
        path = tmp_path / "clusters.csv"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"clusters.csv.*{message}"):
            read_clusters(path)


def test_a_cluster_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "clusters.csv"
    with pytest.raises(FileNotFoundError, match="clusters.csv: no such .*cluster.py"):
        read_clusters(path)
    for content in (b"speaker,cluster\n\xff\xfe,0\n", b"x" * 200_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="clusters.csv: not a csv file in UTF-8"):
            read_clusters(path)


def test_missing_speakers_are_named(tmp_path):
    path = tmp_path / "clusters.csv"
    write_clusters(make_clusters(["id1", "id2"], [4, 1]), path)
    clusters = read_clusters(path)
    assert clusters.labels(["id2", "id1", "id2"]).tolist() == [1, 4, 1]
    with pytest.raises(ValueError, match="clusters.csv: no cluster for id3, id4: 2 "):
        clusters.labels(["id1", "id4", "id3", "id4"])
    with pytest.raises(ValueError, match="^the clusters: .* 0, 1, 2, 3, 4, [.]{3}: 8 "):
        Clusters({}, None, None).labels(list("76543210"))


def test_make_clusters_wants_a_label_for_each_speaker():
    with pytest.raises(ValueError, match="2 speakers, 1 of them different"):
        make_clusters(["a", "a"], [0, 1])
    with pytest.raises(ValueError, match="and 1 labels"):
        make_clusters(["a", "b"], [0])
    with pytest.raises(ValueError, match="3 centers, but labels of 2"):
        make_clusters(["a", "b"], [0, 1], np.zeros((3, 3)))

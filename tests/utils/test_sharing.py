"""Work that processes share: all of it, once each, and no process waits in vain."""

import pytest
import torch

from hamsb.utils.sharing import gathered, own_part, share
from runs import in_processes


def test_one_process_does_all():
    assert share() == share(False) == (0, 1)
    assert own_part(5) == [0, 1, 2, 3, 4] and own_part(0) == []
    assert gathered(lambda: 7) == [7]
    for kind in (KeyError, FileNotFoundError):
        error = kind("a.wav")

        def fail(error=error):
            raise error

        with pytest.raises(kind) as raised:
            gathered(fail)
        assert raised.value is error


def test_parts_are_everything_once_and_even(tmp_path):
    def parts(rank):
        assert own_part(8, shared=False) == [*range(8)] and share(False) == (0, 1)
        assert gathered(lambda: rank, shared=False) == [rank]
        return share(), [own_part(count) for count in (0, 1, 3, 8, 60)]

    found = in_processes(parts, 3, tmp_path)
    assert [shared for shared, _ in found] == [(0, 3), (1, 3), (2, 3)]
    for count, parts in zip((0, 1, 3, 8, 60), zip(*(own for _, own in found))):
        assert sorted(sum(parts, [])) == list(range(count))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(part == sorted(part) for part in parts)
    for part in parts:  # no process has all that is at even or at odd places
        assert 4 <= sum(i % 2 for i in part) <= 16


def test_all_have_what_each_found_and_all_raise(tmp_path):
    def work(rank):
        found = gathered(lambda: torch.full((rank,), float(rank)))
        errors = []
        for kind in (ValueError, UnicodeError, FileNotFoundError, KeyError):

            def fail(kind=kind):
                if rank == 1:
                    raise (
                        kind("a.wav: broken")
                        if kind is not UnicodeError
                        else (UnicodeDecodeError("utf-8", b"x", 0, 1, "broken"))
                    )
                return rank

            try:
                gathered(fail)
            except Exception as error:
                errors.append((type(error).__name__, str(error)))
        return found, errors

    parts = in_processes(work, 3, tmp_path)
    for found, _ in parts:
        assert [part.tolist() for part in found] == [[], [1.0], [2.0, 2.0]]
    decoding = "'utf-8' codec can't decode byte 0x78 in position 0: broken"
    told = [("ValueError", "a.wav: broken"), ("ValueError", decoding)]
    told.append(("FileNotFoundError", "a.wav: broken"))
    for rank in (0, 2):
        assert parts[rank][1] == [*told, ("RuntimeError", "process 1: 'a.wav: broken'")]
    own = [
        told[0],
        ("UnicodeDecodeError", decoding),
        told[2],
        ("KeyError", "'a.wav: broken'"),
    ]
    assert parts[1][1] == own

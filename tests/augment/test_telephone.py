"""The telephone line, against the tables of G.711 and against filters of scipy."""

import numpy as np
import pytest
import torch
from scipy import signal
from speechbrain.augment.augmenter import Augmenter

from cases import looped
from hamsb import Telephone
from hamsb.augment.telephone import a_law, mu_law

RATE = 16000
# The ends of the positive segments, tables 1a and 2a of G.711, and their steps.
SEGMENTS = {
    "mu": [(1, 1), (31, 2), (95, 4), (223, 8), (479, 16), (991, 32), (2015, 64),
           (4063, 128), (8159, 256)],
    "a": [(64, 2), (128, 4), (256, 8), (512, 16), (1024, 32), (2048, 64), (4096, 128)],
}  # fmt: skip
LAWS = {"mu": (mu_law, 8192), "a": (a_law, 4096)}


def table(law):
    """Decision values of the positive samples, and the level above each of them."""
    decisions = [0]
    for end, step in SEGMENTS[law]:
        decisions += range(decisions[-1] + step, end + 1, step)
    decisions = np.array(decisions)
    levels = (decisions[1:] + decisions[:-1]) / 2
    if law == "mu":
        levels[0] = 0  # half of an interval: the other half is that of the negative zero
    assert len(levels) == 128
    return decisions, levels


def by_table(samples, law):
    decisions, levels = table(law)
    place = np.searchsorted(decisions, np.abs(samples), side="right") - 1
    sign = np.sign(samples) if law == "mu" else np.where(samples < 0, -1, 1)
    return sign * levels[np.minimum(place, 127)]


def noise(rows=2, samples=2 * RATE, seed=0, level=0.1):
    generator = torch.Generator().manual_seed(seed)
    return level * torch.randn(rows, samples, generator=generator)


@pytest.mark.parametrize("law", LAWS)
def test_every_sample_gets_the_level_of_the_table(law):
    function, scale = LAWS[law]
    steps = torch.arange(-2 * scale, 2 * scale + 1, dtype=torch.float64) / 2 + 0.25
    samples = torch.cat([steps, torch.arange(-scale, scale + 1)])  # decision values too
    expected = by_table(samples.numpy(), law)
    for dtype in (torch.float32, torch.float64):
        found = function(samples.to(dtype) / scale) * scale
        assert np.array_equal(found.double().numpy(), expected)
    levels = np.unique(expected)
    assert len(levels) == (255 if law == "mu" else 256)


def test_the_band_of_a_line_passes_and_nothing_else():
    sent = noise(1, 20 * RATE)
    heard = Telephone()(sent, torch.ones(1))
    hertz, before = signal.welch(sent[0].numpy(), RATE, nperseg=2048)
    _, after = signal.welch(heard[0].numpy(), RATE, nperseg=2048)
    loss = 10 * np.log10(after / before)
    within = (hertz >= 320) & (hertz <= 3380)
    assert np.abs(loss[within]).max() < 0.2
    below, above = (hertz > 20) & (hertz < 90), hertz > 3620
    assert loss[below | above].max() < -30  # the law's noise
    assert loss[hertz > 4060].max() < -80


def test_it_is_what_filters_and_a_table_give():
    """Another way to build a line: FIR filters, and the table of levels."""
    sent = noise(1, 4 * RATE)
    taps = signal.firwin(801, [200, 3500], fs=RATE, pass_zero=False)
    line = signal.convolve(sent[0].double().numpy(), taps, "same")[::2]
    line = by_table(line * 8192, "mu") / 8192
    expected = signal.resample_poly(line, 2, 1, window=("kaiser", 12.0))
    heard = Telephone()(sent, torch.ones(1))[0].double().numpy()
    assert np.corrcoef(heard, expected)[0, 1] > 0.99  # edges differ; so does their place
    delays = np.arange(-4, 5)
    alike = [np.dot(np.roll(heard, delay), expected) for delay in delays]
    assert delays[np.argmax(alike)] == 0
    assert np.std(heard) == pytest.approx(np.std(expected), rel=0.02)


@looped(rate=[8000, 16000, 22050, 48000], samples=[1, 799, 16001])
def test_length_is_kept_and_padding_is_silent(rate, samples):
    sent = noise(3, samples)
    lengths = torch.tensor([1.0, 0.5, 1.0])
    sent[1, round(samples / 2) :] = 0
    heard = Telephone(rate)(sent, lengths)
    assert heard.shape == sent.shape and heard.dtype == sent.dtype
    assert heard.isfinite().all() and not heard[1, round(samples / 2) :].any()
    assert samples == 1 or heard[:, :400].any(1).all()


def test_the_end_of_an_utterance_does_not_reach_its_start():
    sent = torch.zeros(1, 2 * RATE)
    sent[0, -400:] = noise(1, 400, level=0.3)
    heard = Telephone()(sent, torch.ones(1))
    assert heard[0, -400:].abs().max() > 0.1
    assert heard[0, :RATE].abs().max() < 1e-5


def test_an_utterance_does_not_depend_on_its_batch():
    sent, line = noise(3), Telephone()
    together = line(sent, torch.ones(3))
    alone = torch.cat([line(row.unsqueeze(0), torch.ones(1)) for row in sent])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)  # a level at most


def test_draws_are_the_callers_and_as_many_as_utterances():
    sent, lengths = noise(150, 400), torch.ones(150)
    after = []
    for probability in (0.0, 0.3, 1.0):
        torch.manual_seed(5)
        line = Telephone(probability=probability)
        first, state = line(sent, lengths), torch.get_rng_state()
        changed = (first != sent).any(1)
        assert changed.float().mean() == pytest.approx(probability, abs=0.1)
        assert torch.equal(first[~changed], sent[~changed])
        assert not torch.equal(line(sent, lengths), first) or probability in (0, 1)
        torch.manual_seed(5)
        assert torch.equal(line(sent, lengths), first)
        after.append(state)
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])


def test_it_is_one_of_an_augmenters_augmentations():
    augment = Augmenter(
        min_augmentations=1, max_augmentations=1, augmentations=[Telephone(law="a")]
    )
    sent = noise(2).requires_grad_()
    heard, lengths = augment(sent, torch.tensor([1.0, 0.25]))
    assert lengths.tolist() == [1.0, 0.25] and not heard[1, RATE // 2 :].any()
    targets = torch.tensor([[3], [4]])
    assert torch.equal(augment.replicate_labels(targets), targets)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sample_rate": 6000}, "sample_rate=6000: a telephone has 8000 Hz"),
        ({"probability": 1.5}, "probability=1.5: must be between 0 and 1"),
        ({"law": "gsm"}, "law='gsm': must be one of mu, a"),
        ({"band": [300, 4000]}, "the highest below 4000"),
        ({"band": [3400, 300]}, r"band=\[3400, 300\]: must be \[lowest, highest\]"),
    ],
)
def test_a_line_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Telephone(**options)

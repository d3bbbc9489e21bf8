"""A training whose head is shared out over one, two and three processes."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.checkpoints import average_checkpoints
from torch import nn

import hamsb
from hamsb.training import shards
from hamsb.training.checkpoints import Checkpointer
from hamsb.training.processes import wrap
from hamsb.training.report import millions
from hamsb.training.schedules import LinearMargin
from hamsb.training.step import optimizers_step, share_nonfinite, split_groups
from hamsb.utils.sharing import share
from runs import in_processes

B, C, D, STEPS, SAVED = 6, 50, 5, 10, 5
pytestmark = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)


def in_ball(sharded, **options):
    ball = hamsb.PoincareBall(1.0, learnable=True, gain=1.0)
    return hamsb.HyperbolicClassifier(D, C, ball, 0.1, sharded=sharded, **options)


CASES = {
    "ham": (in_ball, hamsb.HAMSoftmax(0.2, 5.0)),
    "ham of 3": (
        lambda sharded: in_ball(sharded, sub_centers=3),
        hamsb.HAMSoftmax(0.2, 5.0),
    ),
    "ram": (
        lambda sharded: hamsb.CosineClassifier(D, C, 0.1, sharded=sharded),
        hamsb.RAMSoftmax(0.2, 10.0),
    ),
}


class Training:
    """An encoder, a head, Adam with clipping, a margin that rises, and checkpoints."""

    def __init__(self, case, folder, sharded=True):
        torch.manual_seed(0)
        make, self.cost = CASES[case]
        encoder, head = nn.Linear(4, D).double(), make(sharded).double()
        self.modules = nn.ModuleDict({"encoder": encoder, "classifier": head})
        self.parted = shards.parted_parameters(self.modules)
        self.schedule = LinearMargin(0.2, 8)
        kept = dict(self.modules.items(), schedule=self.schedule)
        self.checkpointer = Checkpointer(folder, kept)
        if share()[1] > 1:
            for name, module in self.modules.items():
                self.modules[name] = wrap(module, sync=False)
        head = {id(p) for p in head.parameters()}
        groups = split_groups(self.modules.parameters(), head, weight_decay=0.1)
        self.optimizer = torch.optim.Adam(groups, lr=0.1)
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        shards.keep_shards(self.checkpointer)
        self.scaler = torch.amp.GradScaler(enabled=False)
        self.skip_nonfinite_grads, self.max_grad_norm, self.optimizer_step = False, 0.1, 0

    def train(self, first, end):
        """Some steps; their losses."""
        rank, processes = share()
        losses = []
        for step in range(first, end):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(B, 4, generator=generator, dtype=torch.float64)
            targets = torch.randint(C, (B, 1), generator=generator)
            x, targets = (each.chunk(processes)[rank] for each in (x, targets))
            self.schedule.apply(self.cost)
            predictions = self.modules.classifier(self.modules.encoder(x))
            loss = self.cost(predictions, targets)
            loss.backward()
            optimizers_step(self, [self.optimizer])
            self.schedule.step(self.cost)
            losses.append(loss.item())
        return losses

    def state(self, folder):
        """Of all processes, in the first."""
        state = shards.whole_state(self.modules.classifier, folder)
        return {name: value.clone() for name, value in state.items()}


def path(folder, case, processes):
    return folder / f"{case}{processes}"


def run(case, folder):
    """A training that saves within it and at its end, and what came of it."""
    training = Training(case, folder)
    losses = training.train(0, SAVED)
    training.checkpointer.save_checkpoint({"epoch": 1})
    losses += training.train(SAVED, STEPS)
    training.checkpointer.save_checkpoint({"epoch": 2})
    head = training.modules.classifier
    found = sorted(training.checkpointer.list_checkpoints(), key=lambda c: c.meta["epoch"])
    state = training.state(folder)
    mean = average_checkpoints(
        found, "classifier", lambda p, **_: shards.read_module(head, p)
    )
    head.load_state_dict(mean)
    return losses, state, training.state(folder), millions(head)


def go_on(case, folder):
    """The rest of a training from its first checkpoint."""
    training = Training(case, folder)
    training.checkpointer.recover_if_possible(min_key="epoch")
    return training.train(SAVED, STEPS), training.state(folder)


def broken(rank, folder):
    """Whether a step is left out in all processes where one has no finite gradient."""
    training = Training("ram", folder)
    training.scaler = torch.amp.GradScaler("cpu")
    before = [p.detach().clone() for p in training.modules.parameters()]
    for parameter in training.modules.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.scaler.scale(torch.ones(()))
    if rank == 0:
        training.modules.classifier.weight.grad[3, 2] = float("inf")
    optimizers_step(training, [training.optimizer])
    return all(map(torch.equal, before, training.modules.parameters()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What one, two and three processes have from whole trainings, and from the rest of
    each other's."""
    folder = tmp_path_factory.mktemp("shards")
    found = {}

    def work(processes):
        def in_one(rank):
            done = {}
            for case in CASES:
                done[case] = run(case, path(folder, case, processes))
                for other in range(1, processes):
                    done[case, other] = go_on(case, path(folder, case, other))
            if processes > 1:
                done["broken"] = broken(rank, folder / f"broken{processes}")
            return done

        return in_one

    for processes in (1, 2, 3):
        if processes == 1:
            found[1] = [work(1)(0)]
        else:
            found[processes] = in_processes(work(processes), processes, folder)
    for processes in (2, 3):
        for case in CASES:
            found[1][0][case, processes] = go_on(case, path(folder, case, processes))
    return folder, found


def unsharded(case, folder):
    training = Training(case, folder, sharded=False)
    return training.train(0, STEPS), training.state(folder)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_are_those_of_one_process(trained, case, tmp_path):
    _, found = trained
    expected, state = unsharded(case, tmp_path)
    assert len(set(expected)) == STEPS
    for done in found.values():
        for losses, *_ in (each[case] for each in done):
            same(torch.tensor(losses), torch.tensor(expected))
        same(done[0][case][1], state)


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_processes_goes_on(trained, case):
    _, found = trained
    whole, state, *_ = found[1][0][case]
    went_on = 0
    for done in found.values():
        for other in (1, 2, 3):
            for each in done:
                if (case, other) in each:
                    same(torch.tensor(each[case, other][0]), torch.tensor(whole[SAVED:]))
                    went_on += 1
            if (case, other) in done[0]:
                same(done[0][case, other][1], state)
    assert went_on == 2 + 2 + 3 * 2


@pytest.mark.parametrize("case", CASES)
def test_means_of_checkpoints_and_sizes_are_of_all(trained, case):
    _, found = trained
    (_, _, mean, size), *others = (done[0][case] for done in found.values())
    for _, _, ours, number in others:
        same(ours, mean)
        assert number == size


def test_a_gradient_that_is_not_finite_stops_all(trained):
    _, found = trained
    assert all(each["broken"] for done in (found[2], found[3]) for each in done)


def test_the_size_of_a_head_is_that_of_all_its_parts():
    head = hamsb.CosineClassifier(2, 5, sharded=True)
    head.shard.processes, head.shard.classes = 2, 1_000_000
    assert millions(nn.Sequential(head, nn.Linear(1000, 1000))) == "3.00 M"
    head = hamsb.CosineClassifier(2, 5, sub_centers=3, sharded=True)
    head.shard.processes, head.shard.classes = 2, 1_000_000
    assert millions(head) == "6.00 M"


def test_parts_hold_their_rows_alone(trained):
    folder, _ = trained
    (checkpoint,) = (
        c
        for c in Checkpointer(path(folder, "ham", 3)).list_checkpoints()
        if c.meta["epoch"] == 1
    )
    names = sorted(each.name for each in checkpoint.path.iterdir())
    assert "classifier.2-of-3.rows" in names and "optimizer.3-of-3.rows" in names
    assert "encoder.1-of-3.rows" not in names
    rest = torch.load(checkpoint.paramfiles["classifier"])
    assert [*rest] == ["ball.log_curvature", "ball.log_gain"]
    first, rows = torch.load(checkpoint.path / "classifier.2-of-3.rows")["centers"]
    assert (first, rows.shape) == (16, (17, D))


@pytest.mark.parametrize("name", ["classifier", "optimizer"])
def test_a_part_that_is_missing_is_told(trained, tmp_path, name):
    folder, _ = trained
    copied = shutil.copytree(path(folder, "ham", 2), tmp_path / "copy")
    for part in copied.glob(f"*/{name}.1-of-2.rows"):
        part.unlink()
    training = Training("ham", copied)
    with pytest.raises(ValueError, match=rf"{name}.ckpt: of .*2-of-2.rows. Restore"):
        training.checkpointer.recover_if_possible()


def test_what_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="opt_class=LBFGS: .* every weight by itself"):
        shards.check_optimizer(torch.optim.LBFGS([nn.Parameter(torch.ones(1))]))
    head = in_ball(True)
    shards.check_shards({"head": nn.Sequential(nn.Linear(2, 2), head)})
    head.shard.processes = 2
    shards.check_shards({"head": head, "encoder": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"modules\[head\]: holds a head with sharded"):
        shards.check_shards({"head": nn.Sequential(nn.Linear(2, 2), head)})


def test_many_classes_go_by_way_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MANY", 3)
    for classes in (3, 4):
        room = shards._room(classes, torch.zeros(2, 5), tmp_path)
        room[:] = torch.arange(5)
        assert room.shape == (classes, 5) and room.sum() == 10 * classes
        assert not [*tmp_path.iterdir()]


def test_without_shards_nothing_is_exchanged():
    share_nonfinite([])
    assert shards.parted(SimpleNamespace(named_modules=list)) == {}

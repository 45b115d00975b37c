"""The device of a rank, without a GPU: what torch says of GPUs is replaced."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from common.errors import UserError
from dataloaders.augmentation import draw_augmentation
from dataloaders.colour_augmentation import augment_colours
from engine.distributed import device
from engine.distributed.device import (
    BatchCopier,
    Pace,
    default_device,
    device_of,
    refuse_shared_devices,
    to_device,
)
from engine.distributed.environment import Place


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with `count` GPUs; `chosen` lists those that became the current one."""
    state = SimpleNamespace(count=0, chosen=[], uuid="GPU-0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: state.count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: state.count)
    monkeypatch.setattr(torch.cuda, "set_device", state.chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=state.uuid))
    return state


def test_each_rank_uses_the_gpu_of_its_local_rank(gpus: SimpleNamespace) -> None:
    """FR-29 and X-10: never the number of visible devices."""
    gpus.count = 4
    assert [device_of(Place(local_rank=local)).index for local in (3, 0)] == [3, 0]
    assert gpus.chosen == [3, 0]
    with pytest.raises(UserError, match="local rank 4 has no GPU: 4 visible"):
        device_of(Place(local_rank=4))


def test_a_task_that_sees_only_its_own_gpu_uses_it(gpus: SimpleNamespace) -> None:
    """Slurm's --gpus-per-task: LOCAL_RANK is 3, and device 0 is this task's own."""
    gpus.count = 1
    assert device_of(Place(rank=3, size=4, local_rank=3)) == torch.device("cuda", 0)
    assert gpus.chosen == [0]


def test_other_accelerators_are_not_used(gpus: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Mac: MPS has no float64."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert device_of(Place()) == default_device() == torch.device("cpu")
    gpus.count = 1
    assert default_device() == torch.device("cuda")


def test_two_ranks_of_one_gpu_are_refused(gpus: SimpleNamespace) -> None:
    """Two processes on a machine with one GPU look like two tasks with one GPU each."""
    cuda = torch.device("cuda", 0)
    places = [Place(rank, 3, local_rank=rank) for rank in range(3)]
    store = dist.HashStore()
    for place, uuid in zip(places[1:], ("GPU-1", "GPU-0"), strict=True):
        gpus.uuid = uuid
        refuse_shared_devices(place, cuda, "node1", store)
    with pytest.raises(UserError, match="ranks 0 and 2 use the same GPU"):
        refuse_shared_devices(places[0], cuda, "node1", store)
    refuse_shared_devices(places[0], cuda, "node0", store)  # the same identity on another machine
    refuse_shared_devices(places[0], torch.device("cpu"), "node1", store)


def test_what_is_read_on_the_cpu_stays_there() -> None:
    """torch's meta device stands for a GPU."""
    batch = {
        name: torch.ones(2, device="cpu") for name in ("frames", "text_ids", "video", "frame_mask", "index")
    }
    batch |= {
        name: torch.ones(2) for name in ("replaced", "text_mlm_labels", "tag_mlm_labels", "tag_mlm_ids")
    }
    copied = to_device(batch, torch.device("meta"))
    stay = [name for name, tensor in copied.items() if tensor.device.type == "cpu"]
    assert stay == ["frame_mask", "index", "replaced", "text_mlm_labels", "tag_mlm_labels"]
    assert list(copied) == list(batch)


def test_on_a_cpu_nothing_is_copied() -> None:
    batch = {"frames": torch.ones(2), "index": torch.arange(2)}
    assert all(BatchCopier(torch.device("cpu"))(batch)[name] is batch[name] for name in batch)


def test_the_cpu_waits_for_the_batch_two_before(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    class Event:
        made = 0

        def record(self) -> None:
            Event.made += 1
            self.number = Event.made

        def synchronize(self) -> None:
            waited.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = Pace(torch.device("cuda"))
    for _ in range(5):
        pace.batch_done()
    assert waited == [1, 2, 3]
    Pace(torch.device("cpu")).batch_done()
    assert Event.made == 5


def test_a_gpu_copies_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs next waits for the copy, and the copy's memory is not used again before that has run."""
    calls: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = name if isinstance(name, str) else "copies"

        def wait_stream(self, other: Stream) -> None:
            calls.append(f"{self.name} waits for {other.name}")

        def __enter__(self) -> None:
            calls.append(f"on {self.name}")

        def __exit__(self, *_: object) -> None:
            calls.append(f"off {self.name}")

    class OnGpu:
        is_cuda = True

        def record_stream(self, stream: Stream) -> None:
            calls.append(f"kept for {stream.name}")

    def copy(batch: object, target: torch.device) -> dict[str, object]:
        calls.append(f"copy to {target}")
        return {"frames": OnGpu(), "index": SimpleNamespace(is_cuda=False)}

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("steps"))
    monkeypatch.setattr(device, "to_device", copy)
    BatchCopier(torch.device("cuda", 0))({})
    order = ("on copies", "copy to cuda:0", "off copies", "steps waits for copies", "kept for steps")
    assert calls == list(order)


def test_colours_are_changed_on_the_way_to_the_device() -> None:
    frames = torch.arange(2 * 3 * 3 * 16 * 16).view(2, 3, 3, 16, 16).to(torch.uint8)
    drawn = torch.from_numpy(draw_augmentation(6, per="frame", rng=np.random.default_rng(0)).colours)
    expected = frames.clone()
    augment_colours(expected, drawn.view(2, 3, -1))
    batch = {"frames": frames.clone(), "colours": drawn.view(2, 3, -1), "index": torch.arange(2)}
    copied = to_device(batch, torch.device("cpu"))
    assert list(copied) == ["frames", "index"]
    assert torch.equal(copied["frames"], expected) and not torch.equal(expected, frames)

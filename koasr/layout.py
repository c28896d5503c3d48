"""Rows of samples laid end to end: where each lies, and where its frames do."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. Of a GPU nobody waits: a copy from pageable memory would."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


@dataclass(frozen=True)
class Rows:
    """Where rows lie in what is laid end to end.

    A row starts on a multiple of the frame stride, so that the frames of all rows have one grid.

    Attributes:
        num_samples: Of each row.
        num_frames: That each row gives, at least one.
        samples_per_frame: The frame stride.
        device: Where they are computed.
    """

    num_samples: tuple[int, ...]
    num_frames: tuple[int, ...]
    samples_per_frame: int
    device: torch.device

    @cached_property
    def num_strides(self) -> list[int]:
        """That each row takes up: at least as many as it has frames."""
        return [-(-count // self.samples_per_frame) for count in self.num_samples]

    @cached_property
    def starts(self) -> list[int]:
        """First stride of each row."""
        return list(accumulate(self.num_strides, initial=0))[:-1]

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """First frame and last (exclusive) of each row among the frames of all rows."""
        ends = list(accumulate(self.num_frames))
        return [(end - count, end) for end, count in zip(ends, self.num_frames, strict=True)]

    @cached_property
    def frames(self) -> torch.Tensor:
        """Where the frames of all rows lie on the grid: between two rows some belong to none."""
        spans = zip(self.starts, self.num_frames, strict=True)
        found = torch.cat([torch.arange(start, start + count) for start, count in spans])
        return to_device(found, self.device)

    @cached_property
    def ends(self) -> torch.Tensor:
        """0, and the end of each row among the frames of all rows: int32, as flash kernels want."""
        found = list(accumulate(self.num_frames, initial=0))
        return to_device(torch.tensor(found, dtype=torch.int32), self.device)

    def spread(self, gap: int) -> torch.Tensor:
        """Where the frames of all rows lie when so many are left free before each row."""
        spans = enumerate(self.bounds, 1)
        found = [torch.arange(start + gap * i, end + gap * i) for i, (start, end) in spans]
        return to_device(torch.cat(found), self.device)

"""Data of any size: read a window at a time, shuffled, checked, ahead of the training step."""

from backprop_gpu.data.batches import new_room
from backprop_gpu.data.iterated import IteratedBatches, checked_pair
from backprop_gpu.data.parquet import ParquetColumns
from backprop_gpu.data.rows import file_reader, is_streamed
from backprop_gpu.data.streamed import StreamedBatches

__all__ = [
    "IteratedBatches",
    "ParquetColumns",
    "StreamedBatches",
    "checked_pair",
    "file_reader",
    "is_streamed",
    "new_room",
]

"""Between Arrow columns and NumPy arrays, without a Python object per row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def fixed_lists(array: np.ndarray) -> pa.FixedSizeListArray:
    """View an array (N, width) as an Arrow column of fixed-size lists, without a copy."""
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def column_to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column to NumPy: (N,) for scalars, (N, width) for fixed-size lists."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # an empty column stays chunked
        array = pa.concat_arrays(array.chunks) if array.chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return array.to_numpy(zero_copy_only=False)

"""Which convolutions are the common kind that kernels of our own are written for."""

from typing import Any

from jax import lax

NHWC = ('NHWC', 'HWIO', 'NHWC')


def is_plain(x: Any, w: Any, window_strides: Any, padding: Any, **others: Any) -> bool:
    """Whether it is a convolution of NHWC by HWIO with stride 1 and padding 1, and nothing more."""
    padded = padding == 'SAME' or (not isinstance(padding, str) and [tuple(side) for side in padding] == [(1, 1)] * 2)
    return padded and tuple(window_strides) == (1, 1) and is_nhwc(x, w, **others)


def is_nhwc(
    x: Any,
    w: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    preferred_element_type: Any = None,
    **others: Any,
) -> bool:
    """Whether a convolution is of NHWC by HWIO, of whatever stride and padding, and nothing more."""
    del others  # precision, which is the backend's
    return (
        all(tuple(dilation or (1, 1)) == (1, 1) for dilation in (lhs_dilation, rhs_dilation))
        and feature_group_count == batch_group_count == 1
        and preferred_element_type in (None, x.dtype)
        and x.ndim == w.ndim == 4
        and lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
        == lax.conv_dimension_numbers(x.shape, w.shape, NHWC)
    )

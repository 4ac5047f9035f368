"""Faults in the convolutions that a CPU trains by, in C++ and around it, and in the memory that a process keeps."""

from experiments.mutants.mutant import Mutant

KERNEL, CALL, SIMD = 'kernels/simd/kernel.h', 'kernels/simd/call.cpp', 'kernels/simd/__init__.py'
AS_XLA = 'simd::it_is_a_convolution_and_so_are_both_gradients'

KERNELS = (
    Mutant(
        'windows do not stride in the gradient',
        KERNEL,
        'const float* from = scratch + i * s.stride * s.padded_row();',
        'const float* from = scratch + i * s.padded_row();',
        (AS_XLA,),
    ),
    Mutant(
        'inputs that fill no tile have no gradient',
        KERNEL,
        'at(gradient_tile<1, OUT>, 1);',
        '',
        (AS_XLA,),
    ),
    Mutant(
        'pixels that fill no tile are not computed',
        KERNEL,
        'if (j < s.width) output_row<PIXELS / 2, OUT>(s, j, x, w, finish);',
        '',
        (AS_XLA,),
    ),
    Mutant(
        'columns that fill no band are not computed',
        KERNEL,
        'if (j < s.width) sliding_band<ROWS, PIXELS / 2>(s, i, j, x, w, finish);',
        '',
        (AS_XLA,),
    ),
    Mutant(
        'rows that fill no band are not computed',
        KERNEL,
        'if (i < s.height) sliding_bands<ROWS / 2, PIXELS>(s, i, x, w, finish);',
        '',
        (AS_XLA,),
    ),
    Mutant(
        'the last pixel of a tile lacks what is right of it',
        KERNEL,
        'p < PIXELS + 2;',
        'p < PIXELS + 1;',
        (AS_XLA,),
    ),
    Mutant(
        'what lies left of an image is what was there before',
        KERNEL,
        'std::fill(row, begin, 0.0f);',
        '',
        (AS_XLA,),
    ),
    Mutant(
        'the last group of images alone has a gradient',
        CALL,
        'all[i] += sums[group * size + i];',
        'all[i] = sums[group * size + i];',
        (AS_XLA,),
    ),
    Mutant(
        'each device keeps its part of the gradient',
        SIMD,
        'return lax.psum(here, axes) if axes else here',
        'return here',
        ('simd::a_batch_is_computed_where_it_lies',),
    ),
    Mutant(
        'a compilation cache does not tell convolutions of other padding apart',
        SIMD,
        'repr(static).encode() + Path(__file__).read_bytes()',
        "b''",
        ('simd::a_compilation_cache_tells_apart_what_differs_in_padding_alone',),
    ),
    Mutant(
        'kernels are told of rows that stride otherwise than pixels',
        SIMD,
        'and strides[0] == strides[1]',
        'and strides[0] > 0',
        ('simd::what_they_do_not_know_goes_by_xla',),
    ),
    Mutant(
        "the input's gradient is by a kernel that is not turned",
        'kernels/cpu_convolution.py',
        'jnp.swapaxes(w[::-1, ::-1], 2, 3)',
        'jnp.swapaxes(w, 2, 3)',
        ('cpu_convolution::it_is_a_convolution_and_so_are_both_gradients',),
    ),
    Mutant(
        'a run that goes on takes what convolves fastest now',
        'config/left_open.py',
        'if config.model.convolution is not None or begun is None:',
        'if True:',
        ('simd::a_run_goes_on_with_what_it_began_with',),
    ),
    Mutant(
        'memory is given back',
        'runtime/memory.py',
        '(_M_TRIM_THRESHOLD, -1), ',
        '',
        ('memory::what_is_freed_is_had_again_without_the_kernel',),
    ),
)

"""What a run is called, by a few of its flags; its files go by that name."""

import pathlib
from collections.abc import Sequence

from absl import flags

from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import methods

flags.disclaim_key_flags()  # flags defined here are those of the command that asks for them


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags that a name is made of."""
    flags.DEFINE_string(
        'start',
        None,
        'The static network to start from, as import_weights writes it.',
        required=True,
        flag_values=values,
    )
    flags.DEFINE_enum('variant', 'rank', methods.VARIANTS, 'What gates do; or a control.', flag_values=values)
    flags.DEFINE_float(
        'target_macs', None, 'MACs of the mean image; static networks have their own.', flag_values=values
    )
    flags.DEFINE_integer('seed', 0, 'Of routers, order, noise.', flag_values=values)
    flags.DEFINE_string('tag', '', 'Added to the name of the run.', flag_values=values)
    flags.DEFINE_integer(
        'holdout',
        0,
        'So many last training images are left out and, strongly augmented, are the test.',
        flag_values=values,
    )


def name(values: flags.FlagValues = flags.FLAGS) -> str:
    millions = '' if values.target_macs is None else f'_{values.target_macs / 1e6:.1f}M'
    tag = f'_{values.tag}' if values.tag else ''
    holdout = '_holdout' if values.holdout else ''
    return f'{pathlib.Path(values.start).stem}_{values.variant}{millions}{tag}{holdout}_s{values.seed}'


def of_arguments(arguments: Sequence[str]) -> str:
    """The name of the run of these arguments.

    Raises:
      InputError: a flag that it is made of is missing, or cannot have that value.
    """
    values = flags.FlagValues()
    define(values)
    try:
        values(['run', *arguments], known_only=True)
    except flags.Error as error:
        raise InputError(f'No run has the flags {" ".join(arguments)}: {str(error).rstrip(".")}.') from error
    return name(values)

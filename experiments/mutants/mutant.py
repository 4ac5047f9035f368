"""What a mutant is: the code of this repository with one fault in it."""

import pathlib
from typing import NamedTuple

from codinet_jax.runtime.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[2]


class Mutant(NamedTuple):
    """A fault, and who should notice it.

    Attributes:
      fault: what is wrong, in a few words; no two mutants share it.
      file: below codinet_jax/.
      right: what is written there, exactly once.
      wrong: what stands in its place.
      tests: who should notice, as FILE or FILE::NAME, both without their `test_`; NAME may end in [PARAMETERS].
    """

    fault: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]

    @property
    def path(self) -> pathlib.Path:
        """Of the file, in the repository."""
        return pathlib.Path('codinet_jax', self.file)

    @property
    def selected(self) -> list[str]:
        """The tests as pytest takes them."""
        named = (test.partition('::') for test in self.tests)
        return [f'tests/test_{file}.py' + (f'::test_{name}' if colons else '') for file, colons, name in named]

    def applied(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises:
          InputError: what is right does not stand there exactly once.
        """
        times = text.count(self.right)
        if times != 1:
            raise InputError(
                f'{self.path} holds {self.right!r} {times} times, and {self.fault!r} replaces it once: write the '
                'mutant anew.'
            )
        return text.replace(self.right, self.wrong)

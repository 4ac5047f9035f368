"""What every command shares."""

import subprocess

import helpers


def test_a_terminal_without_greek_is_no_reason_to_stop() -> None:
    program = 'from codinet_jax import doors; doors.open_door(lambda argv: print("γ 0.5 ■□"))'
    said = subprocess.run(
        [helpers.command('main')[0], '-c', program],
        env=helpers.environment(PYTHONIOENCODING='ascii', PYTHONUTF8='0'),
        cwd=helpers.REPOSITORY,
        text=True,
        capture_output=True,
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, '? 0.5 ??\n', '')

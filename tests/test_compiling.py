"""What is read off compiled programs is what was written into them, counted by hand; and the command, on the CPU."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import helpers
from codinet_jax.compiling import hlo, programs, report, summary, targets, thunks
from codinet_jax.compiling.hlo import Collective
from codinet_jax.compiling.thunks import Counts
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training.state import num_params

# XLA's own text, of jaxlib 0.11.2 and libtpu 0.0.42; instructions that say nothing here are cut out.
SAMPLES = Path(__file__).parent / 'samples'


def launches_of(sample: str, turns: dict[int, int]) -> thunks.Launches:
    """`turns` by the thunk's number."""
    sequence, metadata = ((SAMPLES / f'{sample}.{part}.txt').read_text() for part in ('thunks', 'metadata'))
    return thunks.launches(thunks.parse(sequence), turns, thunks.names(metadata))


def test_collectives_and_loops_of_a_tpu_program() -> None:
    """In a scan of five turns a mean in f32 and one in bf16, each of 16; after it one sum and one gather of 16 x 16."""
    found = hlo.structure((SAMPLES / 'v5e_collectives.hlo.txt').read_text())
    assert found.collectives == [
        Collective('all-reduce', {'f32': 16 * 4}, 5),
        Collective('all-reduce', {'bf16': 16 * 2}, 5),
        Collective('all-reduce', {'f32': 16 * 16 * 4}, 1),
        Collective('all-gather', {'f32': 4 * 16 * 16 * 4}, 1),
    ]
    assert [loop.turns for loop in found.loops] == [5, None], 'the second ends when its data say so'
    assert found.conditionals == 1


def test_collectives_of_a_program_compiled_here() -> None:
    mesh = sharding.data_mesh(8)

    @partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec('data'), out_specs=PartitionSpec(), check_vma=False)
    def program(x: jax.Array) -> Any:
        def outer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            def inner(x: jax.Array, _: None) -> tuple[jax.Array, None]:
                return jnp.sin(x - jax.lax.psum(x, 'data')), None

            return jax.lax.scan(inner, x, length=3)[0] * jax.lax.psum(jnp.max(x), 'data'), None

        x = jax.lax.scan(outer, x, length=7)[0]
        return jax.lax.all_gather(x, 'data', tiled=True)

    text = jax.jit(program).lower(jax.ShapeDtypeStruct((16, 5), jnp.float32)).compile().as_text()
    found = hlo.structure(text)
    assert sorted(found.collectives, key=lambda each: (each.kind, each.runs)) == [
        Collective('all-gather', {'f32': 16 * 5 * 4}, 1),
        Collective('all-reduce', {'f32': 4}, 7),
        Collective('all-reduce', {'f32': 2 * 5 * 4}, 21),
    ]
    assert [(loop.turns, loop.entered, loop.within is None) for loop in found.loops] == [(7, 1, True), (3, 7, False)]


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('f32[64,10]{1,0}', {'f32': 2560}),
        ('pred[]', {'pred': 1}),
        ('(bf16[3]{0:T(256)(128)(2,1)S(1)}, /*index=1*/u8[5], bf16[])', {'bf16': 8, 'u8': 5}),
        ('s4[3]{0}', {'s4': 2}),
        ('f8e4m3fn[8]', {'f8e4m3fn': 8}),
        ('f32[0]', {'f32': 0}),
    ],
)
def test_bytes_of_types(text: str, expected: dict[str, int]) -> None:
    assert hlo.shape_bytes(text) == expected


def test_a_started_gather_counts_its_result_and_not_its_operand() -> None:
    text = """
%inner (p: f32[8]) -> f32[32] {
  ROOT %all-gather.1 = f32[32]{0} all-gather(%p), dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[32] {
  %all-gather-start = (f32[8]{0}, f32[32]{0}) all-gather-start(%p), dimensions={0}
  %all-gather-done = f32[32]{0} all-gather-done(%all-gather-start)
  %async-start = ((f32[8]{0}), f32[32]{0}, u32[]) async-start(%p), calls=%inner
  ROOT %async-done = f32[32]{0} async-done(%async-start), calls=%inner
}
"""
    assert hlo.structure(text).collectives == [Collective('all-gather', {'f32': 128}, 1)] * 2


def test_a_gather_that_travels_through_fusions_counts_once() -> None:
    """So libtpu hides one behind other work: started, carried along and ended in fusions, all of one channel."""
    text = """
%start (p: f32[8]) -> f32[32] {
  ROOT %all-gather.1 = f32[32]{0:T(128)} all-gather(%p), channel_id=7, dimensions={0}
}

%carry (p: f32[8], q: f32[32]) -> (f32[32], f32[32]) {
  %all-gather.2 = f32[32]{0:T(128)S(1)} all-gather(%p), channel_id=7, dimensions={0}
  ROOT %tuple = (f32[32]{0}, f32[32]{0}) tuple(%all-gather.2, %q)
}

%other (p: f32[8]) -> f32[32] {
  ROOT %all-gather.3 = f32[32]{0:T(128)} all-gather(%p), channel_id=8, dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[32] {
  %async-collective-start = f32[32]{0} fusion(%p), kind=kCustom, calls=%start
  %fusion.1 = (f32[32]{0}, f32[32]{0}) fusion(%p, %async-collective-start), kind=kCustom, calls=%carry
  ROOT %fusion.2 = f32[32]{0} fusion(%p), kind=kCustom, calls=%other
}
"""
    assert hlo.structure(text).collectives == [Collective('all-gather', {'f32': 128}, 1)] * 2


def test_kernels_in_pallas_count_as_often_as_their_loop_turns() -> None:
    text = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %kernel = (f32[8]{0}, f32[8]{0}) custom-call(%x), custom_call_target="tpu_custom_call", backend_config={}
  %other = f32[8]{0} custom-call(%x), custom_call_target="AllocateBuffer"
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while = (s32[], f32[8]) while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %last = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call"
}
"""
    assert hlo.structure(text).pallas_kernels == 3 + 1


def test_launches_of_loops_and_conditionals() -> None:
    """Counted by hand: four kernels and copies at the start; of the first conditional the branch of two; three of the
    first loop's condition; one; of the switch a branch of three; one; and five turns of seven."""
    found = launches_of('h100_control_flow', {28: 5})
    assert found.fixed == Counts(kernels=4 + 2 + 3 + 1 + 3 + 1 + 5 * 7, host_reads=3)
    assert found.fixed.launches == found.fixed.kernels
    (loop,) = found.open_loops
    # A turn is a copy, a conditional whose longer branch has two kernels, a counter, and the condition's three.
    assert loop == thunks.OpenLoop('while.14', 1, Counts(kernels=1 + 2 + 1 + 3, host_reads=2), None)


def test_launches_in_graphs() -> None:
    """The first stage of a compacted network, a scan of 18 blocks with a loop over tiles in each, counted by hand."""
    found = launches_of('h100_graphs', {11: 18})
    before, a_block = Counts(kernels=10, in_graphs=5, graphs=1), Counts(20, 17, 1, 1)
    assert found.fixed == before.plus(a_block, 18)
    assert found.fixed.launches == 5 + 1 + 18 * (3 + 1)
    (loop,) = found.open_loops
    assert loop == thunks.OpenLoop('while.5', 18, Counts(kernels=10, host_reads=1), None)


def test_what_a_graph_holds_is_not_waited_for() -> None:
    text = """
000: kCommandBuffer [source | sink]
    001: kCustomKernel [source | sink] first
    002: kWhile [source | sink]
condition:
        003: kCustomKernel [source | sink] compare
      body:
        004: kConvolution [source | sink] kConvolution
        007: kConditional [source | sink]
          branch_0:
            No thunks.          branch_1:
            005: kCustomKernel [source | sink] a
            006: kCopy [source | sink] kCopy
"""
    found = thunks.launches(thunks.parse(text), {}, {})
    assert found.fixed == Counts(kernels=2, in_graphs=2, graphs=1)
    assert found.open_loops == [thunks.OpenLoop('loop 2', 1, Counts(kernels=4, in_graphs=4), None)]


def test_a_step_sums_its_gradients_once() -> None:
    """The digits step on eight devices; its gradients are by far the most that it sends."""
    named = helpers.tiny_setup()
    target = targets.parse('cpu')
    found = report.compiled(programs.training_step(named, targets.mesh(target)), target, 0.0)
    assert set(found['collectives']) == {'all-reduce', 'all-gather'}
    numbers = num_params(helpers.shapes(named.model)['params'])
    summed = found['collectives']['all-reduce']
    assert 4 * numbers < sum(summed['bytes'].values()) < 4 * numbers * 1.1
    assert found['memory']['fits'] is None
    assert found['memory']['parts']['arguments'] > 2 * 4 * numbers, 'parameters and their momentum'
    assert 'all-reduce' in summary.readable(found)
    assert json.loads(json.dumps(found)) == found


def test_compacted_inference_has_loops_that_data_end() -> None:
    named = helpers.tiny_setup()
    network, target = (named.model, named.data.spec), targets.parse('cpu')
    lowered = programs.inference(*network, targets.mesh(target), 16, tile=2)
    found = report.compiled(lowered, target, 0.0)
    assert not found['collectives'], 'each device works for itself'
    tiles = [loop['place'] for loop in found['loops'] if loop['turns'] is None]
    assert 'RoutedResNet/stage2_transition/while' in tiles
    masked = report.compiled(programs.inference(*network, targets.mesh(target), 16, 'masked'), target, 0.0)
    assert all(loop['turns'] is not None for loop in masked['loops'])


def test_the_arithmetic_of_pods_sends_what_the_compiled_step_sends() -> None:
    kept = helpers.REPOSITORY / 'experiments' / 'results' / 'compile_v5e_4x4_r50_train.json'
    summed = sum(json.loads(kept.read_text())['collectives']['all-reduce']['bytes'].values())
    command = [sys.executable, '-m', 'experiments.measure.pod_scaling', '--images_per_core=450']
    said = subprocess.run(
        command, cwd=helpers.REPOSITORY, env=helpers.environment(), text=True, capture_output=True, check=True
    )
    sent = re.search(r'gradients: bytes sent by a chip, time \| (\d+) MB', said.stdout)
    assert sent is not None
    assert float(sent.group(1)) == pytest.approx(2 * 15 / 16 * summed / 1e6, rel=0.01), 'in a ring of 16 chips'


@pytest.mark.parametrize(
    ('message', 'needed'),
    [
        ('RESOURCE_EXHAUSTED: Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.', int(20.5 * 2**30)),
        (
            'RESOURCE_EXHAUSTED: the total memory required (400.00G) exceeds available HBM (15.75G).',
            400 * 2**30,
        ),
        ('RESOURCE_EXHAUSTED: no numbers', None),
    ],
)
def test_a_program_that_the_compiler_finds_too_large_does_not_fit(message: str, needed: int | None) -> None:
    class Lowered:
        def compile(self, compiler_options: dict[str, Any]) -> None:
            raise jax.errors.JaxRuntimeError(message)

    found = report.compiled(Lowered(), targets.parse('v5e-2x2'), 1.0)
    assert (found['memory']['fits'], found['memory']['total_bytes']) == (False, needed)
    assert 'does NOT fit' in summary.readable(found)


@pytest.mark.parametrize(('name', 'chips'), [('v5e-4x4', 16), ('v4-2x2x4', 16), ('v6e-1x1', 1), ('h100', 1)])
def test_topologies(name: str, chips: int) -> None:
    assert targets.parse(name).num_chips == chips


@pytest.mark.parametrize('name', ['v5e-2x2x2', 'v4-2x2', 'v9-2x2', 'v5e', 'v5e-0x2', 'h200', 'v5e-2x', ''])
def test_topologies_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match=r'take one like|has \d sizes'):
        targets.parse(name)


@pytest.mark.parametrize(('name', 'package'), [('v5e-2x2', 'jax[tpu]'), ('h100', 'jax[cuda13]')])
def test_a_missing_compiler_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError) as caught:
        targets.mesh(targets.parse(name))
    assert f"pip install '{package}'" in str(caught.value)


@pytest.mark.long
def test_the_command(tmp_path: Path) -> None:
    output = tmp_path / 'found.json'
    flags = (*helpers.tiny_flags(), '--topology=cpu', f'--output={output}')
    said = helpers.run_command('compile', *flags, JAX_NUM_CPU_DEVICES='2')
    assert said.returncode == 0, said.stderr
    found = json.loads(output.read_text())
    assert found['target']['num_chips'] == 2
    assert found['collectives']['all-reduce']['runs'] > 0
    assert found['machine']['versions']['jax'] and found['compilers']['jaxlib']
    assert 'memory a chip' in said.stdout and 'all-reduce' in said.stdout


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        ((), 'Say what to compile for'),
        (('--topology=v7-2x2',), "There is no topology 'v7-2x2'"),
        (('--topology=cpu', '--batch_size=3'), 'training takes --config.batch_size'),
        (('--topology=cpu', '--program=predict', '--stage=2'), '--stage is of --program=train'),
        (('--topology=cpu', '--config.batch_size=3'), 'cannot be divided evenly among 2 devices'),
        (('--topology=cpu', '--program=predict', '--batch_size=3'), 'cannot be divided evenly among 2 devices'),
        (('--topology=cpu', '--program=predict', '--strategy=fast'), "There is no strategy 'fast'"),
        (('--topology=cpu', '--program=predict', '--strategy=masked', '--tile=4'), 'A tile is of compacted'),
        (('--topology=cpu', '--program=predict', '--strategy=fused'), 'Strategy fused is compiled here for TPUs alone'),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_a_sentence(flags: tuple[str, ...], sentence: str) -> None:
    said = helpers.run_command('compile', *helpers.tiny_flags(), *flags, JAX_NUM_CPU_DEVICES='2')
    assert said.returncode == 2
    assert said.stderr.startswith('error: ') and sentence in said.stderr
    assert said.stderr.count('\n') == 1


@pytest.mark.parametrize('name', ['h100', 'v5e-2x2'])
def test_the_digits_step_compiles_for_an_accelerator(name: str, tmp_path: Path) -> None:
    """Where the package is installed that compiles for it."""
    output = tmp_path / 'found.json'
    said = helpers.run_command('compile', *helpers.tiny_flags(), f'--topology={name}', f'--output={output}')
    if 'which is not installed' in said.stderr:
        pytest.skip(said.stderr.strip())
    assert said.returncode == 0, said.stderr
    found = json.loads(output.read_text())
    assert found['memory']['fits']
    if name == 'h100':
        assert found['launches']['fixed']['kernels'] > 100
        assert found['launches']['fixed']['host_reads'] == 0, 'a step decides nothing on the host'
    else:
        assert found['collectives']['all-reduce']['runs'] > 0


def test_the_fused_network_compiles_for_a_tpu(tmp_path: Path) -> None:
    """Where libtpu is installed: each stage's equal blocks are a kernel that Mosaic takes, in full tiles or not."""
    output = tmp_path / 'found.json'
    network = ('--config=cifar10_r20', '--config.model.depth=14', '--config.model.dtype=bfloat16')
    flags = (*network, '--program=predict', '--strategy=fused', '--topology=v5e-1x1', '--batch_size=40')
    said = helpers.run_command('compile', *flags, f'--output={output}')
    if 'which is not installed' in said.stderr:
        pytest.skip(said.stderr.strip())
    assert said.returncode == 0, said.stderr
    found = json.loads(output.read_text())
    assert found['pallas_kernels'] == 3 and found['memory']['fits']
    assert found['loops'] == [], 'no loop of XLA is left'
    assert 'Pallas kernels: launched 3 times' in said.stdout

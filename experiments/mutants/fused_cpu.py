"""Faults in the kernel that computes a whole network on a CPU, in C++ and around it."""

from experiments.mutants.mutant import Mutant

NETWORK, PLAN = 'inference/fused/cpu/network.h', 'inference/fused/cpu/plan.h'
CPU, CASCADE = 'inference/fused/cpu/__init__.py', 'inference/cascade.py'
AS_MASKED = 'fused_cpu::a_routed_network_is_computed_as_under_masked_execution'
STATIC = 'fused_cpu::a_static_network_is_computed'
GOES_ON = 'fused_cpu::who_is_unsure_goes_on'
ANY_BATCH = 'fused_cpu::an_image_gets_the_same_answer_in_any_batch_on_any_device_after_any_network'

FUSED_CPU = (
    Mutant(
        'a static network heeds a threshold',
        NETWORK,
        'net_.deciding == Deciding::kNobody || v[k] >= threshold',
        'v[k] >= threshold',
        (STATIC, 'cascade::each_image_is_answered_by_the_mean_of_the_first_that_are_sure_of_it'),
    ),
    Mutant(
        'a tie skips',
        NETWORK,
        '|| v[k] >= threshold',
        '|| v[k] > threshold',
        ('fused_cpu::a_tie_runs_and_the_threshold_counts',),
    ),
    Mutant(
        'a router is asked about what the block before it read',
        NETWORK,
        '    if (!in_place) advance();\n    is_pooled_ = false;\n',
        '    if (!in_place) advance();\n',
        (AS_MASKED,),
    ),
    Mutant(
        'a projected shortcut that is all there is is no ReLU',
        NETWORK,
        'relu(images_[1]);',
        '',
        (AS_MASKED, 'fused_cpu::all_blocks_may_run_and_none'),
    ),
    Mutant(
        'what was in memory stays around the image',
        NETWORK,
        'std::fill(image.at, image.at + image.numbers(), 0.0f);',
        '',
        (ANY_BATCH, AS_MASKED),
    ),
    Mutant(
        'option A pads channels behind',
        NETWORK,
        'const int64_t before = (to.channels - from.channels) / 2;',
        'const int64_t before = 0;',
        (AS_MASKED, STATIC),
    ),
    Mutant(
        'pooling reads no left neighbour', NETWORK, '(2 * x - 1) * from.channels', '2 * x * from.channels', (STATIC,)
    ),
    Mutant(
        'the mean leaves out pixels that fill no four',
        NETWORK,
        'for (; x < image.size; ++x, at += image.channels) sums[0] += load(at);',
        '',
        (STATIC,),
    ),
    Mutant(
        'noise moves one of two outputs',
        NETWORK,
        '(noise_[2 * k + 1] - noise_[2 * k])',
        'noise_[2 * k]',
        (AS_MASKED,),
    ),
    Mutant(
        'who does not go on has the last answer',
        NETWORK,
        'std::copy(first_.begin(), first_.end(), logits);',
        '',
        (GOES_ON,),
    ),
    Mutant('how unsure it is leaves out the bias', NETWORK, ' + end.bias;', ';', (GOES_ON,)),
    Mutant(
        'the next stage is joined of its kept end alone', NETWORK, 'if (end.goes_down) {', 'if (false) {', (GOES_ON,)
    ),
    Mutant('all stages resume the first end', NETWORK, 'images_[kImages + end.kept]', 'images_[kImages]', (GOES_ON,)),
    Mutant(
        'a bottleneck is as large inside as what it reads',
        NETWORK,
        'strided(from->size, block.convs[i].stride)',
        'from->size',
        (STATIC,),
    ),
    Mutant(
        'weights of another network are taken',
        PLAN,
        'return left_ == 0;',
        'return true;',
        ('fused_cpu::arrays_of_another_network_are_refused',),
    ),
    Mutant(
        'it is the default for every network that it computes',
        CPU,
        'return max(sizes) <= MOST_WEIGHTS and is_possible(model)',
        'return is_possible(model)',
        ('fused_cpu::it_is_the_default_for_small_networks_in_float32',),
    ),
    Mutant(
        'it is the default in bfloat16 too',
        CPU,
        'jnp.dtype(model.dtype) == jnp.float32 and ',
        '',
        ('fused_cpu::it_is_the_default_for_small_networks_in_float32',),
    ),
    Mutant(
        'a cascade is exported with what only this machine has',
        CASCADE,
        'compacted = _forward(by_xla,',
        'compacted = _forward(networks,',
        ('cascade::it_is_exported_as_any_network_is',),
    ),
)

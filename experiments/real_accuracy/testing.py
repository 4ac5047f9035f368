"""What is asked of a run's network: where its thresholds lie, by training images, and all numbers of the test images.

What variants differ in is known here; how each thing is found, in `evaluation`.
"""

from typing import Any

import numpy as np

from codinet_jax.evaluation import controls
from experiments.real_accuracy import evaluation, gates, images, methods
from experiments.real_accuracy.progress import log

DIAL = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


def accuracy_of_rounded_rates(judge: evaluation.Judge, variables: Any, calibration: images.Images) -> float:
    """In per cent, before training, where a block runs if its rate is a half or more."""
    answers = judge.answers(variables, calibration.images_NxHxWxC, knobs=judge.knobs(heed=0.0, noise=0.0))
    accuracy, num_images = answers.accuracy(calibration.labels_N), len(calibration.labels_N)
    log(f'evaluation is compiled; at rates rounded to 0 and 1 {accuracy:.2f} % of {num_images} training views')
    return accuracy


def shift(
    judge: evaluation.Judge, variables: Any, variant: str, target_macs: float, calibration: images.Images
) -> float:
    """Of all logit margins, so that the mean image costs what it should."""
    if variant not in methods.LEARNT:
        return 0.0
    return judge.match_cost(variables, calibration.images_NxHxWxC, target_macs)


def shifted(variables: Any, shift: float) -> Any:
    return gates.lowered(variables, np.full(len(gates.block_names(variables)), -shift))


def fixed(judge: evaluation.Judge, averages: Any, variant: str, target_macs: float, calibration: images.Images) -> Any:
    """Averaged variables whose thresholds are fixed: block by block for rank gates, by one shift for others."""
    if variant not in methods.LEARNT or variant == 'rungs':
        return averages
    if methods.is_ranked(variant):
        found = judge.fix_thresholds(averages, calibration.images_NxHxWxC[: judge.batch])
    else:
        found = shifted(averages, shift(judge, averages, variant, target_macs, calibration))
    answers = judge.answers(found, calibration.images_NxHxWxC)
    log(f'thresholds fixed: {judge.macs(answers) / 1e6:.2f} MMACs', np.round(answers.decisions.mean(0), 2).tolist())
    return found


def numbers(
    judge: evaluation.Judge,
    variables: Any,
    variant: str,
    test: images.Images,
    answers: evaluation.Answers,
    is_free_n: np.ndarray,
    shuffles: int,
    is_cheap_wrong_N: np.ndarray | None,
) -> dict[str, Any]:
    """All that is told of the test images.

    Args:
      judge: of the network.
      variables: at the thresholds that are tested.
      variant: of the run.
      test: the images.
      answers: to them.
      is_free_n: blocks that may be skipped by the architecture.
      shuffles: times that routes are shuffled, of each kind.
      is_cheap_wrong_N: the images that a cheap network is wrong on, where one was asked.
    """
    found = evaluation.describe(answers, test.labels_N, judge.costs, is_free_n)
    found |= {'agreement': None, 'shuffled': None, 'dial': None, 'correlation_with_cheap_error': None}
    if variant not in ('static', 'pruned'):  # elsewhere routes differ
        cost_N = answers.decisions @ np.asarray(judge.costs.blocks_n, float)
        is_wrong_N = answers.predictions != test.labels_N
        found['agreement'] = evaluation.agreement(judge, variables, test)
        found['shuffled'] = evaluation.shuffled(judge, variables, test, answers, shuffles)
        found['correlation_with_own_error'] = controls.cost_error_correlation(cost_N, is_wrong_N)
        if is_cheap_wrong_N is not None:
            found['correlation_with_cheap_error'] = controls.cost_error_correlation(cost_N, is_cheap_wrong_N)
    if variant in methods.LEARNT and variant != 'independent':
        found['dial'] = evaluation.dial(judge, variables, test, DIAL)
    return found

"""Turns a ResNet trained elsewhere into weights to start from:

    python -m codinet_jax.import_weights --source=resnet50.safetensors --output=resnet50.npz

Takes the state dict of torchvision's or timm's resnet50, resnet101 or resnet152, as .safetensors, or as .pth or .pt
where PyTorch is installed. Train from it with `--config.init_from=resnet50.npz`; routers start fresh.
"""

import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from codinet_jax import doors
from codinet_jax.errors import InputError

SOURCE = flags.DEFINE_string('source', None, 'The weights to read: a .safetensors, .pth or .pt file.')
OUTPUT = flags.DEFINE_string('output', None, 'A new .npz file to write.')


def main(argv: Sequence[str]) -> None:
    del argv
    if SOURCE.value is None:
        raise InputError('Say which weights: --source=FILE.safetensors, or a .pth.')
    if OUTPUT.value is None:
        raise InputError('Say where to: --output=FILE.npz.')
    source, output = (pathlib.Path(path).expanduser() for path in (SOURCE.value, OUTPUT.value))
    if output.exists():
        raise InputError(f'{output} is there already: give another --output.')

    from codinet_jax import workdir
    from codinet_jax.models import pretrained

    tensors = read(source)
    depth = pretrained.find_depth(tensors, str(source))
    variables = pretrained.from_torch(tensors, depth, str(source))
    workdir.write_weights_file(output, variables)
    params = variables['params']
    millions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    print(f'{source}: ResNet-{depth}, {millions:.2f} M parameters, {params["head"]["bias"].size} classes')
    print(
        f"written to {output}; torchvision's and timm's networks stride on the 3x3 convolution, so train with "
        f'--config=configs/imagenet_r50.py --config.model.depth={depth} --config.model.stride_on=3x3 '
        f'--config.init_from={output}'
    )


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, without the 'module.' that a parallel wrapper puts before every one.

    Raises:
      InputError: it is not there, is of another kind, is damaged, or needs PyTorch where there is none.
    """
    readers = {'.safetensors': _read_safetensors, '.pth': _read_torch, '.pt': _read_torch}
    if path.suffix not in readers:
        raise InputError(f'{path} is not a {", ".join(readers)} file: give --source one that is.')
    if not path.is_file():
        raise InputError(f'{path} is not there: give --source a file that is.')
    tensors = readers[path.suffix](path)
    wrapper = 'module.' if all(name.startswith('module.') for name in tensors) else ''
    return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # a type that numpy does not have is told in more than one way
        raise InputError(f'{path} cannot be read as safetensors ({error}): fetch it again, or give another.') from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'{path} takes PyTorch to read: pip install torch, or give the weights as .safetensors.'
        ) from error
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
        return {str(name): _from_tensor(torch, tensor) for name, tensor in _state_dict(content).items()}
    except pickle.UnpicklingError as error:  # its own message advises to trust the file
        raise InputError(
            f'{path} holds more than tensors, or is damaged, and is not unpickled: save the state_dict() alone, or '
            'give the weights as .safetensors.'
        ) from error
    except Exception as error:  # readers of zip files and pickles raise whatever they stumble over
        raise InputError(
            f'{path} cannot be read as a state dict ({_first_sentence(error)}): fetch it again, or give another.'
        ) from error


def _state_dict(content: Any) -> Mapping[str, Any]:
    """The tensors by name, whether the file holds them or a training run's record of them."""
    for wrapper in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            return content[wrapper]
    if not isinstance(content, Mapping):
        raise TypeError(f'it holds a {type(content).__name__}')
    return content


def _from_tensor(torch: Any, tensor: Any) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f'it holds a {type(tensor).__name__} beside tensors')
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _first_sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition('. ')[0]


if __name__ == '__main__':
    doors.open_door(main)

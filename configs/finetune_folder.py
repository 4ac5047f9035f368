"""A trained ResNet-18 made cheaper on photographs of your own, a folder for each class:

    codinet import_weights --source=resnet18.pth --output=resnet18.npz
    codinet main --config=finetune_folder:static --config.data_dir=DIR --config.init_from=resnet18.npz
    codinet main --config=finetune_folder --config.data_dir=DIR \
        --config.init_from=runs/finetune_folder_static/weights.npz --config.distillation.weight=0.5

The second command teaches the network your classes, the third to skip, while the network of the second teaches it.
"""

from ml_collections import ConfigDict

from codinet_jax.config import default, from_weights


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = from_weights.config(0.6, 'cosine', epochs=(20.0, 5.0), learning_rates=(0.02, 0.005), warmup_epochs=1.0)
    config.dataset = 'folder'
    config.batch_size = 32
    config.model.backbone = 'imagenet_resnet'
    config.model.depth = 18
    config.routing.initial_run_rate = 0.9  # what was trained goes on running at first
    config.eval_batch_size = 64
    config.eval_every_epochs = 5.0
    config.log_every_steps = 50
    return default.with_variant(config, variant)

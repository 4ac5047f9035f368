"""ResNet-50 on ImageNet. Table 3; the stride sits on the 1x1, as the 3.8 GFLOPs of the paper imply."""

from ml_collections import ConfigDict

from codinet_jax.config import default


def get_config(variant: str = 'codinet') -> ConfigDict:
    config = default.get_config()
    config.dataset = 'imagenet2012'
    config.batch_size = 256
    config.num_views = 2
    config.model.backbone = 'imagenet_resnet'
    config.model.depth = 50
    config.model.stride_on = '1x1'
    config.model.dtype = 'bfloat16'
    config.stage1.epochs = 90.0
    config.stage1.decay_epochs = (30.0, 60.0)
    config.stage2.epochs = 20.0
    config.stage2.decay_epochs = (10.0,)
    return default.with_variant(config, variant)

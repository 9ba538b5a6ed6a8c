"""A deep ladder of latent layers for faces in colour at 64 pixels, for a GPU."""

from configs import hvae


def get_config():
    config = hvae.get_config("colour")
    # 40 layers. Patches have two pixels on a side.
    config.model.layers = "1:2,2:4,4:8,8:10,16:10,32:6"
    config.model.widths = "1:384,2:384,4:384,8:384,16:256,32:128"
    config.model.num_components = 10
    config.model.remat = True
    config.train.batch_size = 64
    config.train.num_steps = 100_000
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 1000
    return config

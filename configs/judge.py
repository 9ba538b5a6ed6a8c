"""A classifier of the data set's attributes, which judges edits and samples.

Words after a colon change it: --config=configs/judge.py:colour,128
"""

from configs import conv_vae


def get_config(words=""):
    config = conv_vae.get_config(words)
    config.model.name = "classifier"
    config.model.likelihood = "gaussian"
    config.model.attributes = "auto"
    config.objective.name = "cross_entropy"
    config.optimizer.clip_norm = None
    # Pictures are few for so many labels: without these it learns them by heart.
    config.optimizer.weight_decay = 0.5
    config.train.mirror = True
    config.train.num_steps = 2000
    return config

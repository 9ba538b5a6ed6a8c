"""A conditional VAE (Sohn et al. 2015) that also draws without labels.

Words after a colon are its attributes: --config=configs/cvae.py:Smiling,Male, then
--mode=sample --workdir=runs/cvae --attributes=Smiling=1,Male=0
"""

from configs import conv_vae

# In CelebA and among the drawn faces alike.
ATTRIBUTES = "Smiling,Eyeglasses,Blond_Hair,No_Beard"


def get_config(attributes=""):
    config = conv_vae.get_config()
    config.model.attributes = attributes or ATTRIBUTES
    # Codes of this size hold the attributes as well, and the decoder reads them there:
    # what labels change is which codes are drawn.
    config.model.prior = "conditional"
    return config

"""A page in the browser on which the faces of a trained model are changed by hand.

  python -m vae_jax.explorer --workdir=runs/vae

looks.py says what a picture is made of, source.py makes it, page.py is the page, and
server.py serves it.
"""

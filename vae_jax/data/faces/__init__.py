"""Drawing a face: what `synthetic_faces` is made of."""

"""`inferlane models add`: a model file becomes a version of the store, checked and measured, or is refused."""

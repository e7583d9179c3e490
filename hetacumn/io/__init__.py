"""Files of the field: STAR, .cs, MRC, image stacks, and the archive EMPIAR."""

"""Data of one's own: conformers made with xtb, and what a data set is made of."""

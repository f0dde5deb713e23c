"""Second derivatives at work: relaxation, lowest modes, saddle points."""

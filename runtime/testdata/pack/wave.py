THEIRS = True

def textcraft(args):
    yield from ()

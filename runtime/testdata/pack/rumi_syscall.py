raise RuntimeError("a pack can not shadow the module of this name")

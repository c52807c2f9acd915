from types import SimpleNamespace


class LoRARequest(SimpleNamespace):
    def __init__(self, name, number, path):
        super().__init__(name=name, number=number, path=path)

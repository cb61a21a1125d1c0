import dataclasses

import sibling


@dataclasses.dataclass
class Result:
    total: int


def run(input_data, context=None):
    return dataclasses.asdict(Result(sibling.double(input_data["n"])))

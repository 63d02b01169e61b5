"""Compiles the messages of the Open Inference Protocol to the descriptors that the gRPC server reads.

    python scripts/compile_proto.py

Run it after a change of `producer_api/grpc_server/open_inference.proto`; a test compares both files. The compiler is
that of grpcio-tools, from `requirements-dev.lock`.
"""

import sys
from pathlib import Path

from grpc_tools import protoc

_FOLDER = Path(__file__).parents[1] / "producer_api" / "grpc_server"
_SOURCE = _FOLDER / "open_inference.proto"


def compile_to(descriptors: Path) -> None:
    """Write the descriptors of the protocol to this file.

    Raises:
        SystemExit: the compiler found a fault; it has said which.
    """
    arguments = ["protoc", f"--proto_path={_FOLDER}", f"--descriptor_set_out={descriptors}", str(_SOURCE)]
    if protoc.main(arguments) != 0:
        sys.exit(f"{_SOURCE} does not compile")


if __name__ == "__main__":
    compile_to(_SOURCE.with_suffix(".binpb"))

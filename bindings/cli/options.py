"""Options that several commands have."""

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="Compute type: auto, bfloat16, float32.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

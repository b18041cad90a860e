"""The key that signs evidence. `maestro init` made it; it lies in `keys` of the project's state."""

from maestro_dagster.translate.resource import SignerResource

signer = SignerResource()
